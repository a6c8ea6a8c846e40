"""Which errors a task run is tried again on. The wire has retried single requests already; what
is left here is a system that was away for longer, and only what certainly had no effect."""

from typing import Any, TypedDict

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from recovery.errors import RateLimited, Unreachable


def worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """True for an error that says that nothing was done; everything else stops or is a verdict."""
    try:
        state.result()
    except (Unreachable, RateLimited):
        return True
    except Exception:
        return False
    return False


class Retries(TypedDict):
    retries: int
    retry_delay_seconds: list[float]
    retry_jitter_factor: float
    retry_condition_fn: Any


RETRIES: Retries = {
    "retries": 2,
    "retry_delay_seconds": [2.0, 10.0],
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}
