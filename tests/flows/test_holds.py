"""A gate that holds: what its approver reads, what each answer does when the cause was mended
meanwhile, refused acts tried again, and the end of an incident for good."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from recovery.accounts import Stage as AccountStage
from rehearsal.operator import RunState
from rehearsal.world.faults import Status
from tests.flows.desk import Desk, desk_with
from tests.flows.rehearsed import Rehearsed, ask, rehearse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

ACCOUNTS = 30
SEED = 7
MENDED, REJECTED, OVERRULED = "INC-2026-0921", "INC-2026-0922", "INC-2026-0923"
REAL: dict[str, Any] = {"dry_run": False, "requested_by": "oscar"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    folder = tmp_path_factory.mktemp("holds")
    async with rehearse(folder, accounts=ACCOUNTS, seed=SEED) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(rehearsed: Rehearsed) -> AsyncIterator[Desk]:
    with desk_with(rehearsed, rehearsed.changed("notify")) as made:
        yield made


async def held(desk: Desk, incident_id: str) -> RunState:
    """A run of `contain` whose canary the platform refuses, as it waits for a person; the platform
    is mended by then."""
    faults = desk.rehearsed.world.platform.faults
    faults.inject(Status(409), "^DELETE /admin/accounts/", times=None)
    run = await desk.run("contain", incident_id, **REAL)
    assert run.gate == "contain", run.message
    run = await desk.answer(run, "maya")
    faults.clear()
    assert run.gate == "hold-contain-0", run.message
    return run


async def answers_left(desk: Desk, run: RunState) -> list[str]:
    left = await ask(
        desk.rehearsed.api,
        "POST",
        f"/flow_runs/{run.run_id}/input/filter",
        {"prefix": "suspended-", "limit": 200, "exclude_keys": []},
    )
    return [row["key"] for row in left if row["key"].endswith("-response")]


@dataclass(frozen=True, slots=True)
class Mended:
    form: str
    counted: RunState
    reopened: RunState
    end: RunState
    left: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mended(desk: Desk) -> Mended:
    await desk.run("detect", MENDED, requested_by="oscar")
    run = await held(desk, MENDED)
    form = await desk.form(run)
    counted = await desk.run("reopen", MENDED)
    reopened = await desk.run("reopen", MENDED, **REAL)
    end = await desk.answer(run, "jonas", decision="hold", reason="mended")
    return Mended(form, counted, reopened, end, await answers_left(desk, run))


async def test_the_form_of_a_hold_says_what_happened_and_what_would_follow(
    rehearsed: Rehearsed, mended: Mended
) -> None:
    assert "| Reason | too many refused: 0 done, 10 refused, 0 unknown of 10 |" in mended.form
    assert "| Canary | 0 acts done, 10 refused, 0 unknown |" in mended.form
    left = len([a for a in rehearsed.ledger.accounts(MENDED) if a.wave > 0])
    assert f"| Next, if you approve | {left} accounts in waves of" in mended.form


async def test_refused_acts_are_counted_and_reopened(rehearsed: Rehearsed, mended: Mended) -> None:
    assert mended.counted.message.startswith(
        "Dry run, nothing was changed. 10 acts of contain.account are REFUSED: 10x "
    )
    assert mended.reopened.message.startswith("10 acts of contain.account reopened")
    logged = [e for e in rehearsed.ledger.audit(MENDED) if e.event == "reopen"]
    assert len(logged) == 10


async def test_an_answer_to_a_hold_that_promotes_by_itself_is_read_and_deleted(
    rehearsed: Rehearsed, desk: Desk, mended: Mended
) -> None:
    assert mended.end.type == "COMPLETED", mended.end.message
    assert desk.stage(MENDED, AccountStage.SCOPED) == 0
    last = rehearsed.ledger.approvals(MENDED, "hold.contain.0")[-1]
    assert (last.approver, last.decision, last.refusal) == ("jonas", "hold", "")
    assert mended.left == []


async def test_a_rejection_counts_even_where_the_hold_would_promote(
    desk: Desk, mended: Mended
) -> None:
    await desk.run("detect", REJECTED, requested_by="oscar")
    run = await held(desk, REJECTED)
    await desk.run("reopen", REJECTED, **REAL)
    before = desk.settled(REJECTED, "contain")
    end = await desk.answer(run, "jonas", decision="reject", reason="stop here")
    assert (end.type, end.state) == ("CANCELLED", "Cancelled"), end.message
    assert "a rejection by jonas" in end.message
    assert desk.settled(REJECTED, "contain") == before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def overruled(desk: Desk, mended: Mended) -> RunState:
    await desk.run("detect", OVERRULED, requested_by="oscar")
    return await desk.answer(await held(desk, OVERRULED), "jonas")


async def test_an_overruled_hold_goes_on_with_the_next_wave(
    rehearsed: Rehearsed, desk: Desk, overruled: RunState
) -> None:
    assert overruled.type == "COMPLETED", overruled.message
    waiting = [a for a in rehearsed.ledger.accounts(OVERRULED) if a.stage is AccountStage.SCOPED]
    assert {a.wave for a in waiting} == {0}
    assert len(waiting) == 10


async def test_a_closed_incident_takes_no_run_any_more(
    rehearsed: Rehearsed, desk: Desk, overruled: RunState
) -> None:
    dry = await desk.run("close", OVERRULED)
    assert dry.message.startswith("Dry run, nothing was changed.")
    assert rehearsed.ledger.incident(OVERRULED).closed_at is None
    closed = await desk.run("close", OVERRULED, **REAL)
    assert closed.message.startswith("Closed for good.")
    assert rehearsed.ledger.incident(OVERRULED).closed_at is not None
    late = await desk.run("enroll", OVERRULED, **REAL)
    assert late.type == "FAILED"
    assert "a closed one is evidence" in late.message
