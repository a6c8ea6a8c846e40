"""The day after: fresh links for who has not enrolled, and for who was proofed by hand."""

import asyncio

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, References, Remind, Requester, RunbookName
from recovery.accounts import Stage
from recovery.errors import RecoveryError
from tasks import links
from tasks.case import open_case, preflight

CHUNK = 500


@operator_flow("follow-up")
async def follow_up(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    release: References = None,
    remind: Remind = True,
    requested_by: Requester = "operator",
) -> State[object]:
    """Send a fresh link to who was told and has not enrolled, within the runbook's budget.

    *Release* names accounts that stand in MANUAL and whose identity a person has proofed: they
    get their first link. Their references are in the canonical list, column `ref`.
    """
    try:
        async with open_case(incident_id, runbook) as case:
            await preflight(case)
            asked = list(release or [])
            released = 0
            if asked:
                released = await links.enroll_released(case, asked, actor=requested_by)
                get_run_logger().info("%s of %s released", released, len(asked))
            if not remind:
                # A reminder would go over the channels that are left anyway.
                await links.reroute(case)
            waiting = await asyncio.to_thread(
                lambda: [
                    account.ref
                    for account in case.ledger.accounts(incident_id, stages={Stage.NOTIFIED})
                    if account.ref not in set(asked)
                ]
            )
            waiting = waiting if remind else []
            for start in range(0, len(waiting), CHUNK):
                await links.remind(case, waiting[start : start + CHUNK])
            return Completed(
                message=f"{released} of {len(asked)} released, "
                f"{len(waiting)} reminded within the budget."
            )
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))
