"""The brake: what stops, how fast, and what is let finish."""

import asyncio
import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.settle import settling
from ledger import Ledger
from recovery.errors import Stopped
from recovery.policy import load_policy
from tasks import brake
from tasks.brake import Brake
from tasks.notify import at_once
from tasks.spread import spread

INCIDENT = "INC-2026-0142"
RUNBOOKS = Path(__file__).resolve().parents[2] / "runbooks"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path}/ledger.db", key=b"k" * 32, clock=lambda: datetime.now(UTC))
    made.migrate()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def loose() -> Iterator[None]:
    yield
    brake.let_go()


async def test_a_stop_order_stops_and_its_release_frees(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brake, "LOOK_EVERY", 0.0)
    held = Brake(ledger, INCIDENT)
    await held.check()
    ledger.order_stop(INCIDENT, reason="wrong window", ordered_by="jonas")
    with pytest.raises(Stopped, match=r"stopped by jonas at .*: wrong window"):
        await held.check()
    ledger.release_stop(INCIDENT, reason="", released_by="jonas")
    await held.check()
    await Brake(ledger, "INC-2026-0143").check()


async def test_what_is_under_way_is_let_finish(ledger: Ledger) -> None:
    held, begun = Brake(ledger, INCIDENT), []

    async def act(item: int) -> int:
        begun.append(item)
        if item == 3:
            brake.pull("stop")
        await asyncio.sleep(0.01)
        return item

    worked = await spread(range(40), act, width=4, before=held.check)
    assert isinstance(worked.stopped_by, Stopped)
    assert sorted(worked.results) == begun == [0, 1, 2, 3]


async def test_waiting_for_something_long_ends_with_the_brake(ledger: Ledger) -> None:
    held = Brake(ledger, INCIDENT)
    assert await held.unless(asyncio.sleep(0, "done")) == "done"
    asyncio.get_running_loop().call_later(0.1, brake.pull, "stop")
    with pytest.raises(Stopped, match="stop"):
        await asyncio.wait_for(held.unless(asyncio.sleep(60)), 5)


async def test_sigterm_is_passed_on_once_everything_has_settled(ledger: Ledger) -> None:
    held, order = Brake(ledger, INCIDENT), []

    def theirs(number: int, frame: object) -> None:
        order.append("signal passed on")
        raise KeyboardInterrupt

    async def act(item: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        order.append("settled")

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with pytest.raises(KeyboardInterrupt), settling(), settling():
            (await spread(range(9), act, width=1, before=held.check)).or_raise()
        assert order == ["settled", "signal passed on"]
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("runbook", "people"), [("mass-password-reset", 75), ("rehearsal-tight-quota", 50)]
)
def test_people_who_are_being_told_are_told_in_seconds(runbook: str, people: int) -> None:
    """Well inside the 30 seconds that Prefect waits before it kills."""
    policy, _ = load_policy(RUNBOOKS / f"{runbook}.yaml")
    assert at_once(policy) == people
