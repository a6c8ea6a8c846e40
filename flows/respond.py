"""The incident end to end: detect, contain, enroll, notify, rotate, validate, retire, report.

The ledger is the memory: a run that is resumed, repeated or started again after a crash begins
at the top and finds that finished phases cost nothing and passed gates stay passed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed

from flows.approve import Rejected, pass_gate
from flows.contain import contain
from flows.detect import FROM_FILE, detect
from flows.dry_run import plan_response
from flows.enroll import enroll
from flows.forms import operator_flow
from flows.notify import notify
from flows.parameters import (
    DEFAULT_RUNBOOK,
    DryRun,
    IncidentId,
    Requester,
    RunbookName,
    ScopeFile,
    WindowEnd,
    WindowStart,
)
from flows.report import report
from flows.rotate import retire, rotate
from flows.validate import validate
from flows.waves import PhaseResult
from recovery import notify as messages
from recovery.accounts import Stage
from recovery.errors import Misconfigured, RecoveryError
from recovery.plans import contain_plan, notify_plan, overrule_plan, retire_plan
from tasks.case import Case, open_case, preflight
from tasks.notify import publish_status
from tasks.rotate import retiring_secrets

COVERED = "gate.contain.covers."
"""Begins the mark that names the last wave whose containment was approved."""


@operator_flow("respond")
async def respond(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    dry_run: DryRun = True,
    scope_file: ScopeFile = None,
    requested_by: Requester = "operator",
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
    try:
        async with open_case(incident_id, runbook) as case:
            await preflight(case)
            if dry_run:
                summary = await plan_response(
                    case,
                    window_start=window_start,
                    window_end=window_end,
                    scope_file=Path(scope_file) if scope_file else None,
                )
                return Completed(message=f"Dry run, nothing was changed. {summary}")
            # A plan that waits for its approval stays as it was shown: later arrivals are looked
            # for once it has passed.
            if not await case.marked("detect.finished"):
                await detect(
                    incident_id, runbook, window_start, window_end, scope_file, requested_by
                )
            return await _recover(case, requested_by)
    except Rejected as no:
        return Cancelled(message=str(no))
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


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
        await _contain_all(case, requester)
        await _look_again(case, requester)
        await _through(case, requester, enroll)
    if waiting != "retire":
        await _tell_people(case, requester)
        await _through(case, requester, rotate)
        if await _look_again(case, requester):
            await _through(case, requester, enroll)
            await _through(case, requester, notify)
        await _through(case, requester, validate)
    await _retire(case, requester)
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


async def _tell_people(case: Case, requester: str) -> None:
    """Legal and PR approve the text, then it goes out."""
    plan = notify_plan(
        await asyncio.to_thread(case.ledger.incident, case.incident_id),
        case.policy,
        preview=messages.preview(case.policy, case.incident_id),
        text_digest=messages.text_digest(case.policy),
    )
    await pass_gate(case, plan, case.policy.approvals.notify, requester=requester)
    await publish_status(case)
    await _through(case, requester, notify)


async def _retire(case: Case, requester: str) -> None:
    """The old secrets go once somebody has seen that the new ones serve."""
    retiring = await retiring_secrets(case)
    if not retiring:
        return
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    validated = max(m.at for m in marks if m.name == "validate.finished")
    plan = retire_plan(
        await asyncio.to_thread(case.ledger.incident, case.incident_id),
        case.policy,
        retiring=retiring,
        validation=f"passed at {validated:%H:%M:%S} UTC, see the table `validate`",
    )
    await pass_gate(case, plan, case.policy.approvals.retire, requester=requester)
    await _through(case, requester, retire)


async def _last_words(case: Case, before: int) -> str:
    """What the run did, in one line; says so where nothing was left to do."""
    fresh = await _settled(case) - before
    tally = await asyncio.to_thread(case.ledger.tally, case.incident_id)
    contained = sum(tally.in_stage(stage) for stage in Stage if stage.rank >= Stage.CONTAINED.rank)
    done = f"{contained} accounts contained, {fresh} acts in this run."
    if fresh == 0:
        done = f"Nothing was left to do: {contained} accounts were contained before."
    return f"{done} The report is in {case.directory}."


async def _look_again(case: Case, requester: str) -> bool:
    """Admits and contains who reset late or was ingested late; True where there was somebody."""
    if await case.marked(FROM_FILE):
        return False
    before = (await asyncio.to_thread(case.ledger.scope, case.incident_id)).admitted
    counts = await detect(case.incident_id, case.runbook, None, None, None, requester)
    if counts.admitted == before:
        return False
    await _contain_all(case, requester)
    return True


async def _contain_all(case: Case, requester: str) -> None:
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
            )
            await pass_gate(case, plan, case.policy.approvals.contain, requester=requester)
        await asyncio.to_thread(ledger.mark, incident_id, f"{COVERED}{last}")
    await _through(case, requester, contain)


async def _covered_wave(case: Case) -> int:
    """The last wave whose containment was approved, or -1."""
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    return max(
        (int(m.name.removeprefix(COVERED)) for m in marks if m.name.startswith(COVERED)),
        default=-1,
    )


async def _through(
    case: Case, requester: str, phase: Callable[[str, str], Awaitable[PhaseResult]]
) -> PhaseResult:
    """Runs a phase; where a wave holds, asks a person and goes on from that wave if they agree."""
    while True:
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
        plan = overrule_plan(case.incident_id, gate=result.held, reason=result.reason)
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
