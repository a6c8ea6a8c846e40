"""The scheduled rotation: what is older than the runbook's age, by the same code as an incident's,
under a ledger record of its own (`ROT-…`), so that all of it is in the audit log."""

import asyncio

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Failed

from flows.approve import Rejected, pass_gate
from flows.incident_run import RECOVERY, Who, at_work
from flows.parameters import DEFAULT_RUNBOOK, DryRun, Requester, RunbookName
from flows.rotate import show_inventory, turn_over
from flows.waves import PhaseResult
from recovery.errors import Busy, RecoveryError, Stopped
from recovery.hygiene import in_the_way, scheduled_id, unfinished
from recovery.inventory import too_old
from recovery.plans import overrule_plan, retire_plan
from tasks import rotate as tasks
from tasks.brake import Brake
from tasks.case import Case, Rights, open_case, preflight
from tasks.inventory import merged_clients, secrets_of

UNNAMED = "ROT-0000-0000"
"""Stands for the record until the ledger has said which one it is."""


@flow(
    name="rotate-scheduled",
    flow_run_name="rotate scheduled by {runbook}",
    persist_result=False,
)
async def rotate_scheduled(
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = False,
    requested_by: Requester = "schedule",
) -> State[object]:
    """Rotate the client secrets that are older than the runbook's `rotate.max_age`.

    The same steps, waves, freeze windows and rollbacks as in an incident. The old secrets are
    retired by approval, or by the runbook's `rotate.retire_scheduled: standing`.
    """
    try:
        async with open_case(UNNAMED, runbook, rights=Rights.ACT) as case:
            await preflight(case)
            records = await asyncio.to_thread(case.ledger.incidents)
            busy = in_the_way(records, await _rotating(case))
            if busy:
                return Completed(message=f"Nothing was done: {busy} is rotating secrets itself.")
            begun = unfinished(records)
            if not begun:
                stale = await _stale(case)
                if not stale or dry_run:
                    names = f": {', '.join(stale)}" if stale else ""
                    return Completed(
                        message=f"{len(stale)} client secrets are older than "
                        f"{case.policy.rotate.max_age.days} days{names}."
                    )
                case.incident_id = scheduled_id(case.ledger.now(), {r.incident_id for r in records})
                await _open(case, requested_by)
                await tasks.admit(case, await merged_clients(case, stale))
            elif dry_run:
                return Completed(message=f"{begun} was begun and is not finished.")
            else:
                case.incident_id = begun
            case.brake = Brake(case.ledger, case.incident_id)
            async with at_work(case, RECOVERY, Who("rotate-scheduled", requested_by)):
                return await _turn(case, requested_by)
    except (Rejected, Stopped) as no:
        return Cancelled(message=str(no))
    except Busy as busy:
        return Cancelled(name="Refused", message=str(busy))
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


async def _turn(case: Case, requester: str) -> State[object]:
    """Renew, retire, close the record. What holds is told; the next run goes on."""
    await show_inventory(case)
    held = await _through(case, requester, retire=False)
    if held is not None:
        return Completed(message=f"{case.incident_id} holds: {held.reason}")
    retiring = await tasks.retiring_secrets(case)
    if retiring and case.policy.rotate.retire_scheduled == "ask":
        plan = retire_plan(
            await asyncio.to_thread(case.ledger.incident, case.incident_id),
            case.policy,
            retiring=retiring,
            validation="each new secret passed its test, see the table `rotate`",
        )
        await pass_gate(case, plan, case.policy.approvals.retire, requester=requester)
    held = await _through(case, requester, retire=True)
    if held is not None:
        return Completed(message=f"{case.incident_id} holds: {held.reason}")
    left = await tasks.not_rotated(case)
    if left:
        return Failed(
            message=f"{case.incident_id}: {len(left)} clients need a person: {', '.join(left)}."
        )
    await asyncio.to_thread(case.ledger.close_incident, case.incident_id)
    records = await tasks.rotatable(case)
    return Completed(message=f"{case.incident_id}: {len(records)} client secrets rotated.")


async def _through(case: Case, requester: str, *, retire: bool) -> PhaseResult | None:
    """The result that holds, or None. Somebody may let it go on where the runbook asks."""
    while True:
        if retire:
            waiting = [record for record, _ in await tasks.retiring_secrets(case)]
            waves, work, name = tasks.order_of(case, waiting), tasks.retire_secret, "retire"
        else:
            records = await tasks.rotatable(case)
            waves, work, name = tasks.order_of(case, records), tasks.renew_secret, "rotate"
        result = await turn_over(case, waves, work, name)
        if not result.held:
            return None
        if case.policy.gates.on_hold == "stop":
            return result
        plan = overrule_plan(case.incident_id, gate=result.held, reason=result.reason)
        await pass_gate(case, plan, case.policy.approvals.hold, requester=requester)


async def _stale(case: Case) -> list[str]:
    """Every client of the platform whose newest active secret is too old."""
    clients = await merged_clients(case, None)
    secrets = await secrets_of(case, [c.client_id for c in clients])
    return too_old(secrets, case.ledger.now(), case.policy.rotate.max_age)


async def _rotating(case: Case) -> set[str]:
    """The records that have begun to rotate and have not finished retiring."""
    found = set()
    for record in await asyncio.to_thread(case.ledger.incidents):
        marks = await asyncio.to_thread(case.ledger.marks, record.incident_id)
        names = {mark.name for mark in marks}
        if "rotate.started" in names and "retire.finished" not in names:
            found.add(record.incident_id)
    return found


async def _open(case: Case, requester: str) -> None:
    now = case.ledger.now()
    await asyncio.to_thread(
        case.ledger.open_incident,
        case.incident_id,
        window_start=now,
        window_end=now,
        runbook_digest=case.runbook_digest,
        runbook_commit=case.runbook_commit,
        requested_by=requester,
    )
