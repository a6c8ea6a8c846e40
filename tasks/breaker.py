"""Holds requests to a system that keeps failing, says why in the run's log, and lets them go on.

`recovery.breaker` decides; here is the waiting. A run waits for an outage's end instead of failing
account by account.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from recovery.breaker import Admission, Breaker, BreakerRule, Turn
from recovery.errors import Outage

LOOK = 0.2
"""Seconds between two looks while a request waits; `longest` bounds how many."""


class Holding:
    """The breaker of one system in one process."""

    def __init__(
        self,
        system: str,
        rule: BreakerRule,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._system = system
        self._rule = rule
        self._breaker = Breaker(rule)
        self._clock = clock
        self._sleep = sleep
        self._since = 0.0

    async def admitted(self) -> None:
        """Returns when a request may go. Raises Outage where the system stays away."""
        while True:
            match self._breaker.admit(self._clock()):
                case Admission.GO | Admission.PROBE:
                    return
                case Admission.GIVE_UP:
                    raise Outage(
                        f"Wait for {self._system} to answer again",
                        expected="an answer",
                        got=f"none for {self._rule.longest.total_seconds():.0f} s",
                        advice="Nothing more was sent. Start the run again when it is back: it "
                        "goes on from here.",
                    )
                case Admission.WAIT:
                    await self._sleep(LOOK)

    def seen(self, answered: bool) -> None:
        """Counts an attempt; the log says when this opens or closes."""
        now = self._clock()
        match self._breaker.outcome(answered, now):
            case Turn.OPENED:
                self._since = now
                failed, looked_at = self._breaker.failed()
                _log().warning(
                    "%s fails: %s of the last %s requests had no answer or a server's error. "
                    "Everything that needs it waits; one request is tried every %g s or so, for "
                    "at most %g minutes.",
                    self._system,
                    failed,
                    looked_at,
                    self._rule.probe.total_seconds(),
                    self._rule.longest.total_seconds() / 60,
                )
            case Turn.CLOSED:
                _log().warning("%s answers again after %.0f s", self._system, now - self._since)


def _log() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("recovery")
