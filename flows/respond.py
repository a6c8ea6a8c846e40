"""The incident end to end: detect, contain, enroll, notify, rotate, validate, retire, report.

The ledger is the memory: a run that is resumed, repeated or started again after a crash begins
at the top and finds that finished phases cost nothing and passed gates stay passed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.approve import Rejected, note_open, pass_gate, passed_mark
from flows.contain import contain
from flows.detect import FROM_FILE, detect
from flows.dry_run import plan_response
from flows.enroll import enroll
from flows.forms import operator_flow
from flows.incident_run import RECOVERY, Who, at_work, named, put_name, run_on
from flows.notify import notify
from flows.parameters import (
    DEFAULT_RUNBOOK,
    AskAgain,
    DryRun,
    IncidentId,
    Requester,
    RunbookName,
    ScopeFile,
    WindowEnd,
    WindowStart,
)
from flows.report import report
from flows.rotate import retire, rotate, rotate_approved
from flows.validate import validate
from flows.waves import PhaseResult, hold_plan
from recovery import notify as messages
from recovery.accounts import Stage, Verdict
from recovery.app_clients import Lift
from recovery.errors import Misconfigured
from recovery.incident import Phase
from recovery.plans import contain_plan, lift_plan, notify_plan, retire_plan, wave_result
from tasks.case import Case
from tasks.notify import publish_status
from tasks.prefect_api import server_answers
from tasks.rotate import approve, lifted_waves, retiring_secrets, waiting_for

COVERED = "gate.contain.covers."
"""Begins the mark that names the last wave whose containment was approved."""
TEXT = "gate.notify.covers."
"""Begins the mark that names a text of the messages that was approved."""


@operator_flow("respond")
async def respond(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    dry_run: DryRun = True,
    scope_file: ScopeFile = None,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Recover from a mass password reset, end to end.

    1. **Detect** the burst in the SIEM and admit the affected accounts.
    2. **Contain**: revoke sessions and tokens, canary first (*approval*).
    3. **Enroll** and **notify**: single-use links over channels people can verify (*approval*).
    4. **Rotate** client secrets without an outage, **validate**, retire the old ones (*approval*).
    5. **Report**: KPIs, timeline, canonical list, audit log.

    Starts as a **dry run**: it prints the plan and changes nothing. Switch *Dry run* off to act.
    Running it again on the same incident goes on where it stopped, and repeats nothing.
    """

    async def work(case: Case) -> State[object]:
        if dry_run:
            summary = await plan_response(
                case,
                window_start=window_start,
                window_end=window_end,
                scope_file=Path(scope_file) if scope_file else None,
            )
            return Completed(message=f"Dry run, nothing was changed. {summary}")
        named(requested_by, case.policy)
        who = Who("respond", requested_by, ask_again)
        async with at_work(case, RECOVERY, who):
            # A plan that waits for its approval stays as it was shown: later arrivals are looked
            # for once it has passed.
            if not await case.marked("detect.finished"):
                await detect(
                    incident_id, runbook, window_start, window_end, scope_file, requested_by
                )
            await put_name(case, who)
            return await _recover(case, requested_by)

    return await run_on(incident_id, runbook, work)


async def _recover(case: Case, requester: str) -> State[object]:
    """Everything after the scope. A run that is resumed at a gate goes straight there: what stands
    before the gate was finished when it asked."""
    scope = await asyncio.to_thread(case.ledger.scope, case.incident_id)
    if scope.admitted == 0:
        raise Misconfigured(
            "Admit the affected accounts",
            subject=case.incident_id,
            expected="at least one",
            got=f"none of {scope.sighted} seen, {scope.unrostered} unknown to the roster",
            advice="Check the window, detect.preset and exclusions, then start the run again.",
        )
    before = await _acts_before(case)
    waiting = await _waiting_gate(case)
    if waiting not in ("notify", "retire"):
        await contain_all(case, requester)
        await look_again(case, requester)
        await through(case, requester, enroll)
    if waiting != "retire":
        await tell_people(case, requester)
        await rotate_all(case, requester)
        if await look_again(case, requester):
            await through(case, requester, enroll)
            await through(case, requester, notify)
        await through(case, requester, validate)
    await retire_old(case, requester)
    await server_answers()
    await report(case.incident_id, case.runbook)
    return Completed(message=await _last_words(case, before))


async def _waiting_gate(case: Case) -> str:
    """The gate on the path at which somebody was asked and which has not passed, or empty."""
    marks = {m.name for m in await asyncio.to_thread(case.ledger.marks, case.incident_id)}
    for name in ("retire", "notify", "contain"):
        asked = f"gate.{name}.waiting" in marks
        if asked and not any(mark.startswith(f"gate.{name}.passed.") for mark in marks):
            return name
    return ""


async def tell_people(case: Case, requester: str) -> None:
    """Legal and PR approve the text and whom it goes to, then it goes out. The same text goes to
    late arrivals under the first approval; another text asks again."""
    text = messages.text_digest(case.policy)
    approved = f"{TEXT}{text[:16]}"
    if not await case.marked(approved):
        ledger, incident_id = case.ledger, case.incident_id
        tally = await asyncio.to_thread(ledger.tally, incident_id)
        plan = notify_plan(
            await asyncio.to_thread(ledger.incident, incident_id),
            case.policy,
            preview=messages.preview(case.policy, incident_id),
            text_digest=text,
            accounts=await asyncio.to_thread(
                lambda: list(
                    ledger.accounts(incident_id, stages={Stage.TOKEN_ISSUED, Stage.MANUAL})
                )
            ),
            canary=wave_result(tally, Phase.NOTIFY, 0),
        )
        await pass_gate(case, plan, case.policy.approvals.notify, requester=requester)
        await asyncio.to_thread(ledger.mark, incident_id, approved)
        await publish_status(case)
    else:
        await _still_open(case, "notify")
    await through(case, requester, notify)


async def _still_open(case: Case, gate: str) -> None:
    """What is done next is done under the approval that this gate was passed with before."""
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    passed = {m.name for m in marks}
    for request in reversed(
        await asyncio.to_thread(case.ledger.gate_requests, case.incident_id, gate)
    ):
        if passed_mark(gate, request.digest) in passed:
            await note_open(case, gate, request.digest)
            return


async def rotate_all(case: Case, requester: str) -> None:
    """What nothing speaks against, then what somebody approves by name."""
    await through(case, requester, rotate)
    await _rotate_by_name(case, requester)


async def _rotate_by_name(case: Case, requester: str) -> None:
    """Clients that nobody is known to use, or whose platform holds one secret: only those that
    somebody approves by name. A rejection leaves them to a person and stops nothing else."""
    rotate_policy = case.policy.rotate
    for lift, choice in (
        (Lift.UNKNOWN, rotate_policy.without_consumers),
        (Lift.GAP, rotate_policy.single_secret),
    ):
        clients = await waiting_for(case, lift) if choice == "ask" else []
        if not clients:
            continue
        plan = lift_plan(case.incident_id, lift, clients)
        try:
            await pass_gate(case, plan, case.policy.approvals.retire, requester=requester)
        except Rejected:
            await approve(case, clients, yes=False)
        else:
            await approve(case, clients, yes=True)
    if await lifted_waves(case):
        await through(case, requester, rotate_approved)


async def retire_old(case: Case, requester: str) -> None:
    """The old secrets go once somebody has seen that the new ones serve."""
    retiring = await retiring_secrets(case)
    if not retiring:
        return
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    passed = [m.at for m in marks if m.name == "validate.finished"]
    if not passed:
        raise Misconfigured(
            "Retire the old client secrets",
            subject=case.incident_id,
            expected="a validation that passed",
            got="none",
            advice="Run `validate` first, or `respond`, which does both.",
        )
    validated = max(passed)
    plan = retire_plan(
        await asyncio.to_thread(case.ledger.incident, case.incident_id),
        case.policy,
        retiring=retiring,
        validation=f"passed at {validated:%H:%M:%S} UTC, see the table `validate`",
        renewed=await _renewed(case),
    )
    await pass_gate(case, plan, case.policy.approvals.retire, requester=requester)
    await through(case, requester, retire)


async def _renewed(case: Case) -> str:
    """How the rotation went, the canary's wave first."""
    done = {
        record.act.subject
        for record in await asyncio.to_thread(
            lambda: list(case.ledger.acts(case.incident_id, "rotate.test"))
        )
        if record.verdict is Verdict.DONE
    }
    clients = await asyncio.to_thread(case.ledger.clients, case.incident_id)
    waves = sorted({c.wave for c in clients if c.wave >= 0})
    return ", ".join(
        f"{sum(c.client_id in done for c in clients if c.wave == wave)} of "
        f"{sum(c.wave == wave for c in clients)}"
        for wave in waves
    )


async def _last_words(case: Case, before: int) -> str:
    """What the run did, in one line; says so where nothing was left to do."""
    fresh = await _settled(case) - before
    tally = await asyncio.to_thread(case.ledger.tally, case.incident_id)
    contained = sum(tally.in_stage(stage) for stage in Stage if stage.rank >= Stage.CONTAINED.rank)
    done = f"{contained} accounts contained, {fresh} acts in this run."
    if fresh == 0:
        done = f"Nothing was left to do: {contained} accounts were contained before."
    return f"{done} The report is in {case.directory}."


async def look_again(case: Case, requester: str) -> bool:
    """Admits and contains who reset late or was ingested late; True where there was somebody."""
    if await case.marked(FROM_FILE):
        return False
    before = (await asyncio.to_thread(case.ledger.scope, case.incident_id)).admitted
    await server_answers()
    counts = await detect(case.incident_id, case.runbook, None, None, None, requester)
    if counts.admitted == before:
        return False
    await contain_all(case, requester)
    return True


async def contain_all(case: Case, requester: str) -> None:
    """Asks once for the accounts that no approval covers yet, then contains them."""
    ledger, incident_id = case.ledger, case.incident_id
    accounts = await asyncio.to_thread(lambda: list(ledger.accounts(incident_id)))
    accounts = [a for a in accounts if a.wave >= 0]
    covered = await _covered_wave(case)
    uncovered = [a for a in accounts if a.wave > covered]
    if uncovered:
        last = max(a.wave for a in uncovered)
        late = covered >= 0
        few = len(uncovered) <= case.policy.approvals.late_share * len(accounts)
        if not (late and few):
            plan = contain_plan(
                await asyncio.to_thread(ledger.incident, incident_id),
                case.policy,
                gate=f"contain.late.{last}" if late else "contain",
                accounts=uncovered,
                scope=await asyncio.to_thread(ledger.scope, incident_id),
                canary=wave_result(
                    await asyncio.to_thread(ledger.tally, incident_id), Phase.CONTAIN, 0
                ),
            )
            await pass_gate(case, plan, case.policy.approvals.contain, requester=requester)
        else:
            await _still_open(case, "contain")
        await asyncio.to_thread(ledger.mark, incident_id, f"{COVERED}{last}")
    else:
        await _still_open(case, "contain")
    await through(case, requester, contain)


async def _covered_wave(case: Case) -> int:
    """The last wave whose containment was approved, or -1."""
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    return max(
        (int(m.name.removeprefix(COVERED)) for m in marks if m.name.startswith(COVERED)),
        default=-1,
    )


async def through(
    case: Case, requester: str, phase: Callable[[str, str], Awaitable[PhaseResult]]
) -> PhaseResult:
    """Runs a phase; where a wave holds, asks a person and goes on from that wave if they agree."""
    while True:
        await server_answers()
        result = await phase(case.incident_id, case.runbook)
        if not result.held:
            return result
        if case.policy.gates.on_hold == "stop":
            raise Rejected(
                f"Promote the next wave of {result.phase}",
                subject=case.incident_id,
                expected="the gate to promote",
                got=result.reason,
                advice="The runbook stops at a hold. Mend the cause and start the run again.",
            )
        plan = await hold_plan(case, result.held, result.reason)
        await pass_gate(case, plan, case.policy.approvals.hold, requester=requester)


async def _acts_before(case: Case) -> int:
    """How many acts had an outcome when this run first started; resumes don't reset it."""
    prefix = f"run.{flow_run.id}.acts."
    for mark in await asyncio.to_thread(case.ledger.marks, case.incident_id):
        if mark.name.startswith(prefix):
            return int(mark.name.removeprefix(prefix))
    before = await _settled(case)
    await asyncio.to_thread(case.ledger.mark, case.incident_id, f"{prefix}{before}")
    return before


async def _settled(case: Case) -> int:
    """How many acts on the world have an outcome; looking at it (validate) is no act on it."""
    tally = await asyncio.to_thread(case.ledger.tally, case.incident_id)
    return sum(
        count
        for (step, _, verdict), count in tally.verdicts.items()
        if verdict is not None and not step.startswith(("validate.", "stage."))
    )
