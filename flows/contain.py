"""Contain: revoke what an attacker may hold, canary first, late arrivals in the same run."""

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.settle import settling
from flows.waves import PhaseResult, everyone, over_waves
from recovery import contain as plans
from recovery.incident import Phase
from tasks import contain as tasks
from tasks.case import Case, Rights, open_case, preflight


@operator_flow("contain")
async def contain(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Revoke sessions, tokens, grants and recovery links of every admitted account.

    Refresh tokens go first, then sessions and devices; then the password is reset by force.
    Run it again to go on where it stopped: who is contained costs nothing.
    """
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        return await contain_accounts(case)


async def contain_accounts(case: Case) -> PhaseResult:
    """All waves with their gates, then the tokens that our own apps store (RFC 7009)."""
    result = await over_waves(
        case, Phase.CONTAIN, plans.STEP, tasks.revoke_batch, expected=everyone
    )
    if result.held:
        return result
    with settling():
        for client_id in case.policy.contain.own_apps:
            await tasks.revoke_app_tokens(case, client_id)
    return result
