"""The list of an incident's sub-runs with their links, kept up to date beside the run above them.

Hooks of every operator's flow (flows.forms): a phase writes its own line, whoever started it.
"""

from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.sorting import FlowRunSort

from flows.progress import put_artifact
from recovery.run_texts import SubRun, runs_markdown

MOST = 100


async def link_runs(flow: Any, flow_run: FlowRun, state: State[Any]) -> None:
    """Redraws the list of the run above this one; a run that nobody started is in no list."""
    if flow_run.parent_task_run_id is None:
        return
    incident_id = str(flow_run.parameters.get("incident_id", ""))
    async with get_client() as client:
        task_run = await client.read_task_run(flow_run.parent_task_run_id)
        above = task_run.flow_run_id
        if above is None or not incident_id:
            return
        markdown = runs_markdown(incident_id, await _below(client, above))
        await put_artifact(
            client,
            f"runs-{incident_id}".lower(),
            "markdown",
            markdown,
            f"The sub-runs of {incident_id}",
            above,
        )


async def _below(client: PrefectClient, above: UUID) -> list[SubRun]:
    runs = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[above])
        ),
        sort=FlowRunSort.START_TIME_ASC,
        limit=MOST,
    )
    return [
        SubRun(
            str(run.id),
            run.name,
            run.state_name or "-",
            run.start_time,
            run.estimated_run_time,
        )
        for run in runs
    ]
