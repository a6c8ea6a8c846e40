"""What goes out to people, as values. Personal parts never appear in a repr."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class EmailText:
    """One text for many people. Personal parts stand as `-name-` tags and are filled by the
    provider from each copy's values; the values are already escaped for where they stand."""

    subject: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class EmailCopy:
    notice_id: str
    to: str = field(repr=False)
    values: Mapping[str, str] = field(repr=False)
    """Tag name without dashes -> text."""


@dataclass(frozen=True, slots=True)
class SmsCopy:
    notice_id: str
    to: str = field(repr=False)
    body: str = field(repr=False)
    validity: timedelta


@dataclass(frozen=True, slots=True)
class BannerCopy:
    notice_id: str
    account_id: str
    title: str
    body: str = field(repr=False)
    link: str | None = field(repr=False)
    code: str = field(repr=False)


def notice_id(ref: str, step: str, generation: int) -> str:
    """Our own opaque id of one message to one person: `acc-….notify.email.1`."""
    return f"{ref}.{step}.{generation}"
