"""Each phase on its own, to run or repeat one: the same gates, the same lease, the same ledger as
`respond`. What a gate has let pass stays passed; what is done costs nothing."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import detect as detect_phase
from flows import enroll as enroll_phase
from flows import validate as validate_phase
from flows.dry_run import plan_response
from flows.forms import operator_flow
from flows.incident_run import RECOVERY, Who, at_work, named, opened, put_name, run_on, so_far
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
from flows.respond import contain_all, retire_old, rotate_all, tell_people, through
from recovery.errors import NotFound
from tasks.case import Case

Phase = Callable[[Case, str], Awaitable[object]]


async def _alone(
    phase: str,
    incident_id: str,
    runbook: str,
    dry_run: bool,
    requested_by: str,
    ask_again: bool,
    do: Phase,
) -> State[object]:
    async def work(case: Case) -> State[object]:
        await _scoped(case)
        if dry_run:
            summary = await plan_response(case, window_start=None, window_end=None, scope_file=None)
            return Completed(
                message=f"Dry run of {phase}, nothing was changed. {summary} See the row "
                f"`{phase}` of the artifact `dry-run-{incident_id.lower()}`."
            )
        named(requested_by, case.policy)
        async with at_work(case, RECOVERY, Who(phase, requested_by, ask_again)):
            await do(case, requested_by)
            return Completed(message=f"{phase} is through. {await so_far(case)}")

    return await run_on(incident_id, runbook, work)


async def _scoped(case: Case) -> None:
    """Raises NotFound where the incident has no accounts yet: there is nothing to work on."""
    if not await opened(case):
        raise NotFound(
            "Look up the incident",
            subject=case.incident_id,
            expected="one that was scoped",
            got="none of this id",
            advice="Run `detect` or `respond` first, or correct the id.",
        )


@operator_flow("detect")
async def detect(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    window_start: WindowStart = None,
    window_end: WindowEnd = None,
    scope_file: ScopeFile = None,
    requested_by: Requester = "operator",
) -> State[object]:
    """Find the burst of password resets and write down who is affected; nothing else.

    Reads the **SIEM** and the platform's roster, changes nothing there. Run it again to admit
    **late arrivals**: accounts that are in keep their wave and batch. Who requests it is one of
    the incident's requesters and can't approve its gates.
    """

    async def work(case: Case) -> State[object]:
        named(requested_by, case.policy)
        who = Who("detect", requested_by)
        async with at_work(case, RECOVERY, who):
            counts = await detect_phase.detect(
                incident_id, runbook, window_start, window_end, scope_file, requested_by
            )
            await put_name(case, who)
        source = f" out of {Path(scope_file).name}" if scope_file else ""
        return Completed(
            message=f"{counts.sighted} accounts seen{source}, {counts.admitted} admitted, "
            f"{counts.excluded} excluded, {counts.unrostered} not in the roster."
        )

    return await run_on(incident_id, runbook, work)


@operator_flow("contain")
async def contain(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Revoke sessions, tokens, grants and recovery links, and force a password reset.

    Asks at the gate **contain** for the same approval of the same plan as `respond`, and never
    acts without it; what was approved before is not asked again. Canary first. Who is contained
    costs nothing. Starts as a **dry run**.
    """
    return await _alone(
        "contain", incident_id, runbook, dry_run, requested_by, ask_again, contain_all
    )


@operator_flow("enroll")
async def enroll(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Remove old authenticators of contained accounts and open their enrollments.

    Touches only accounts that were **contained** under an approval. Who needs a person is set
    aside as MANUAL. Nobody is written to. Starts as a **dry run**.
    """

    async def do(case: Case, requester: str) -> None:
        await through(case, requester, enroll_phase.enroll)

    return await _alone("enroll", incident_id, runbook, dry_run, requested_by, ask_again, do)


@operator_flow("notify")
async def notify(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Send everybody who has an open enrollment the link, and the others word from us.

    Asks at the gate **notify** as `respond` does, with the text and how many get it. Each person
    gets each message once, however often this runs. Starts as a **dry run**.
    """
    return await _alone(
        "notify", incident_id, runbook, dry_run, requested_by, ask_again, tell_people
    )


@operator_flow("rotate")
async def rotate(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Create, deploy and test a new secret for every client linked to the affected accounts.

    The old secrets **stay valid**: nothing that runs can break. `retire` takes them away. Starts
    as a **dry run**.
    """

    async def do(case: Case, requester: str) -> None:
        await rotate_all(case, requester)

    return await _alone("rotate", incident_id, runbook, dry_run, requested_by, ask_again, do)


@operator_flow("retire")
async def retire(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Deactivate and delete the old client secrets: the one step that **can't be undone**.

    Asks at the gate **retire** as `respond` does; needs a validation that passed. Starts as a
    **dry run**.
    """
    return await _alone(
        "retire", incident_id, runbook, dry_run, requested_by, ask_again, retire_old
    )


@operator_flow("validate")
async def validate(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Prove that the recovery is real: nothing stolen lives, old passwords fail, secrets serve.

    Reads, and logs in with our **own test accounts**; changes nothing but the stage VALIDATED. A
    probe that fails holds and asks at the gate **hold**.
    """

    async def do(case: Case, requester: str) -> None:
        await through(case, requester, validate_phase.validate)

    return await _alone("validate", incident_id, runbook, False, requested_by, ask_again, do)
