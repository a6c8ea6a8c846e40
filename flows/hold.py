"""The emergency stop: nothing more begins on an incident until somebody releases it."""

import asyncio
from typing import Annotated

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, Requester, RunbookName
from flows.tell import tell
from ledger import Ledger
from recovery.errors import RecoveryError
from recovery.incident import Lease
from tasks.case import open_ledger

SETTLING = 60.0
"""Seconds in which everything that is under way should have come to its end."""


@operator_flow("hold")
async def hold(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    reason: Annotated[
        str,
        Field(description="Why, for the audit log. No names of customers.", max_length=300),
    ] = "emergency stop",
    requested_by: Requester = "operator",
    release: Annotated[
        bool,
        Field(description="On: take the stop back, so that runs may be started again."),
    ] = False,
) -> State[object]:
    """**Stop everything on one incident**, wherever it runs; or, with *Release*, let it go on.

    Every run asks before each act whether it may begin. After a stop, what is under way is let
    finish and is settled, nobody is half told, and the runs end as Stopped. Needs the ledger
    alone: it works while every other system is down.

    To go on: run this with *Release* on, then start `respond` with the same id.
    """
    try:
        async with open_ledger(runbook) as (_, ledger):
            if release:
                return await _release(ledger, incident_id, reason, requested_by)
            order = await asyncio.to_thread(
                ledger.order_stop, incident_id, reason=reason, ordered_by=requested_by
            )
            tell(incident_id, "recovery.incident.stopped", {"ordered_by": requested_by})
            get_run_logger().warning("%s: stopped by %s", incident_id, order.ordered_by)
            working = await _until_still(ledger, incident_id)
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))
    if working:
        names = ", ".join(f"{lease.flow} (run {lease.run_id})" for lease in working)
        return Completed(
            message=f"Stopped: nothing more begins. Not at its end yet: {names}. It waits for an "
            "answer of another system, or its process died; cancel it if it does not end."
        )
    return Completed(message="Stopped: nothing more begins, and nothing works on this incident.")


async def _release(
    ledger: Ledger, incident_id: str, reason: str, requested_by: str
) -> State[object]:
    released = await asyncio.to_thread(
        ledger.release_stop, incident_id, reason=reason, released_by=requested_by
    )
    if not released:
        return Completed(message="No stop stood; nothing was changed.")
    tell(incident_id, "recovery.incident.released", {"released_by": requested_by})
    return Completed(message="Released. Start `respond`, or a phase, with the same id to go on.")


async def _until_still(ledger: Ledger, incident_id: str) -> list[Lease]:
    """Waits until no run holds the incident any more; returns those that still do."""
    deadline = asyncio.get_running_loop().time() + SETTLING
    while working := await asyncio.to_thread(ledger.leases, incident_id):
        if asyncio.get_running_loop().time() > deadline:
            return working
        await asyncio.sleep(1.0)
    return []
