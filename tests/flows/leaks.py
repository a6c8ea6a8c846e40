"""Looks for personal data and secrets where none may be: in databases, results, logs and reports.

A value is found as it stands, escaped as JSON, URL or HTML write it, and inside gzip, zlib, lzma or
base64. What is found is reported by its label and place, never by its value.
"""

import base64
import binascii
import bz2
import html
import json
import lzma
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np

TOKEN = re.compile(rb"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")
"""A JSON Web Token, whoever signed it."""
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
SHORTEST = 6
"""Shorter values stand anywhere by chance; they are told apart by `bounded`."""

_KEY = 8
_DEPTH = 4
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_PACKED: tuple[tuple[bytes, Callable[[memoryview], bytes]], ...] = (
    (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(31).decompress(data)),
    (b"\x78\x01", lambda data: zlib.decompressobj().decompress(data)),
    (b"\x78\x5e", lambda data: zlib.decompressobj().decompress(data)),
    (b"\x78\x9c", lambda data: zlib.decompressobj().decompress(data)),
    (b"\x78\xda", lambda data: zlib.decompressobj().decompress(data)),
    (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor().decompress(data)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data)),
)


@dataclass(frozen=True, slots=True, order=True)
class Leak:
    """What stands where. The value itself is never kept."""

    place: str
    label: str


@dataclass(slots=True)
class Canaries:
    """The values to look for, each with a label that may be shown. `bounded` values are short:
    they count only where no letter, digit or dot touches them."""

    values: dict[str, str] = field(default_factory=dict)
    bounded: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, *values: str | None) -> None:
        for value in values:
            if value is not None and len(value) >= SHORTEST:
                self.values.setdefault(value, label)

    def add_short(self, label: str, *values: str) -> None:
        for value in values:
            self.bounded.setdefault(value, label)

    def __len__(self) -> int:
        return len(self.values) + len(self.bounded)


class Scanner:
    """Made once from the canaries; `scan` may be called for as many places as there are."""

    def __init__(self, canaries: Canaries) -> None:
        self._by_key: dict[bytes, list[tuple[bytes, str]]] = {}
        self._short: list[tuple[bytes, str]] = []
        for value, label in canaries.values.items():
            for written in _ways_to_write(value):
                if len(written) < _KEY:
                    self._short.append((written, label))
                else:
                    self._by_key.setdefault(written[:_KEY], []).append((written, label))
        self._keys = np.sort(np.frombuffer(b"".join(self._by_key) or b"\0" * _KEY, "<u8"))
        self._bounded = [
            (re.compile(rb"(?<![0-9A-Za-z.])" + value.encode() + rb"(?![0-9A-Za-z])"), label)
            for value, label in canaries.bounded.items()
        ]

    def scan(self, place: str, data: bytes) -> set[Leak]:
        """Everything found in `data` and in what is packed inside of it."""
        found: set[Leak] = set()
        for view in _views(data):
            found |= {Leak(place, label) for label in self._labels(view)}
        return found

    def _labels(self, data: bytes) -> Iterator[str]:
        if TOKEN.search(data):
            yield "a signed token"
        if PRIVATE_KEY.search(data):
            yield "a private key"
        for value, label in self._short:
            if value in data:
                yield label
        for pattern, label in self._bounded:
            if pattern.search(data):
                yield label
        for at in self._candidates(data):
            for written, label in self._by_key[data[at : at + _KEY]]:
                if data.startswith(written, at):
                    yield label

    def _candidates(self, data: bytes) -> Iterator[int]:
        """Where the first eight bytes of some value stand: eight shifted looks at whole words."""
        for shift in range(_KEY):
            usable = (len(data) - shift) // _KEY * _KEY
            if usable <= 0:
                return
            words = np.frombuffer(data, "<u8", usable // _KEY, shift)
            for word in np.flatnonzero(np.isin(words, self._keys)):
                yield shift + int(word) * _KEY


def files_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every file."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def tables_of(database: Path) -> Iterator[tuple[str, bytes]]:
    """(table, all its cells) of an SQLite file. Cells are whole here; in the file a long one is
    spread over pages, so that a search of the raw bytes alone would miss it."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            table = name.decode()
            rows = connection.execute(f'SELECT * FROM "{table}"')
            yield table, b"\n".join(_bytes(cell) for row in rows for cell in row)


def scan_all(scanner: Scanner, places: Iterable[tuple[str, bytes]]) -> set[Leak]:
    found: set[Leak] = set()
    for place, data in places:
        found |= scanner.scan(place, data)
    return found


def shown(leaks: Iterable[Leak]) -> str:
    """One line a place, for the message of a failing test."""
    places: dict[str, list[str]] = {}
    for leak in sorted(leaks):
        places.setdefault(leak.place, []).append(leak.label)
    return "\n".join(f"{place}: {', '.join(labels)}" for place, labels in places.items())


def strings_in(document: object, label: str) -> Iterator[tuple[str, str]]:
    """(label.path, text) of every text in a JSON document."""
    if isinstance(document, str):
        yield label, document
    elif isinstance(document, Mapping):
        for name, value in document.items():
            yield from strings_in(value, f"{label}.{name}")
    elif isinstance(document, list):
        for value in document:
            yield from strings_in(value, label)


def _bytes(cell: object) -> bytes:
    if isinstance(cell, bytes):
        return cell
    return b"" if cell is None else str(cell).encode()


def _ways_to_write(value: str) -> set[bytes]:
    """The value as it stands and as it looks inside JSON (twice), an address and a page."""
    once = json.dumps(value)[1:-1]
    ways = {
        value,
        once,
        json.dumps(once)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        html.escape(value),
        html.escape(value).replace("&#x27;", "&#39;"),
    }
    if re.fullmatch(r"\+\d{8,15}", value):
        ways.add(value[1:])
    return {way.encode() for way in ways}


def _views(data: bytes) -> Iterator[bytes]:
    """`data`, then all that is packed in it, then all that is packed in that."""
    for _ in range(_DEPTH):
        yield data
        data = b"\n".join(_unpacked(data))
        if not data:
            return


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What base64 and compressed streams inside of `data` hold."""
    for run in _BASE64.finditer(data):
        text = run[0].rstrip(b"=").translate(_STANDARD)
        with suppress(binascii.Error):
            yield base64.b64decode(text + b"=" * (-len(text) % 4))
    window = memoryview(data)
    for magic, unpack in _PACKED:
        at = data.find(magic)
        while at >= 0:
            with suppress(zlib.error, lzma.LZMAError, OSError, EOFError, ValueError):
                if inner := unpack(window[at:]):
                    yield inner
            at = data.find(magic, at + 1)
