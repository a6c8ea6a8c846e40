"""What operators and attackers do by REST against a real Prefect, worker and Vault: every forged
answer, two approvers, phases alone, rejection and asking again, the stop, Cancel and Pause."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from recovery.accounts import Stage as AccountStage
from recovery.accounts import Verdict
from recovery.approvals import REFUSED_CODE, UNREADABLE
from recovery.incident import ApprovalAttempt
from rehearsal.operator import RunState
from rehearsal.prefect_server import ROOT
from tests.flows.rehearsed import RUN_TIMEOUT, Rehearsed, Runbook, ask, rehearse, runbook_file

pytestmark = pytest.mark.asyncio(loop_scope="module")

ACCOUNTS = 60
SEED = 5
ATTACKED = "INC-2026-0911"
ALONE = "INC-2026-0912"
CANCELLED = "INC-2026-0913"
PAUSED = "INC-2026-0914"
POLL_SECONDS = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    async with rehearse(
        tmp_path_factory.mktemp("operate"), accounts=ACCOUNTS, seed=SEED
    ) as running:
        yield running


@dataclass(slots=True)
class Desk:
    """One operator's desk: runs, forms and answers of any deployment."""

    rehearsed: Rehearsed
    runbooks: dict[str, str] = field(default_factory=dict)

    async def start(self, deployment: str, incident_id: str, **more: Any) -> str:
        given = {"incident_id": incident_id, "runbook": self.runbooks["slow"], **more}
        return await self.rehearsed.operator.start(f"{deployment}/{deployment}", given)

    async def run(self, deployment: str, incident_id: str, **more: Any) -> RunState:
        """A run to its end, or to the gate at which it waits."""
        run_id = await self.start(deployment, incident_id, **more)
        return await self.rest(run_id)

    async def rest(self, run_id: str) -> RunState:
        return await self.rehearsed.operator.follow(run_id, approve=None, timeout=RUN_TIMEOUT)

    async def good(self, run: RunState, approver: str, **more: str) -> dict[str, str]:
        form = await self.rehearsed.operator.form(run)
        code = more.pop("code", "") or await self.rehearsed.fresh_code(approver)
        return {
            "approver": approver,
            "decision": "approve",
            "reason": "read it",
            "digest": str(form.defaults["digest"]),
            "code": code,
            **more,
        }

    async def answer(self, run: RunState, approver: str, **more: str) -> RunState:
        return await self.rehearsed.answer(run, await self.good(run, approver, **more))

    async def approve(self, run: RunState, approver: str) -> str:
        """Approves and lets it run; returns the run's id."""
        said = await self.rehearsed.operator.resume(run.run_id, await self.good(run, approver))
        assert said.startswith("ACCEPT"), said
        return run.run_id

    async def form(self, run: RunState) -> str:
        return (await self.rehearsed.operator.form(run)).description

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(RUN_TIMEOUT):
            while not await asyncio.to_thread(what):
                await asyncio.sleep(POLL_SECONDS)

    def settled(self, incident_id: str, step: str) -> int:
        ledger = self.rehearsed.ledger
        return ledger.tally(incident_id).of_verdict(
            step, Verdict.DONE, Verdict.ALREADY, Verdict.REFUSED
        )

    def stage(self, incident_id: str, stage: AccountStage) -> int:
        return self.rehearsed.ledger.tally(incident_id).in_stage(stage)


def with_approvals(runbook: Runbook, **limits: Any) -> Runbook:
    everybody = ["maya", "jonas", "legal", "pr"]
    runbook["approvals"] = {
        "contain": {"approvers": everybody, "approvals_needed": 2, "timeout": "2h"},
        "max_wrong_codes": 2,
        **limits,
    }
    return runbook


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(rehearsed: Rehearsed) -> AsyncIterator[Desk]:
    """Runbooks that are slow enough to be stopped in the middle."""
    slow = rehearsed.changed(
        "quotas",
        platform={"per_second": 25, "concurrent": 16},
        sms={"per_second": 6, "concurrent": 8},
    )
    slow["waves"] = {"canary": 10, "growth": [20], "batch": 10}
    strict = with_approvals({**rehearsed.changed("notify"), "waves": slow["waves"]})
    with ExitStack() as stack:
        names = {
            "slow": stack.enter_context(runbook_file(slow)),
            "strict": stack.enter_context(runbook_file(strict)),
        }
        yield Desk(rehearsed, names)


# ---------------------------------------------------------------- every answer that does not count


@dataclass(frozen=True, slots=True)
class Attacks:
    """What the ledger and the next form said after each attack, and where it all ended."""

    refused: dict[str, ApprovalAttempt | None]
    forms: dict[str, str]
    end: RunState
    contained_before: int
    pause_keys: list[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def attacks(rehearsed: Rehearsed, desk: Desk) -> Attacks:
    """One gate that needs two people, attacked in every way by somebody who can reach the API."""
    runbook = desk.runbooks["strict"]
    run = await desk.run("respond", ATTACKED, runbook=runbook, dry_run=False, requested_by="maya")
    assert run.type == "PAUSED", run.message
    refused: dict[str, ApprovalAttempt | None] = {}
    forms: dict[str, str] = {"first": await desk.form(run)}
    keys = [run.pause_key]

    async def waits_again(what: str, run_id: str) -> None:
        nonlocal run
        async with asyncio.timeout(RUN_TIMEOUT):
            while (now := await rehearsed.operator.look(run_id)).type != "PAUSED" or (
                now.pause_key == run.pause_key
            ):
                assert not now.ended, f"{what}: {now.state} {now.message}"
                await asyncio.sleep(POLL_SECONDS)
        run = now
        keys.append(run.pause_key)
        known = rehearsed.ledger.approvals(ATTACKED, "contain")
        before = sum(attempt is not None for attempt in refused.values())
        refused[what] = known[-1] if len(known) > before else None
        forms[what] = await desk.form(run)

    async def forced(what: str) -> None:
        """Past the form: the state is set as who has the API's password can set it."""
        state = {"state": {"type": "SCHEDULED", "name": "Resuming"}, "force": True}
        await ask(rehearsed.api, "POST", f"/flow_runs/{run.run_id}/set_state", state)
        await waits_again(what, run.run_id)

    async def attack(what: str, approver: str, **more: str) -> None:
        said = await rehearsed.operator.resume(run.run_id, await desk.good(run, approver, **more))
        assert said.startswith("ACCEPT"), said
        await waits_again(what, run.run_id)

    await forced("no answer at all")
    key = f"suspended-{run.pause_key}-response"
    rubbish = {"key": key, "value": '{"approver": ["jonas"], "decision": "yes", "code": 7}'}
    await ask(rehearsed.api, "POST", f"/flow_runs/{run.run_id}/input", rubbish)
    await forced("rubbish past the form")
    await attack("no code", "jonas", code=" ")
    await attack("unknown approver", "mallory", code="000000")
    await attack("self-approval", "MAYA", code="000000")
    await attack("self-approval by name", "maya", code="000000")
    await attack("wrong digest", "jonas", digest="0" * 64, code="000000")
    await attack("wrong code", "legal", code="abc")
    await attack("wrong code again", "legal", code="12345")
    await attack("locked, with the right code", "legal")
    code = await rehearsed.fresh_code("pr")
    await attack("hold", "pr", decision="hold", code=code)
    await attack("replayed code", "pr", code=code)
    await attack("first approval", "jonas")
    await attack("one person twice", "jonas")
    rehearsed.world.clock.advance(timedelta(minutes=31))
    await attack("expired first approval", "pr")
    contained = desk.settled(ATTACKED, "contain")
    end = await desk.answer(run, "jonas")
    return Attacks(refused, forms, end, contained, keys)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("rubbish past the form", UNREADABLE),
        ("no code", REFUSED_CODE),
        ("unknown approver", "this approver is not in the runbook's list for this gate"),
        ("self-approval", "this approver is not in the runbook's list for this gate"),
        ("self-approval by name", "the requester can't approve his own run"),
        ("wrong digest", "the plan has changed since this form was shown"),
        ("wrong code", REFUSED_CODE),
        (
            "locked, with the right code",
            "too many wrong codes: this approver is locked for a while",
        ),
        ("replayed code", REFUSED_CODE),
        (
            "one person twice",
            "this approver has approved this plan already; another person is needed",
        ),
    ],
)
async def test_an_attack_is_refused_logged_and_told(
    rehearsed: Rehearsed, attacks: Attacks, what: str, reason: str
) -> None:
    attempt = attacks.refused[what]
    assert attempt is not None
    assert attempt.refusal == reason
    assert f"> **The last answer was refused:** {reason}." in attacks.forms[what]
    logged = [
        e
        for e in rehearsed.ledger.audit(ATTACKED)
        if e.event == "approval" and e.facts["attempt"] == attempt.attempt
    ]
    assert [e.facts["refusal"] for e in logged] == [reason]
    assert logged[0].facts["requester"] == "maya"
    assert logged[0].facts["run_id"] == attempt.run_id


async def test_a_run_that_is_pushed_on_without_an_answer_asks_anew(
    rehearsed: Rehearsed, attacks: Attacks
) -> None:
    assert attacks.refused["no answer at all"] is None
    unanswered = [e for e in rehearsed.ledger.audit(ATTACKED) if e.event == "approval.unanswered"]
    assert [e.facts["request"] for e in unanswered] == [1]


async def test_every_request_has_a_key_of_its_own(attacks: Attacks) -> None:
    assert attacks.pause_keys == [f"contain-{n}" for n in range(1, len(attacks.pause_keys) + 1)]


async def test_two_people_are_needed_and_the_form_says_who_is_missing(attacks: Attacks) -> None:
    assert "**This gate needs 2 people.** Missing: 2 different people." in attacks.forms["first"]
    assert "jonas approved at" in attacks.forms["first approval"]
    assert "Missing: 1 more person." in attacks.forms["first approval"]
    expired = attacks.forms["expired first approval"]
    assert "pr approved at" in expired
    assert "jonas approved at" not in expired
    assert "Missing: 1 more person." in expired


async def test_nothing_was_done_before_the_second_approval(attacks: Attacks) -> None:
    assert attacks.contained_before == 0
    assert (attacks.end.type, attacks.end.gate) == ("PAUSED", "notify"), attacks.end.message


async def test_the_form_shows_the_plan_and_who_cant_approve_it(attacks: Attacks) -> None:
    first = attacks.forms["first"]
    assert "| Canary | not run yet" in first
    assert "| 0 (canary) | 10 |" in first
    assert "| force a password reset |" in first
    assert "Can't approve, because they requested a run: maya." in first


async def test_no_answer_stays_in_prefects_database(rehearsed: Rehearsed, attacks: Attacks) -> None:
    left = await ask(
        rehearsed.api,
        "POST",
        f"/flow_runs/{attacks.end.run_id}/input/filter",
        {"prefix": "suspended-", "limit": 200, "exclude_keys": []},
    )
    assert [row["key"] for row in left if row["key"].endswith("-response")] == []


async def test_the_audit_log_alone_tells_who_approved_what(
    rehearsed: Rehearsed, desk: Desk, attacks: Attacks
) -> None:
    run = await desk.run("report", ATTACKED, runbook=desk.runbooks["strict"])
    assert run.type == "COMPLETED", run.message
    exported = rehearsed.stage.folder.parent / "reports" / ATTACKED / "audit.jsonl"
    told = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "ledger", "approvals", str(exported)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    approved = [a for a in rehearsed.ledger.approvals(ATTACKED, "contain") if not a.refusal]
    digest = approved[-1].digest
    section = told.stdout.split("## Gate contain")[1].split("## Gate")[0]
    assert f"Plan `{digest}`" in section
    assert "**jonas: approve**" in section
    assert "**pr: approve**" in section
    assert "open for run" in section
    contained = len([a for a in rehearsed.ledger.accounts(ATTACKED) if not a.excluded])
    assert f"- contain.account: {contained} DONE" in section
    assert "maya: respond, run" in told.stdout
    assert (exported.parent / "approvals.md").read_text() in told.stdout


async def test_events_are_emitted_for_automations(rehearsed: Rehearsed, attacks: Attacks) -> None:
    wanted = {
        "filter": {
            "event": {"prefix": ["recovery.approval."]},
            "resource": {"id": [f"recovery.incident.{ATTACKED}"]},
        },
        "limit": 50,
    }
    async with asyncio.timeout(30):
        while True:
            found = (await ask(rehearsed.api, "POST", "/events/filter", wanted))["events"]
            kinds = {event["event"] for event in found}
            if {"recovery.approval.requested", "recovery.approval.answered"} <= kinds:
                break
            await asyncio.sleep(1)
    asked = next(e for e in found if e["event"] == "recovery.approval.requested")
    assert asked["payload"]["incident"] == ATTACKED
    assert asked["payload"]["run"].endswith(attacks.end.run_id)
    assert "read it" not in str(found)


async def test_an_unanswered_request_is_escalated_and_never_approved(
    rehearsed: Rehearsed, desk: Desk, attacks: Attacks
) -> None:
    planned = await ask(
        rehearsed.api,
        "POST",
        "/flow_runs/filter",
        {"flows": {"name": {"any_": ["escalate"]}}, "limit": 50},
    )
    assert planned, "no look was planned ahead"
    assert {row["state"]["type"] for row in planned} == {"SCHEDULED"}
    run = await desk.run(
        "escalate", ATTACKED, runbook=desk.runbooks["strict"], gate="notify", request=1
    )
    assert run.message.startswith("Nobody has answered at the gate notify for ")
    waiting = await rehearsed.operator.look(attacks.end.run_id)
    assert (waiting.type, waiting.gate) == ("PAUSED", "notify")
    overdue = [e for e in rehearsed.ledger.audit(ATTACKED) if e.event == "approval.overdue"]
    assert [e.facts["gate"] for e in overdue] == ["notify"]
    answered = await desk.run(
        "escalate", ATTACKED, runbook=desk.runbooks["strict"], gate="contain", request=1
    )
    assert answered.message == "The gate contain does not wait any more."


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
async def alone(rehearsed: Rehearsed, desk: Desk, attacks: Attacks) -> Alone:
    """`detect`, then `contain` on its own: rejected, asked again, stopped, gone on with."""
    real = {"dry_run": False, "requested_by": "oscar"}
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
    holder = await desk.approve(run, "maya")
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
async def cuts(rehearsed: Rehearsed, desk: Desk, alone: Alone) -> Cuts:
    real = {"dry_run": False, "requested_by": "oscar"}
    run = await desk.run("respond", CANCELLED, **real)
    assert run.gate == "contain", run.message
    run_id = await desk.approve(run, "maya")
    in_contain = await cut(desk, CANCELLED, run_id, "contain.account", 5)
    run = await desk.run("respond", CANCELLED, **real)
    assert run.gate == "notify", run.message
    run_id = await desk.approve(run, "legal")
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


# ---------------------------------------------------------------- the UI's Pause on a running run


async def test_pause_in_the_ui_stops_a_running_run_and_resume_goes_on(
    rehearsed: Rehearsed, desk: Desk, cuts: Cuts
) -> None:
    real = {"dry_run": False, "requested_by": "oscar"}
    run = await desk.run("respond", PAUSED, **real)
    run_id = await desk.approve(run, "jonas")
    await desk.until(lambda: desk.settled(PAUSED, "contain") >= 3)
    paused = {
        "type": "PAUSED",
        "name": "Suspended",
        "state_details": {"pause_reschedule": True, "pause_timeout": "2099-01-01T00:00:00Z"},
    }
    body = {"state": paused, "force": True}
    await ask(rehearsed.api, "POST", f"/flow_runs/{run_id}/set_state", body)
    seen: list[tuple[str, int]] = []
    for _ in range(20):
        now = await rehearsed.operator.look(run_id)
        seen.append((f"{now.state}/{now.gate}", desk.settled(PAUSED, "contain")))
        await asyncio.sleep(2)
    print(seen, [f"{r.act.step}" for r in rehearsed.ledger.unsettled(PAUSED)])
