"""Freeze windows: weekly stretches in which no client secret is rotated (`rotate.freeze`)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOMENT = re.compile(r"(mon|tue|wed|thu|fri|sat|sun) ([01][0-9]|2[0-3]):([0-5][0-9])")
_WEEK = 7 * 24 * 60


@dataclass(frozen=True, slots=True)
class FreezeWindow:
    """From one moment of the week to another, by the wall clock of `zone`; may go over Sunday."""

    start: str
    end: str
    zone: ZoneInfo
    reason: str = ""

    def __post_init__(self) -> None:
        if minute_of_week(self.start) == minute_of_week(self.end):
            raise ValueError("a freeze window that ends when it starts")

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{self.start} to {self.end} {self.zone.key}{why}"


def minute_of_week(moment: str) -> int:
    """`fri 16:00` -> minutes since Monday 00:00. ValueError for anything else."""
    found = _MOMENT.fullmatch(moment.strip().lower())
    if found is None:
        raise ValueError('a moment of the week such as "fri 16:00"')
    return (_DAYS.index(found[1]) * 24 + int(found[2])) * 60 + int(found[3])


def holding(windows: Iterable[FreezeWindow], now: datetime) -> str:
    """Why nothing is rotated now and until when; empty where no window holds.

    The same text for as long as a window lasts, so that an approval can be bound to it.
    """
    for window in windows:
        here = now.astimezone(window.zone)
        minute = (here.weekday() * 24 + here.hour) * 60 + here.minute
        start, end = minute_of_week(window.start), minute_of_week(window.end)
        length, since = (end - start) % _WEEK, (minute - start) % _WEEK
        if since < length:
            # By the wall clock: a change to summer time does not move the end.
            until = (here + timedelta(minutes=length - since)).replace(second=0, microsecond=0)
            return f"freeze window {window}, until {until:%Y-%m-%d %H:%M} {window.zone.key}"
    return ""
