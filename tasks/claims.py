"""Work that must not be done twice is claimed in the ledger first, and the claim is asked about
before each act: a run that was taken for dead and lives on stops here (docs/decisions/0005)."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from prefect import get_run_logger
from prefect.exceptions import MissingContextError

from ledger import Ledger
from recovery.accounts import Account
from recovery.errors import RecoveryError, TakenOver, Unknown, Unreachable
from recovery.incident import Claimed
from tasks.case import Case

SURE_FOR = 0.75
"""The part of a claim's life in which something may be begun. The rest is for what is under way,
and for clocks that differ from machine to machine."""
RENEWED_AT = 0.25
LOOKS = 20
"""How often a claim in the way is looked at during its life."""
PATIENCE = timedelta(minutes=30)


class Claim:
    """One task's claim, renewed while the task lives."""

    def __init__(self, ledger: Ledger, incident_id: str, work: Sequence[str], life: timedelta):
        self._ledger = ledger
        self._incident_id = incident_id
        self._work = work
        self._life = life
        self._holder = uuid4().hex
        self._sure_until = (float("-inf"), datetime.min.replace(tzinfo=UTC))
        self.lapsed_at: datetime | None = None
        """When somebody who never let go lost this work; he may have had something under way."""

    async def take(self) -> None:
        """Returns once it is ours. Unreachable where another run keeps it too long."""
        give_up = time.monotonic() + PATIENCE.total_seconds()
        told = False
        while True:
            asked = time.monotonic()
            now = datetime.now(UTC)
            try:
                got = await asyncio.to_thread(
                    self._ledger.claim,
                    self._incident_id,
                    self._work,
                    holder=self._holder,
                    now=now,
                    until=now + self._life,
                )
            except Unknown:
                # Taken or not: asked again, the same holder gets it either way.
                got = Claimed(False)
            if got.taken:
                self._be_sure(asked, now)
                self.lapsed_at = got.lapsed_at
                return
            if not told:
                told = True
                _logger().warning(
                    "%s: waiting for the run that does this now, or for its claim to lapse (%s)",
                    ", ".join(self._work),
                    f"{got.free_at:%H:%M:%S} UTC" if got.free_at else "soon",
                )
            if asked > give_up:
                raise Unreachable(
                    "Claim a piece of work",
                    subject=self._work[0],
                    got="another run that keeps it",
                    advice="Look for a second run on this incident and let it end.",
                )
            await asyncio.sleep(self._life.total_seconds() / LOOKS)

    async def keep(self) -> None:
        """Renews it until cancelled or lost. A ledger that is away costs the claim in time."""
        while True:
            await asyncio.sleep(self._life.total_seconds() * RENEWED_AT)
            asked = time.monotonic()
            now = datetime.now(UTC)
            with suppress(Unreachable, Unknown):
                kept = await asyncio.to_thread(
                    self._ledger.renew_claims,
                    self._incident_id,
                    self._holder,
                    now=now,
                    until=now + self._life,
                )
                if kept < len(self._work):
                    self._sure_until = (float("-inf"), now)
                    return
                self._be_sure(asked, now)

    async def drop(self) -> None:
        with suppress(RecoveryError):
            # What stays lapses by itself.
            await asyncio.to_thread(self._ledger.drop_claims, self._incident_id, self._holder)

    def sure(self) -> None:
        """Raises TakenOver unless the work is certainly still ours."""
        ticks, moment = self._sure_until
        if time.monotonic() < ticks and datetime.now(UTC) < moment:
            return
        raise TakenOver(
            "Begin another act",
            code="taken_over",
            subject=self._work[0],
            expected="this run to have the work still",
            got="silence for too long, or another run that has it now",
            advice="Nothing was begun. The other run goes on from here.",
        )

    def _be_sure(self, asked: float, now: datetime) -> None:
        # By two clocks: one stands still while a machine sleeps, the other may be set back.
        safe = self._life * SURE_FOR
        self._sure_until = (asked + safe.total_seconds(), now + safe)

    def settled_down(self, lag: timedelta) -> bool:
        """True where nothing that an earlier holder may have begun can still come to light."""
        return self.lapsed_at is None or datetime.now(UTC) - self.lapsed_at > lag


def _logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    """The run's own, where there is a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("recovery.claims")


_held: ContextVar[Claim | None] = ContextVar("claim", default=None)


@asynccontextmanager
async def claimed(case: Case, work: Iterable[str]) -> AsyncIterator[None]:
    """All of `work` is ours inside, and nobody else's; waits until it is."""
    names = sorted(set(work))
    if not names:
        yield
        return
    claim = Claim(case.ledger, case.incident_id, names, case.policy.crash.claim)
    await claim.take()
    keeping = asyncio.create_task(claim.keep())
    token = _held.set(claim)
    try:
        yield
    finally:
        _held.reset(token)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await claim.drop()


def held() -> Claim:
    """The claim that this task works under. LookupError outside of `claimed`."""
    claim = _held.get()
    if claim is None:
        raise LookupError("this is done under a claim alone")
    return claim


def people(accounts: Iterable[Account]) -> set[str]:
    """Telling people is claimed by batch: an account keeps its batch for life."""
    return {f"people.{account.wave}.{account.batch}" for account in accounts}
