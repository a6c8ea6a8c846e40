"""The day after: fresh links for who has not enrolled, and for who was proofed by hand."""

import asyncio

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.forms import operator_flow
from flows.incident_run import Who, at_work, named, run_on
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, References, Remind, Requester, RunbookName
from flows.settle import settling
from recovery.accounts import Stage
from tasks import links
from tasks.case import Case, Rights
from tasks.confirm import confirm_enrolled

CHUNK = 500
LANE = "follow-up"


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

    async def work(case: Case) -> State[object]:
        asked = list(release or [])
        if asked:
            named(requested_by, case.policy)
        async with at_work(case, LANE, Who("follow-up", requested_by)):
            with settling():
                return await _send(case, asked, remind=remind, actor=requested_by)

    return await run_on(incident_id, runbook, work, rights=Rights.ACT)


async def _send(case: Case, asked: list[str], *, remind: bool, actor: str) -> State[object]:
    released = 0
    if asked:
        released = await links.enroll_released(case, asked, actor=actor)
        get_run_logger().info("%s of %s released", released, len(asked))
    if not remind:
        # A reminder would go over the channels that are left anyway.
        await links.reroute(case)
    waiting = await asyncio.to_thread(
        lambda: [
            account.ref
            for account in case.ledger.accounts(case.incident_id, stages={Stage.NOTIFIED})
            if account.ref not in set(asked)
        ]
    )
    waiting = waiting if remind else []
    for start in range(0, len(waiting), CHUNK):
        await links.remind(case, waiting[start : start + CHUNK])
    await confirm_enrolled(case)
    return Completed(
        message=f"{released} of {len(asked)} released, {len(waiting)} reminded within the budget."
    )
