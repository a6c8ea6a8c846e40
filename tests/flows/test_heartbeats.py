"""A run whose process is gone, on a real Prefect server: what marks it, what it still holds."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending, Running, Suspended

from flows.heartbeats import LOST, NOT_STARTED, set_up_heartbeats
from rehearsal.prefect_server import PrefectServer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

SILENT = timedelta(seconds=10)
"""The least that Prefect takes."""
PATIENCE = 90.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prefect(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    try:
        server.start_server()
        await asyncio.to_thread(server.wait_ready)
        with temporary_settings({PREFECT_API_URL: server.api}):
            async with get_client() as client:
                for _ in range(2):
                    await set_up_heartbeats(client, lost_after=SILENT, started_within=SILENT)
            yield server
    finally:
        server.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(prefect: PrefectServer) -> AsyncIterator[PrefectClient]:
    async with get_client() as client:
        yield client


async def one_at_a_time(client: PrefectClient, name: str) -> UUID:
    """A deployment like ours: one run, the next one waits."""
    flow_id = await client.create_flow_from_name(name)
    return await client.create_deployment(flow_id, name=name, concurrency_limit=1)


async def begun(client: PrefectClient, deployment: UUID) -> FlowRun:
    run = await client.create_flow_run_from_deployment(deployment)
    await client.set_flow_run_state(run.id, Pending())
    await client.set_flow_run_state(run.id, Running())
    return await client.read_flow_run(run.id)


async def heartbeat(client: PrefectClient, run: FlowRun) -> None:
    """As a flow's process sends it; returns when the server has it."""
    resource = f"prefect.flow-run.{run.id}"
    emit_event("prefect.flow-run.heartbeat", resource={"prefect.resource.id": resource})
    wanted = {
        "filter": {
            "event": {"name": ["prefect.flow-run.heartbeat"]},
            "resource": {"id": [resource]},
        }
    }
    async with asyncio.timeout(PATIENCE):
        while not (await client.request("POST", "/events/filter", json=wanted)).json()["total"]:
            await asyncio.sleep(0.2)


async def becomes(client: PrefectClient, run: FlowRun, wanted: StateType) -> FlowRun:
    async with asyncio.timeout(PATIENCE):
        while True:
            now = await client.read_flow_run(run.id)
            if now.state is not None and now.state.type is wanted:
                return now
            await asyncio.sleep(0.5)


async def test_the_set_up_can_be_repeated(client: PrefectClient) -> None:
    for name in (LOST, NOT_STARTED):
        assert len(await client.read_automations_by_name(name)) == 1


async def test_a_silent_run_is_marked_and_gives_its_place_to_the_next(
    client: PrefectClient,
) -> None:
    deployment = await one_at_a_time(client, "silent")
    dead = await begun(client, deployment)
    waiting = await client.create_flow_run_from_deployment(deployment)
    await client.set_flow_run_state(waiting.id, Pending())
    blocked = await client.read_flow_run(waiting.id)
    assert blocked.state is not None
    assert blocked.state.name == "AwaitingConcurrencySlot"
    asked = await begun(client, await one_at_a_time(client, "asked"))
    never = await client.create_flow_run_from_deployment(await one_at_a_time(client, "never"))
    for run in (dead, asked):
        await heartbeat(client, run)
    await client.set_flow_run_state(asked.id, Suspended(timeout_seconds=3600))
    await client.set_flow_run_state(never.id, Pending())

    marked = await becomes(client, dead, StateType.CRASHED)
    assert marked.state is not None
    assert "No heartbeat" in (marked.state.message or "")
    assert "same incident id" in (marked.state.message or "")
    # The place of the dead one is free at once, not when its lease ends after five minutes.
    await client.set_flow_run_state(waiting.id, Pending())
    assert (await becomes(client, waiting, StateType.PENDING)).state is not None
    lost = await becomes(client, never, StateType.CRASHED)
    assert lost.state is not None
    assert "Not started" in (lost.state.message or "")
    # Who waits for an answer sends no heartbeats, and rightly so.
    still = await client.read_flow_run(asked.id)
    assert still.state is not None
    assert still.state.name == "Suspended"


async def test_a_lease_outlives_the_server(client: PrefectClient, prefect: PrefectServer) -> None:
    """Kept in memory, a server that starts again knows no lease: the living run ends itself at its
    next renewal, and the slot of a dead one is never given back."""
    deployment = await one_at_a_time(client, "restarted")
    run = await begun(client, deployment)
    assert run.state is not None
    lease = run.state.state_details.deployment_concurrency_lease_id
    assert lease is not None
    assert prefect.server is not None
    prefect.server.kill()
    prefect.start_server()
    await asyncio.to_thread(prefect.wait_ready)
    await client.renew_concurrency_lease(lease_id=lease, lease_duration=300)
