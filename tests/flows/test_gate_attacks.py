"""What somebody who reaches the API can send to a gate, on a real Prefect and a real Vault:
all of it is refused, told in the next form, and stands in the audit log."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import pytest_asyncio

from recovery.approvals import REFUSED_CODE, UNREADABLE
from recovery.incident import ApprovalAttempt
from rehearsal.operator import RunState
from rehearsal.prefect_server import ROOT
from tests.flows.desk import Desk, desk_with
from tests.flows.rehearsed import Rehearsed, ask, rehearse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

ACCOUNTS = 40
SEED = 5
ATTACKED = "INC-2026-0911"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rehearsed]:
    folder = tmp_path_factory.mktemp("attacks")
    async with rehearse(folder, accounts=ACCOUNTS, seed=SEED) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(rehearsed: Rehearsed) -> AsyncIterator[Desk]:
    """Two people at the containment gate, and two wrong codes lock."""
    everybody = ["maya", "jonas", "legal", "pr"]
    strict = rehearsed.changed(
        "approvals",
        contain={"approvers": everybody, "approvals_needed": 2},
        max_wrong_codes=2,
        late_share=1.0,
    )
    with desk_with(rehearsed, strict) as made:
        yield made


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
    run = await desk.run("respond", ATTACKED, dry_run=False, requested_by="maya")
    assert run.type == "PAUSED", run.message
    refused: dict[str, ApprovalAttempt | None] = {}
    forms: dict[str, str] = {"first": await desk.form(run)}
    keys = [run.pause_key]

    async def waits_again(what: str) -> None:
        nonlocal run
        run = await desk.waiting(run)
        keys.append(run.pause_key)
        known = rehearsed.ledger.approvals(ATTACKED, "contain")
        refused[what] = known[-1] if known else None
        forms[what] = await desk.form(run)

    async def forced(what: str) -> None:
        """Past the form: the state is set as who has the API's password can set it."""
        state = {"state": {"type": "SCHEDULED", "name": "Resuming"}, "force": True}
        await ask(rehearsed.api, "POST", f"/flow_runs/{run.run_id}/set_state", state)
        await waits_again(what)

    async def attack(what: str, approver: str, **more: str) -> None:
        said = await rehearsed.operator.resume(run.run_id, await desk.good(run, approver, **more))
        assert said.startswith("ACCEPT"), said
        await waits_again(what)

    async def counts(what: str, approver: str, **more: str) -> None:
        """An answer that is accepted and is not enough."""
        nonlocal run
        run = await desk.approve(run, approver, **more)
        await waits_again(what)

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
    await counts("hold", "pr", decision="hold")
    await attack("replayed code", "pr", code=rehearsed.codes[-1])
    await counts("first approval", "jonas")
    await attack("one person twice", "jonas")
    rehearsed.world.clock.advance(timedelta(minutes=31))
    await counts("expired first approval", "pr")
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


async def test_every_request_has_a_key_of_its_own(rehearsed: Rehearsed, attacks: Attacks) -> None:
    requests = rehearsed.ledger.gate_requests(ATTACKED, "contain")
    assert [r.number for r in requests] == list(range(1, len(requests) + 1))
    assert len(set(attacks.pause_keys)) == len(attacks.pause_keys) >= 15
    assert set(attacks.pause_keys) <= {f"contain-{r.number}" for r in requests}


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
    run = await desk.run("report", ATTACKED)
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
    run = await desk.run("escalate", ATTACKED, gate="notify", request=1)
    assert run.message.startswith("Nobody has answered at the gate notify for ")
    waiting = await rehearsed.operator.look(attacks.end.run_id)
    assert (waiting.type, waiting.gate) == ("PAUSED", "notify")
    overdue = [e for e in rehearsed.ledger.audit(ATTACKED) if e.event == "approval.overdue"]
    assert [e.facts["gate"] for e in overdue] == ["notify"]
    answered = await desk.run("escalate", ATTACKED, gate="contain", request=1)
    assert answered.message == "The gate contain does not wait any more."
