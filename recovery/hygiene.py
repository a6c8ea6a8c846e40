"""Scheduled rotations: the id of one in the ledger, and which one is gone on with."""

import re
from collections.abc import Collection, Sequence
from datetime import datetime

from recovery.incident import Incident

_ID = re.compile(r"ROT-[0-9]{4}-[0-9]{4,5}")
_MOST_A_DAY = 10


def is_scheduled(record_id: str) -> bool:
    return _ID.fullmatch(record_id) is not None


def scheduled_id(now: datetime, taken: Collection[str]) -> str:
    """`ROT-2026-1124` for the 24th of November; a further one of that day gets a digit more."""
    first = f"ROT-{now:%Y-%m%d}"
    for number in range(_MOST_A_DAY):
        wanted = first if number == 0 else f"{first}{number}"
        if wanted not in taken:
            return wanted
    raise ValueError(f"{_MOST_A_DAY} scheduled rotations a day are enough")


def unfinished(records: Sequence[Incident]) -> str:
    """The scheduled rotation that an earlier run left open, or empty: it comes before a new one,
    for its secrets carry its own marker."""
    open_ones = [r.incident_id for r in records if r.closed_at is None]
    return next((one for one in reversed(open_ones) if is_scheduled(one)), "")


def in_the_way(records: Sequence[Incident], rotating: Collection[str]) -> str:
    """The open incident whose own rotation is under way, or empty: two runs must not move the
    labels of one client. `rotating` are the incidents that have begun and not retired."""
    return next(
        (
            r.incident_id
            for r in records
            if r.closed_at is None and not is_scheduled(r.incident_id) and r.incident_id in rotating
        ),
        "",
    )
