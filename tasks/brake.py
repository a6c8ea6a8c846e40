"""The brake: asked before every act whether another one may begin.

It is pulled by a stop order in the ledger (the `hold` deployment), by SIGTERM (Cancel in the UI, a
worker that ends) and by a lease that another run has taken. What is under way is let finish.
"""

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from ledger import Ledger
from recovery.errors import Stopped

LOOK_EVERY = 1.0
"""Seconds for which a look into the ledger counts; sends of milliseconds share one."""
AGAIN = "A later run goes on from there."

_pulled: list[str] = []
"""Why nothing more may begin in this process. One process is one run, with all its sub-runs."""

T = TypeVar("T")


def pull(why: str) -> None:
    """From a signal handler or a heartbeat: nothing more begins in this process."""
    _pulled.append(why)


def pulled() -> bool:
    return bool(_pulled)


def let_go() -> None:
    """The signal that pulled the brake is being passed on; for a process that goes on after all."""
    _pulled.clear()


class Brake:
    """The brake of one incident, as one process sees it."""

    def __init__(self, ledger: Ledger, incident_id: str) -> None:
        self._ledger = ledger
        self._incident_id = incident_id
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._order = ""

    async def check(self) -> None:
        """Raises Stopped where nothing more may begin."""
        if not _pulled and time.monotonic() - self._looked_at > LOOK_EVERY:
            async with self._lock:
                if time.monotonic() - self._looked_at > LOOK_EVERY:
                    await self._look()
        why = _pulled[0] if _pulled else self._order
        if why:
            raise Stopped("Begin another act", subject=self._incident_id, got=why, advice=AGAIN)

    async def _look(self) -> None:
        order = await asyncio.to_thread(self._ledger.standing_stop, self._incident_id)
        self._looked_at = time.monotonic()
        self._order = (
            f"stopped by {order.ordered_by} at {order.at:%H:%M:%S} UTC: {order.reason}"
            if order
            else ""
        )

    async def unless(self, work: Awaitable[T]) -> T:
        """Waits for something long of which it is harmless to lose the end, such as a CI job that
        is looked for again; raises Stopped as soon as the brake is pulled."""
        waiting = asyncio.ensure_future(work)
        try:
            while True:
                done, _ = await asyncio.wait({waiting}, timeout=0.5)
                if done:
                    return waiting.result()
                await self.check()
        finally:
            if not waiting.done():
                waiting.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await waiting
