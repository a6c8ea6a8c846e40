"""Rotate client secrets in waves, lowest risk first; retire the old ones only when told so."""

import asyncio
from collections.abc import Sequence

from prefect import get_run_logger

from flows.client_waves import RotateClient, over_clients
from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.progress import show_table
from flows.settle import settling
from flows.waves import PhaseResult, overruled
from recovery import inventory
from recovery.incident import Phase
from tasks import rotate as tasks
from tasks.case import Case, Rights, open_case, preflight
from tasks.counts import BatchCounts
from tasks.rotate import Rotated


@operator_flow("rotate")
async def rotate(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Create, deploy and test a new secret for every client linked to the affected accounts.

    The old secrets stay valid: nothing that runs can break. `retire` takes them away.
    """
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        waves = await tasks.take_inventory(case)
        await show_inventory(case)
        return await turn_over(case, waves, tasks.renew_secret, "rotate")


@operator_flow("rotate-approved")
async def rotate_approved(
    incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK
) -> PhaseResult:
    """The same for the clients that are rotated only because somebody approved it by name."""
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        await show_inventory(case)
        return await turn_over(
            case, await tasks.lifted_waves(case), tasks.renew_secret, "rotate-approved"
        )


@operator_flow("retire")
async def retire(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Watch, deactivate and delete the old secrets of clients that run on a new one."""
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        waiting = [record for record, _ in await tasks.retiring_secrets(case)]
        return await turn_over(case, tasks.order_of(case, waiting), tasks.retire_secret, "retire")


async def turn_over(
    case: Case, waves: Sequence[Sequence[str]], work: RotateClient, name: str
) -> PhaseResult:
    """Works the waves, shows what came of each client, and where it holds and why."""
    ledger, incident_id = case.ledger, case.incident_id
    await asyncio.to_thread(ledger.mark, incident_id, f"{name}.started")
    with settling():
        worked = await over_clients(case, waves, work, overruled)
    await _show(case, name, worked.done)
    if worked.held:
        get_run_logger().warning("%s holds: %s", name, worked.reason)
        return PhaseResult(Phase.ROTATE, _counts(worked.done), worked.held, worked.reason)
    await asyncio.to_thread(ledger.mark, incident_id, f"{name}.finished")
    return PhaseResult(Phase.ROTATE, _counts(worked.done))


async def show_inventory(case: Case) -> None:
    """The artifact `inventory-…`: whose secret it is, who reads it where, how old it is."""
    rows = await tasks.inventory(case)
    await show_table(
        case,
        "inventory",
        inventory.shown(rows),
        f"Client secrets of {case.incident_id}: {len(rows)} in scope",
    )


def _counts(done: Sequence[Rotated]) -> BatchCounts:
    refused = sum(r.failed for r in done)
    return BatchCounts(done=len(done) - refused, refused=refused)


async def _show(case: Case, name: str, done: Sequence[Rotated]) -> None:
    gaps = await tasks.gaps(case)
    rows: list[dict[str, str | int]] = [
        {
            "client": r.client_id,
            "state": r.state,
            "why": r.reason,
            "without service (ms)": gaps.get(r.client_id, 0),
        }
        for r in done
    ]
    await show_table(case, name, rows, f"{name} {case.incident_id}: {len(done)} clients")
