"""Watch: every minute, whether a burst of password resets has begun that no incident knows.
A burst emits one event; an automation makes it a dry run of `respond` (flows.automations).
"""

from uuid import NAMESPACE_URL, uuid5

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed, Failed
from prefect.variables import Variable
from pydantic import ValidationError

from flows.automations import BURST
from flows.parameters import DEFAULT_RUNBOOK, RunbookName
from recovery.detect import Burst
from recovery.errors import RecoveryError
from recovery.watch import Told, burst_payload, remembered, same_burst
from tasks.watch import Lookout, look, open_lookout

DESCRIPTION = """Look for a burst of password resets in the SIEM that no incident knows yet.

Reads only. A burst is told once, by the event `recovery.burst.detected` with its window, its counts
and an incident id to go on with; the automation *a burst seen by watch plans a response* starts a
dry run of `respond` for it. Our own forced resets are no burst.
"""


@flow(
    name="watch",
    description=DESCRIPTION,
    flow_run_name="watch {runbook}",
    persist_result=False,
    timeout_seconds=300,
)
async def watch(runbook: RunbookName = DEFAULT_RUNBOOK) -> State[object]:
    try:
        async with open_lookout(runbook) as lookout:
            burst = await look(lookout, now=lookout.ledger.now())
            if burst is None:
                return Completed(message="Ordinary traffic.")
            return Completed(message=await _tell(lookout, runbook, burst))
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


async def _tell(lookout: Lookout, runbook: str, burst: Burst) -> str:
    """Emits the event of a burst that is new, and remembers it in a variable of Prefect's."""
    told = await _told(runbook)
    if told is not None and not same_burst(burst, told, lookout.policy):
        told = None
    kept = remembered(burst, told)
    if told is None:
        emit_event(
            BURST,
            resource={
                "prefect.resource.id": f"recovery.watch.{runbook}",
                "prefect.resource.name": f"watch {runbook}",
            },
            payload=dict(burst_payload(burst, kept, runbook)),
            # Whoever sees the same burst again, by a lost variable, tells the same event.
            id=uuid5(NAMESPACE_URL, f"recovery:{runbook}:{kept.incident_id}"),
        )
        get_run_logger().warning("a burst of %s resets, told as %s", burst.events, kept.incident_id)
    if kept != told:
        await _remember(runbook, kept)
    size = f"{burst.events} resets since {burst.start:%H:%M} UTC"
    if told is None:
        return f"A burst: {size}. Planned as {kept.incident_id}."
    return f"{size}, told before as {kept.incident_id}."


def _variable(runbook: str) -> str:
    return f"recovery_watch_{runbook.replace('-', '_')}"


async def _told(runbook: str) -> Told | None:
    """What was told last; a variable that somebody has edited counts as none."""
    value = await Variable.aget(_variable(runbook))
    try:
        return None if value is None else Told.model_validate(value)
    except ValidationError:
        return None


async def _remember(runbook: str, told: Told) -> None:
    value = told.model_dump(mode="json")
    await Variable.aset(_variable(runbook), value, overwrite=True)
