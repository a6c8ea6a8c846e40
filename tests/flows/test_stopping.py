"""Phases on their own, refusals, rejection and asking again, the emergency stop and Cancel:
real runs are cut in the middle, and what they leave behind is looked at."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from recovery.accounts import Stage as AccountStage
from rehearsal.operator import RunState
from tests.flows.desk import POLL_SECONDS, Desk, desk_with
from tests.flows.rehearsed import RUN_TIMEOUT, Rehearsed, rehearse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

ACCOUNTS = 60
SEED = 6
ALONE = "INC-2026-0912"
CANCELLED = "INC-2026-0913"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    folder = tmp_path_factory.mktemp("stopping")
    async with rehearse(folder, accounts=ACCOUNTS, seed=SEED) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(rehearsed: Rehearsed) -> AsyncIterator[Desk]:
    """A platform so slow that containing takes a minute and a half."""
    slow = rehearsed.changed("quotas", platform={"per_second": 4, "concurrent": 16})
    with desk_with(rehearsed, slow) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slow_texts(rehearsed: Rehearsed) -> AsyncIterator[str]:
    """The runbook of a text message provider that takes a minute for them all."""
    document = rehearsed.changed("quotas", sms={"per_second": 1, "concurrent": 8})
    with desk_with(rehearsed, document) as made:
        yield made.runbook


# ---------------------------------------------------------------- one phase alone, the stop


@dataclass(frozen=True, slots=True)
class Alone:
    unknown: RunState
    unnamed: RunState
    detected: RunState
    dry: RunState
    untouched: bool
    rejected: RunState
    reported: bool
    again: RunState
    asked_again: str
    busy: RunState
    holder: str
    held: RunState
    stopped: RunState
    open_acts: int
    contained_at_stop: int
    while_stopped: RunState
    released: RunState
    finished: RunState


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(rehearsed: Rehearsed, desk: Desk) -> Alone:
    """`detect`, then `contain` on its own: rejected, asked again, stopped, gone on with."""
    real: dict[str, Any] = {"dry_run": False, "requested_by": "oscar"}
    unknown = await desk.run("contain", ALONE, **real)
    unnamed = await desk.run("detect", ALONE)
    detected = await desk.run("detect", ALONE, requested_by="oscar")
    before = rehearsed.world.digest()
    dry = await desk.run("contain", ALONE)
    untouched = rehearsed.world.digest() == before
    run = await desk.run("contain", ALONE, **real)
    assert (run.type, run.gate) == ("PAUSED", "contain"), run.message
    rejected = await desk.answer(run, "jonas", decision="reject", reason="a false alarm")
    reported = (rehearsed.stage.reports / ALONE / "report.html").exists()
    again = await desk.run("contain", ALONE, **real)
    run = await desk.run("contain", ALONE, **real, ask_again=True)
    asked_again = await desk.form(run)
    holder = (await desk.approve(run, "maya")).run_id
    await desk.until(lambda: desk.settled(ALONE, "contain") >= 3)
    busy = await desk.run("respond", ALONE, **real)
    held = await desk.run("hold", ALONE, reason="a wrong window", requested_by="jonas")
    stopped = await desk.rest(holder)
    contained = desk.settled(ALONE, "contain")
    open_acts = len(rehearsed.ledger.unsettled(ALONE))
    while_stopped = await desk.run("contain", ALONE, **real)
    released = await desk.run("hold", ALONE, release=True, requested_by="jonas")
    finished = await desk.run("contain", ALONE, **real)
    return Alone(
        unknown=unknown,
        unnamed=unnamed,
        detected=detected,
        dry=dry,
        untouched=untouched,
        rejected=rejected,
        reported=reported,
        again=again,
        asked_again=asked_again,
        busy=busy,
        holder=holder,
        held=held,
        stopped=stopped,
        open_acts=open_acts,
        contained_at_stop=contained,
        while_stopped=while_stopped,
        released=released,
        finished=finished,
    )


async def test_a_phase_without_an_incident_says_what_to_do(alone: Alone) -> None:
    assert alone.unknown.type == "FAILED"
    assert "Run `detect` or `respond` first" in alone.unknown.message


async def test_a_run_that_acts_needs_a_name(alone: Alone) -> None:
    assert alone.unnamed.type == "FAILED"
    assert "expected your own approver name" in alone.unnamed.message


async def test_detect_and_a_dry_run_of_contain(alone: Alone) -> None:
    assert alone.detected.type == "COMPLETED", alone.detected.message
    assert "admitted" in alone.detected.message
    assert alone.dry.message.startswith("Dry run of contain, nothing was changed.")
    assert alone.untouched


async def test_a_rejection_ends_the_phase_with_a_report_that_is_true(
    rehearsed: Rehearsed, alone: Alone
) -> None:
    assert (alone.rejected.type, alone.rejected.state) == ("CANCELLED", "Cancelled")
    accounts = len([a for a in rehearsed.ledger.accounts(ALONE) if not a.excluded])
    assert "a rejection by jonas" in alone.rejected.message
    assert "Done: 0 accounts contained" in alone.rejected.message
    assert f"Not done: {accounts} accounts not contained" in alone.rejected.message
    assert "The report is in " in alone.rejected.message
    assert alone.reported
    assert alone.again.type == "CANCELLED"
    assert "`ask_again`" in alone.again.message


async def test_who_asks_again_shows_the_rejection(alone: Alone) -> None:
    assert "> **Rejected before** by jonas" in alone.asked_again
    assert "a false alarm. The requester asks once more." in alone.asked_again


async def test_a_second_run_is_told_which_one_works(alone: Alone) -> None:
    assert (alone.busy.type, alone.busy.state) == ("CANCELLED", "Refused")
    assert f"contain, run {alone.holder}" in alone.busy.message
    assert "Nothing was done." in alone.busy.message


async def test_the_emergency_stop_settles_everything(rehearsed: Rehearsed, alone: Alone) -> None:
    assert alone.held.message == (
        "Stopped: nothing more begins, and nothing works on this incident."
    )
    assert (alone.stopped.type, alone.stopped.state) == ("CANCELLED", "Stopped")
    assert "stopped by jonas" in alone.stopped.message
    assert "a wrong window" in alone.stopped.message
    accounts = len([a for a in rehearsed.ledger.accounts(ALONE) if not a.excluded])
    assert 0 < alone.contained_at_stop < accounts
    assert alone.open_acts == 0
    assert (alone.while_stopped.type, alone.while_stopped.state) == ("CANCELLED", "Stopped")


async def test_after_the_release_the_phase_goes_on_without_asking(
    rehearsed: Rehearsed, desk: Desk, alone: Alone
) -> None:
    assert alone.released.message.startswith("Released.")
    assert alone.finished.type == "COMPLETED", alone.finished.message
    assert desk.stage(ALONE, AccountStage.SCOPED) == 0
    assert rehearsed.ledger.leases(ALONE) == []
    assert len(rehearsed.ledger.gate_requests(ALONE, "contain")) == 2


# ---------------------------------------------------------------- Cancel in the middle


@dataclass(frozen=True, slots=True)
class Cut:
    """How things stood after a run was cancelled in the middle of a phase."""

    run: RunState
    done: int
    unsettled: list[str]
    leases: int


async def cut(desk: Desk, incident_id: str, run_id: str, step: str, after: int) -> Cut:
    await desk.until(lambda: desk.settled(incident_id, step) >= after)
    await desk.rehearsed.operator.cancel(run_id)
    async with asyncio.timeout(RUN_TIMEOUT):
        while not (run := await desk.rehearsed.operator.look(run_id)).ended or (
            run.type == "CRASHED"
        ):
            await asyncio.sleep(POLL_SECONDS)
    ledger = desk.rehearsed.ledger
    return Cut(
        run,
        desk.settled(incident_id, step),
        [f"{r.act.step} {r.verdict} {r.detail}" for r in ledger.unsettled(incident_id)],
        len(ledger.leases(incident_id)),
    )


@dataclass(frozen=True, slots=True)
class Cuts:
    contain: Cut
    notify: Cut
    end: RunState


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cuts(rehearsed: Rehearsed, desk: Desk, slow_texts: str, alone: Alone) -> Cuts:
    real: dict[str, Any] = {"dry_run": False, "requested_by": "oscar"}
    run = await desk.run("respond", CANCELLED, **real)
    assert run.gate == "contain", run.message
    run_id = (await desk.approve(run, "maya")).run_id
    in_contain = await cut(desk, CANCELLED, run_id, "contain.account", 5)
    real["runbook"] = slow_texts
    run = await desk.run("respond", CANCELLED, **real)
    assert run.gate == "notify", run.message
    run_id = (await desk.approve(run, "legal")).run_id
    in_notify = await cut(desk, CANCELLED, run_id, "notify.email", 5)
    end = await desk.run("respond", CANCELLED, **real)
    await rehearsed.world.delivered()
    return Cuts(in_contain, in_notify, end)


async def test_cancel_in_the_middle_of_contain_leaves_nothing_in_doubt(
    rehearsed: Rehearsed, cuts: Cuts
) -> None:
    accounts = len([a for a in rehearsed.ledger.accounts(CANCELLED) if not a.excluded])
    assert (cuts.contain.run.type, cuts.contain.run.state) == ("CANCELLED", "Cancelled")
    assert 5 <= cuts.contain.done < accounts
    assert cuts.contain.unsettled == []
    assert cuts.contain.leases == 0


async def test_cancel_in_the_middle_of_notify_leaves_nobody_half_told(cuts: Cuts) -> None:
    assert (cuts.notify.run.type, cuts.notify.run.state) == ("CANCELLED", "Cancelled")
    assert cuts.notify.unsettled == []
    assert cuts.notify.leases == 0


async def test_a_later_run_finishes_and_tells_nobody_twice(
    rehearsed: Rehearsed, desk: Desk, cuts: Cuts
) -> None:
    assert (cuts.end.type, cuts.end.gate) == ("PAUSED", "retire"), cuts.end.message
    assert desk.stage(CANCELLED, AccountStage.TOKEN_ISSUED) == 0
    assert rehearsed.world.mailboxes.received_twice() == {}
    told = desk.settled(CANCELLED, "notify.email")
    assert cuts.notify.done < told
    assert len(rehearsed.ledger.gate_requests(CANCELLED, "contain")) == 1
    assert len(rehearsed.ledger.gate_requests(CANCELLED, "notify")) == 1
