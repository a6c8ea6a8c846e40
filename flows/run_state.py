"""What Prefect says of another run: whether its process can still be at work or its form open."""

from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound

ENDED = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
"""Not PAUSED: the UI's Pause does not end the process at once."""


async def ended(run_id: str) -> bool:
    """True where the run is over, or Prefect does not know it (any more)."""
    try:
        async with get_client() as client:
            run = await client.read_flow_run(UUID(run_id))
    except (ObjectNotFound, ValueError):
        return True
    return run.state is not None and run.state.type in ENDED
