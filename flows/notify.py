"""Notify: canary first; then fresh links as people ask for them, for as long as it is told to."""

import asyncio
from datetime import timedelta
from typing import Annotated

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.forms import operator_flow
from flows.incident_run import leased, run_on
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.settle import settling
from flows.waves import PhaseResult, over_waves
from recovery.incident import Phase
from tasks import notify as tasks
from tasks.case import Case, Rights, open_case, preflight
from tasks.confirm import confirm_enrolled
from tasks.links import reroute, serve_requests
from tasks.reroute import lost

TELL_EVERY_SECONDS = 5.0


@operator_flow("notify")
async def notify(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Send everybody who has an open enrollment the link, and the others word from us.

    Email and in-app carry the link, SMS the reference and a code. Each person gets each message
    once, however often this runs.
    """
    async with open_case(incident_id, runbook, rights=Rights.ACT) as case:
        await preflight(case)
        return await send_all(case)


async def send_all(case: Case) -> PhaseResult:
    return await over_waves(case, Phase.NOTIFY, tasks.STEP, tasks.send_notices)


def _untold(case: Case) -> bool:
    return bool(case.ledger.unconfirmed(case.incident_id, limit=1))


@operator_flow("serve-links")
async def serve_links(
    incident_id: IncidentId,
    runbook: RunbookName = DEFAULT_RUNBOOK,
    minutes: Annotated[
        int,
        Field(description="Minutes to serve; then the run ends.", ge=1, le=1440),
    ] = 60,
    interval_seconds: Annotated[
        float,
        Field(description="Seconds between two looks.", ge=0.1, le=300),
    ] = 5.0,
) -> State[object]:
    """Answer people who ask the portal for a fresh link, for as long as this run lasts.

    Who has enrolled is told so, over a channel that was not just used for it. People whose message
    came back are written to over the next channel. A fresh link goes only to the contacts on record
    and replaces the one before; the runbook's message budget holds.
    """

    async def work(case: Case) -> State[object]:
        async with leased(case.ledger, incident_id, "serve-links", flow="serve-links"):
            with settling():
                served = await _serve(case, timedelta(minutes=minutes), interval_seconds)
        return Completed(message=f"{served} fresh links sent.")

    return await run_on(incident_id, runbook, work, rights=Rights.ACT)


async def _serve(case: Case, lasting: timedelta, interval_seconds: float) -> int:
    loop = asyncio.get_running_loop()
    until, served = loop.time() + lasting.total_seconds(), 0
    tell_at = loop.time()
    while loop.time() < until:
        await case.brake.check()
        pending = await asyncio.to_thread(case.ledger.pending_link_requests, case.incident_id)
        if await lost(case):
            get_run_logger().info("messages came back: %s", await reroute(case))
        if pending:
            counts = await serve_requests(case, pending)
            served += len(pending)
            get_run_logger().info("%s fresh links: %s", len(pending), counts)
        if loop.time() >= tell_at and await asyncio.to_thread(_untold, case):
            # Gathered for a while: a task run costs more than the notice of one person.
            tell_at = loop.time() + TELL_EVERY_SECONDS
            await confirm_enrolled(case)
        await case.brake.unless(asyncio.sleep(interval_seconds))
    return served
