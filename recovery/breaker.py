"""Decides whether a system that keeps failing is left alone for a while: a circuit breaker.

Closed, requests go. Where too many of the last attempts had no answer or a server error, it opens:
requests wait, one at a time goes as a probe, and the first good answer closes it again.
"""

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

_SLOWER = 1.5
_SLOWEST = timedelta(seconds=30)
_UNANSWERED = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class BreakerRule:
    """Opens when `failures` of the last `window` attempts failed; probes after `probe`, then ever
    more slowly; gives up after `longest`."""

    window: int
    failures: int
    probe: timedelta
    longest: timedelta


class Admission(StrEnum):
    GO = "go"
    PROBE = "probe"
    WAIT = "wait"
    GIVE_UP = "give up"


class Turn(StrEnum):
    """What an outcome changed."""

    NOTHING = "nothing"
    OPENED = "opened"
    CLOSED = "closed"


class Breaker:
    """The state of one system, as one process sees it. Times are seconds of a steady clock."""

    def __init__(self, rule: BreakerRule) -> None:
        self._rule = rule
        self._seen: deque[bool] = deque(maxlen=rule.window)
        self._opened: float | None = None
        self._probe_at = 0.0
        self._wait = rule.probe
        self._probing = False

    @property
    def open(self) -> bool:
        return self._opened is not None

    def failed(self) -> tuple[int, int]:
        """Failed attempts, and attempts looked at."""
        return self._seen.count(False), len(self._seen)

    def admit(self, now: float) -> Admission:
        """Whether a request may go now. PROBE is given to one at a time; one that never has an
        outcome is followed by another."""
        if self._opened is None:
            return Admission.GO
        if now - self._opened > self._rule.longest.total_seconds():
            return Admission.GIVE_UP
        if now < self._probe_at:
            return Admission.WAIT
        self._probing = True
        self._probe_at = now + _UNANSWERED.total_seconds()
        return Admission.PROBE

    def outcome(self, answered: bool, now: float) -> Turn:
        """Counts one attempt: answered means anything but silence and a server's error."""
        if self._opened is None:
            self._seen.append(answered)
            if answered or self._seen.count(False) < self._rule.failures:
                return Turn.NOTHING
            self._opened = now
            self._next_probe(now, self._rule.probe)
            return Turn.OPENED
        if answered:
            self._opened = None
            self._probing = False
            self._seen.clear()
            return Turn.CLOSED
        if self._probing:  # and not one of those that were under way when it opened
            self._next_probe(now, min(self._wait * _SLOWER, _SLOWEST))
        return Turn.NOTHING

    def _next_probe(self, now: float, wait: timedelta) -> None:
        self._probing = False
        self._wait = wait
        self._probe_at = now + wait.total_seconds()
