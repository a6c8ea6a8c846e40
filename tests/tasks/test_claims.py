"""A task's claim: kept while it lives, lost when it is silent, and nothing begun after that."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ledger import Ledger
from recovery.errors import TakenOver
from tasks.claims import SURE_FOR, Claim

KEY = b"a ledger key for the tests only!"
INCIDENT = "INC-2026-0142"
LIFE = timedelta(seconds=1.2)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", key=KEY, clock=lambda: datetime.now(UTC))
    ledger.migrate()
    yield ledger
    ledger.close()


def claim(ledger: Ledger) -> Claim:
    return Claim(ledger, INCIDENT, ["people.0.0"], LIFE)


async def test_a_living_holder_keeps_it_beyond_its_life(ledger: Ledger) -> None:
    first, second = claim(ledger), claim(ledger)
    await first.take()
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.take())
    await asyncio.sleep(2 * LIFE.total_seconds())
    first.sure()
    assert not waiting.done()
    keeping.cancel()
    await first.drop()
    await asyncio.wait_for(waiting, 5)
    second.sure()
    # Who let go left nothing in doubt: the next one need not wait for what may be under way.
    assert second.settled_down(timedelta(hours=1))


async def test_a_frozen_holder_begins_nothing_more(ledger: Ledger) -> None:
    """Two runs with one batch: the old one is unsure before the new one can have it."""
    frozen, second = claim(ledger), claim(ledger)
    await frozen.take()
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = asyncio.create_task(second.take())
    unsure_at = 0.0
    while not waiting.done():
        try:
            frozen.sure()
        except TakenOver:
            unsure_at = unsure_at or loop.time()
        await asyncio.sleep(0.005)
    assert 0 < unsure_at - began <= LIFE.total_seconds() * SURE_FOR + 0.2
    assert unsure_at < loop.time()
    # What the old one had under way may still come to light: nothing is sent again at once.
    assert not second.settled_down(timedelta(seconds=60))
    # Awake again, it does not get its work back, and the new one keeps it.
    await asyncio.wait_for(frozen.keep(), 5)
    with pytest.raises(TakenOver, match=r"people\.0\.0"):
        frozen.sure()
    await frozen.drop()
    second.sure()
