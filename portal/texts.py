"""The catalog: what the pages say, in the language that the person's browser asks for."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

DEFAULT = "en"
_RANGES = 20
"""Language ranges that are looked at; the header is the client's to lengthen."""


@dataclass(frozen=True, slots=True)
class Texts:
    """One language. `texts("code.title")`; places in braces are filled from the arguments."""

    tag: str
    sentences: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """KeyError for an unknown key or a place that was not given."""
        return self.sentences[key].format_map(values)


@cache
def catalog() -> Mapping[str, Texts]:
    """All languages by their tag. The files belong to this package and do not change."""
    folder = resources.files("portal") / "catalog"
    found: dict[str, Texts] = {}
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            tag = entry.name.removesuffix(".yaml")
            sentences = yaml.safe_load(entry.read_text(encoding="utf-8"))
            found[tag] = Texts(tag, {str(k): str(v) for k, v in sentences.items()})
    return found


def places(sentence: str) -> set[str]:
    """The names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def choose(accept_language: str) -> Texts:
    """By quality, then by order (RFC 9110 12.5.4); a region falls back to its language."""
    wanted: list[tuple[float, int, str]] = []
    for place, item in enumerate(accept_language.split(",")[:_RANGES]):
        name, _, parameters = item.partition(";")
        quality = _quality(parameters)
        if quality > 0:
            wanted.append((-quality, place, name.strip().lower()))
    known = catalog()
    for _, _, name in sorted(wanted):
        if name == "*":
            break
        if (tag := name.partition("-")[0]) in known:
            return known[tag]
    return known[DEFAULT]


def _quality(parameters: str) -> float:
    name, _, value = parameters.partition("=")
    if name.strip().lower() != "q":
        return 1.0
    try:
        return min(1.0, max(0.0, float(value)))
    except ValueError:
        return 0.0
