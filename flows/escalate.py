"""An approval that nobody gives is escalated after the runbook's timeout, and never given by time.

Each request plans one run of `escalate` ahead; it looks whether the request is still open.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed, Scheduled
from pydantic import Field

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.run_state import ended
from flows.tell import tell
from recovery.errors import RecoveryError
from recovery.incident import GateRequest
from tasks.case import Case, open_ledger

DEPLOYMENT = "escalate/escalate"
Gate = Annotated[str, Field(description="The gate that waits, such as contain.", max_length=80)]
Number = Annotated[int, Field(description="Which request at this gate.", ge=1, le=100_000)]
ROUNDS = 50
"""How often one request is escalated at most."""


@operator_flow("escalate")
async def escalate(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    gate: Gate = "contain",
    request: Number = 1,
    round_number: Annotated[
        int, Field(description="How often it was escalated, this time included.", ge=1, le=ROUNDS)
    ] = 1,
) -> State[object]:
    """Say aloud that nobody has answered at a gate; planned by the run that waits there.

    Emits `recovery.approval.overdue` and plans the next look. It approves nothing: the run stays
    suspended until somebody answers or cancels it.
    """
    try:
        async with open_ledger(runbook) as (policy, ledger):
            requests = await asyncio.to_thread(ledger.gate_requests, incident_id, gate)
            waiting = next((r for r in requests if r.number == request and not r.closed), None)
            if waiting is None:
                return Completed(message=f"The gate {gate} does not wait any more.")
            if await ended(waiting.run_id):
                why = "the run that asked has ended"
                await asyncio.to_thread(ledger.close_request, incident_id, waiting, why)
                return Completed(message=f"The gate {gate} does not wait any more: {why}.")
            rules = policy.approvals.of_gate(gate)
            overdue = ledger.now() - waiting.asked_at
            tell(
                incident_id,
                "recovery.approval.overdue",
                {
                    "gate": gate,
                    "request": request,
                    "round": round_number,
                    "approvers": list(rules.approvers),
                    "waiting_seconds": int(overdue.total_seconds()),
                    "run": waiting.run_id,
                },
            )
            await asyncio.to_thread(
                ledger.note,
                incident_id,
                "approval.overdue",
                actor="recovery",
                facts={"gate": gate, "request": request, "round": round_number},
            )
            if round_number < ROUNDS:
                await _plan(runbook, incident_id, waiting, rules.timeout, round_number + 1)
            minutes = int(overdue.total_seconds() // 60)
            message = f"Nobody has answered at the gate {gate} for {minutes} minutes: escalated."
            get_run_logger().warning("%s", message)
            return Completed(message=message)
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


async def remind_later(case: Case, request: GateRequest, timeout: timedelta) -> None:
    """Plans the first look. Where the deployment is missing, a line in the log has to do."""
    await _plan(case.runbook, case.incident_id, request, timeout, 1)


async def _plan(
    runbook: str,
    incident_id: str,
    request: GateRequest,
    timeout: timedelta,
    round_number: int,
) -> None:
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            get_run_logger().warning(
                "%s is not deployed: nobody is reminded of the gate %s", DEPLOYMENT, request.gate
            )
            return
        await client.create_flow_run_from_deployment(
            deployment.id,
            parameters={
                "incident_id": incident_id,
                "runbook": runbook,
                "gate": request.gate,
                "request": request.number,
                "round_number": round_number,
            },
            state=Scheduled(scheduled_time=datetime.now(UTC) + timeout),
            idempotency_key=f"{incident_id}-{request.gate}-{request.number}-{round_number}",
        )
