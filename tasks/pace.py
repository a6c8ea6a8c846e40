"""A platform's quota, shared by all workers through a Prefect global limit with slot decay.

A lease costs a round trip of about 100 ms, so half a second of quota is leased at a time and
spent evenly inside. Limits fail closed: one that does not exist stops the run.
"""

import asyncio
import time

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import rate_limit
from prefect.exceptions import ObjectNotFound

from recovery.errors import Misconfigured, Unreachable
from recovery.policy import Quota
from tasks.breaker import Holding
from tasks.prefect_api import patiently

SET_UP = "Create the limits with `python -m flows.setup --runbook` and the runbook's name"
LEASE_TIMEOUT = 120.0
"""Seconds to wait for a lease before the run stops: the limit is then certainly stuck."""


def limit_name(system: str) -> str:
    """The global limit that holds the quota of one outside system."""
    return f"recovery-{system}"


class QuotaPace:
    """Awaited before every request; returns when the request may go: when the system answers at
    all, as far as its breaker knows, and the quota has room.

    One per system and process. Leftover slots of a lease go stale with it: a lease is spent
    within about a second or not at all, so that a pause never turns into a burst.
    """

    def __init__(self, system: str, quota: Quota, breaker: Holding | None = None) -> None:
        self._breaker = breaker
        self._limit = limit_name(system)
        self._interval = 1 / quota.per_second
        self._lease = max(1, int(quota.per_second / 2))
        self._left = 0
        self._next = 0.0
        self._lock = asyncio.Lock()

    async def __call__(self) -> None:
        if self._breaker is not None:
            await self._breaker.admitted()
        async with self._lock:
            now = time.monotonic()
            if self._left == 0 or now - self._next > 1.0:
                await self._acquire()
                now = time.monotonic()
                self._next = max(now, self._next)
                self._left = self._lease
            self._left -= 1
            due = self._next
            self._next = max(now, due) + self._interval
        delay = due - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)

    def seen(self, answered: bool) -> None:
        """What became of an attempt."""
        if self._breaker is not None:
            self._breaker.seen(answered)

    async def _acquire(self) -> None:
        async def lease() -> None:
            # Leased twice where the answer was lost: a slower second, never a faster one.
            await rate_limit(
                self._limit, occupy=self._lease, strict=True, timeout_seconds=LEASE_TIMEOUT
            )

        try:
            await patiently(lease)
        except Unreachable:
            raise
        except Exception as error:
            raise Misconfigured(
                "Lease a part of the quota",
                subject=self._limit,
                expected="a global limit with slot decay",
                got=type(error).__name__,
                advice=f"{SET_UP}, then resume the run.",
            ) from error


async def check_limit(system: str, quota: Quota) -> None:
    """Raises Misconfigured unless the system's limit exists, is active and decays."""
    name = limit_name(system)
    advice = f"{SET_UP}, then start the run again."
    async with get_client() as client:
        try:
            limit = await client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            raise Misconfigured(
                "Look up a global limit",
                subject=name,
                expected="it to exist",
                got="none of that name",
                advice=advice,
            ) from None
    lease = max(1, int(quota.per_second / 2))
    if not limit.active or not limit.slot_decay_per_second or limit.limit < lease:
        raise Misconfigured(
            "Look up a global limit",
            subject=name,
            expected=f"an active limit of at least {lease} slots with slot decay",
            got=f"limit {limit.limit}, decay {limit.slot_decay_per_second}, "
            f"{'active' if limit.active else 'inactive'}",
            advice=advice,
        )
