"""Enroll: remove old authenticators and open an enrollment for everybody who can enroll alone."""

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.waves import PhaseResult, over_waves
from recovery.incident import Phase
from tasks import enroll as tasks
from tasks.case import Case, Rights, open_case, preflight


@operator_flow("enroll")
async def enroll(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Open enrollments for contained accounts; who needs a person is set aside as MANUAL.

    No token exists yet: it is derived when the message is composed.
    """
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        return await enroll_accounts(case)


async def enroll_accounts(case: Case) -> PhaseResult:
    return await over_waves(case, Phase.ENROLL, tasks.REMOVE_STEP, tasks.issue_tokens)
