"""What goes out to people, as values. Personal parts never appear in a repr."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from recovery.accounts import Act

_NOTICE_ID = re.compile(r"(acc-[a-z0-9]{1,64})\.([a-z_]+(?:\.[a-z_]+)*)\.(\d{1,9})", re.ASCII)


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
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Header lines of this copy alone."""


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
    signature: str | None = field(default=None, repr=False)
    """The signed notice (recovery.notices) that proves the banner is ours."""


def notice_id(ref: str, step: str, generation: int) -> str:
    """Our own opaque id of one message to one person: `acc-….notify.email.1`."""
    return f"{ref}.{step}.{generation}"


def read_notice_id(given: str) -> Act | None:
    """The act whose message it is; None for anything that `notice_id` did not make."""
    found = _NOTICE_ID.fullmatch(given)
    return Act(found[1], found[2], int(found[3])) if found else None
