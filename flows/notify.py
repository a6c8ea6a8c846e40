"""Notify: canary first; then fresh links as people ask for them, for as long as it is told to."""

import asyncio
from datetime import timedelta
from typing import Annotated

from prefect import get_run_logger
from pydantic import Field

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.waves import PhaseResult, over_waves
from recovery.incident import Phase
from tasks import notify as tasks
from tasks.case import Case, open_case, preflight
from tasks.links import reroute, serve_requests
from tasks.reroute import lost


@operator_flow("notify")
async def notify(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> PhaseResult:
    """Send everybody who has an open enrollment the link, and the others word from us.

    Email and in-app carry the link, SMS the reference and a code. Each person gets each message
    once, however often this runs.
    """
    async with open_case(incident_id, runbook) as case:
        await preflight(case)
        return await send_all(case)


async def send_all(case: Case) -> PhaseResult:
    return await over_waves(case, Phase.NOTIFY, tasks.STEP, tasks.send_notices)


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
) -> int:
    """Answer people who ask the portal for a fresh link, for as long as this run lasts.

    A fresh link goes only to the contacts on record and replaces the one before; the runbook's
    message budget holds. People whose message came back are written to over the next channel.
    Returns how many were served.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timedelta(minutes=minutes).total_seconds()
    served = 0
    async with open_case(incident_id, runbook) as case:
        await preflight(case)
        while loop.time() < until:
            pending = await asyncio.to_thread(case.ledger.pending_link_requests, incident_id)
            if await lost(case):
                get_run_logger().info("messages came back: %s", await reroute(case))
            if pending:
                counts = await serve_requests(case, pending)
                served += len(pending)
                get_run_logger().info("%s fresh links: %s", len(pending), counts)
            await asyncio.sleep(interval_seconds)
    return served
