"""Trying refused acts again after their cause was mended, and ending an incident for good."""

import asyncio
from collections import Counter
from typing import Annotated, Literal

from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.approve import pass_gate
from flows.forms import operator_flow
from flows.incident_run import RECOVERY, Who, at_work, named, run_on, so_far
from flows.parameters import (
    DEFAULT_RUNBOOK,
    AskAgain,
    DryRun,
    IncidentId,
    Requester,
    RunbookName,
)
from recovery.accounts import Verdict
from recovery.incident import ActRecord
from recovery.plans import close_plan, reopen_plan
from tasks.case import Case

Step = Annotated[
    Literal[
        "contain.account", "contain.app_tokens", "enroll.remove_authenticators", "validate.account"
    ],
    Field(description="Which acts. Messages are not among them: the provider said no for good."),
]


@operator_flow("reopen")
async def reopen(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    step: Step = "contain.account",
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """Let **REFUSED** acts of one step be tried again, because their cause was mended.

    REFUSED is final until somebody says so here. Nothing is done yet: resume or start `respond`
    afterwards, or the phase. Where the runbook has `approvals.reopen`, it asks first. Starts as a
    **dry run**, which counts them by reason.
    """

    async def work(case: Case) -> State[object]:
        refused = await _refused(case, step)
        reasons = Counter(record.detail or "no reason given" for record in refused)
        shown = ", ".join(f"{n}x {why}" for why, n in reasons.most_common()) or "none"
        if dry_run:
            return Completed(
                message=f"Dry run, nothing was changed. {len(refused)} acts of {step} are REFUSED: "
                f"{shown}."
            )
        named(requested_by, case.policy)
        async with at_work(case, RECOVERY, Who("reopen", requested_by, ask_again)):
            refused = await _refused(case, step)
            if refused:
                plan = reopen_plan(incident_id, step=step, refused=refused)
                await pass_gate(case, plan, case.policy.approvals.reopen, requester=requested_by)
            acts = [record.act for record in refused]
            count = await asyncio.to_thread(case.ledger.reopen, incident_id, acts)
        return Completed(
            message=f"{count} acts of {step} reopened ({shown}). Now resume or start `respond`."
        )

    return await run_on(incident_id, runbook, work)


async def _refused(case: Case, step: str) -> list[ActRecord]:
    return await asyncio.to_thread(
        lambda: [
            record
            for record in case.ledger.acts(case.incident_id, step)
            if record.verdict is Verdict.REFUSED
        ]
    )


@operator_flow("close")
async def close(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    dry_run: DryRun = True,
    requested_by: Requester = "operator",
    ask_again: AskAgain = False,
) -> State[object]:
    """End an incident **for good**: every open enrollment link dies, and no run may act any more.

    Who has not enrolled by then is for your support. The ledger keeps everything; `report` still
    works. Can't be undone. Where the runbook has `approvals.close`, it asks first. Starts as a
    **dry run**.
    """

    async def work(case: Case) -> State[object]:
        counts = await so_far(case)
        if dry_run:
            return Completed(message=f"Dry run, nothing was changed. {counts}")
        named(requested_by, case.policy)
        async with at_work(case, RECOVERY, Who("close", requested_by, ask_again)):
            plan = close_plan(incident_id, counts=counts)
            await pass_gate(case, plan, case.policy.approvals.close, requester=requested_by)
            await asyncio.to_thread(case.ledger.close_incident, incident_id, actor=requested_by)
        return Completed(message=f"Closed for good. {counts}")

    return await run_on(incident_id, runbook, work)
