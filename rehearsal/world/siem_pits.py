"""Points in time of the SIEM server: frozen snapshots with a lease, and the ids that name them."""

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from rehearsal.world.siem_documents import DocumentStore
from rehearsal.world.siem_errors import Json, context_missing, illegal, parsing

_MAX_KEEP_ALIVE = timedelta(hours=24)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(slots=True)
class PointInTime:
    number: int
    store: DocumentStore
    indices: tuple[str, ...]
    until: datetime
    ids: list[str] = field(default_factory=list)


class PointsInTime:
    """Each answer issues a new id; using an id retires those issued before it, so that a client
    which does not take the newest id along is found out. Retrying with the last used id works."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._open: dict[int, PointInTime] = {}
        self._opened = 0
        self._issued = 0

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._open)

    def open(self, store: DocumentStore, indices: tuple[str, ...], keep_alive: Json) -> str:
        """Freeze what `store` finds now; the id to search with."""
        self._forget_expired()
        until = self._clock() + _duration(keep_alive)
        self._opened += 1
        point = PointInTime(self._opened, store.frozen(), indices, until)
        self._open[point.number] = point
        return self.issue(point)

    def use(self, body: Json) -> PointInTime:
        """The snapshot that a search's `pit` names, its lease prolonged as asked there."""
        if not isinstance(body, Mapping) or not isinstance(body.get("id"), str):
            raise parsing("[point_in_time] requires an [id]")
        for key in body:
            if key not in ("id", "keep_alive"):
                raise parsing(f"[point_in_time] unknown field [{key}]")
        self._forget_expired()
        number = _number(body["id"])
        point = self._open.get(number)
        if point is None or body["id"] not in point.ids:
            raise context_missing(str(number))
        del point.ids[: point.ids.index(body["id"])]
        if (keep_alive := body.get("keep_alive")) is not None:
            point.until = max(point.until, self._clock() + _duration(keep_alive))
        return point

    def issue(self, point: PointInTime) -> str:
        self._issued += 1
        text = f"pit/{point.number}/{self._issued}"
        issued = base64.urlsafe_b64encode(text.encode()).decode()
        point.ids.append(issued)
        return issued

    def close(self, given: Json) -> PointInTime | None:
        """Any id of the snapshot closes it. None if there was none."""
        self._forget_expired()
        return self._open.pop(_number(given), None)

    def _forget_expired(self) -> None:
        now = self._clock()
        for number in [number for number, point in self._open.items() if point.until <= now]:
            del self._open[number]


def _number(given: Json) -> int:
    try:
        kind, number, _ = base64.urlsafe_b64decode(str(given)).decode().split("/")
        if kind == "pit":
            return int(number)
    except ValueError:
        pass
    raise illegal("invalid id: [the id given is not one of a point in time]")


def _duration(given: Json) -> timedelta:
    match = re.fullmatch(r"(\d+)([smhd])", str(given))
    if match is None:
        raise illegal(f"failed to parse setting [keep_alive] with value [{given}] as a time value")
    duration = timedelta(**{_UNITS[match.group(2)]: int(match.group(1))})
    if duration > _MAX_KEEP_ALIVE:
        raise illegal(f"Keep alive for request ({given}) is too large. It must be less than (1d)")
    return duration
