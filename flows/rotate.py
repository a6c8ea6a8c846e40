"""Rotate client secrets in waves, lowest risk first; retire the old ones only when told so."""

import asyncio
from collections.abc import Awaitable, Callable

from prefect import get_run_logger

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.progress import show_table
from flows.settle import settling
from flows.waves import PhaseResult, hold_gate, overruled
from recovery.errors import Misconfigured, RecoveryError, Stopped, TakenOver
from recovery.gates import Hold
from recovery.incident import Phase
from tasks import rotate as tasks
from tasks.case import Case, Rights, open_case, preflight
from tasks.counts import BatchCounts
from tasks.rotate import Rotated

RotateClient = Callable[[Case, str], Awaitable[Rotated]]


@operator_flow("rotate")
async def rotate(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Create, deploy and test a new secret for every client linked to the affected accounts.

    The old secrets stay valid: nothing that runs can break. `retire` takes them away.
    """
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        waves = await tasks.take_inventory(case)
        return await _over(case, waves, tasks.renew_secret, "rotate")


@operator_flow("retire")
async def retire(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Watch, deactivate and delete the old secrets of clients that run on a new one."""
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        waiting = [record.client_id for record, _ in await tasks.retiring_secrets(case)]
        return await _over(case, [waiting] if waiting else [], tasks.retire_secret, "retire")


async def _over(case: Case, waves: list[list[str]], work: RotateClient, name: str) -> PhaseResult:
    """Wave by wave; more failures than the runbook's budget hold the rest."""
    with settling():
        return await _wave_by_wave(case, waves, work, name)


async def _wave_by_wave(
    case: Case, waves: list[list[str]], work: RotateClient, name: str
) -> PhaseResult:
    ledger, incident_id = case.ledger, case.incident_id
    await asyncio.to_thread(ledger.mark, incident_id, f"{name}.started")
    done: list[Rotated] = []
    for number, wave in enumerate(waves):
        await case.brake.check()
        worked = await asyncio.gather(
            *(_guarded(case, client_id, work) for client_id in wave), return_exceptions=True
        )
        # Each one is let finish and settle before the first error stops the phase.
        for result in worked:
            if isinstance(result, BaseException):
                raise result
            done.append(result)
        failed = sorted(r.client_id for r in done if r.failed)
        if len(failed) >= case.policy.rotate.max_failures and number < len(waves) - 1:
            reason = f"{len(failed)} of {len(done)} rotations need a person: {', '.join(failed)}"
            held = hold_gate(Phase.ROTATE, number)
            if not await overruled(case, held, Hold(reason)):
                get_run_logger().warning("%s holds: %s", name, reason)
                await _show(case, name, done)
                return PhaseResult(Phase.ROTATE, _counts(done), held, reason)
    await _show(case, name, done)
    await asyncio.to_thread(ledger.mark, incident_id, f"{name}.finished")
    return PhaseResult(Phase.ROTATE, _counts(done))


async def _guarded(case: Case, client_id: str, work: RotateClient) -> Rotated:
    """One client's trouble is its own; what is wrong for all of them stops the phase."""
    try:
        return await work(case, client_id)
    except (Misconfigured, Stopped, TakenOver):
        raise
    except RecoveryError as error:
        return tasks.trouble(client_id, error)


def _counts(done: list[Rotated]) -> BatchCounts:
    refused = sum(r.failed for r in done)
    return BatchCounts(done=len(done) - refused, refused=refused)


async def _show(case: Case, name: str, done: list[Rotated]) -> None:
    rows: list[dict[str, str | int]] = [
        {"client": r.client_id, "state": r.state, "why": r.reason} for r in done
    ]
    await show_table(case, name, rows, f"{name} {case.incident_id}: {len(done)} clients")
