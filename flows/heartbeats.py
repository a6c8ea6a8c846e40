"""A run whose process is gone stops sending heartbeats: an automation then marks it Crashed, so
that it holds no concurrency slot for ever and whoever watches is told (docs/decisions/0005).

The worker reports a flow's process that dies under its eyes within seconds. This is for the day on
which the worker, its machine or the server died too.
"""

import logging
from collections.abc import Iterable, Iterator
from datetime import timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

LOST = "recovery: heartbeat lost"
NOT_STARTED = "recovery: never started"
EVERY = timedelta(seconds=30)
"""What PREFECT_FLOWS_HEARTBEAT_FREQUENCY says in `prefect.yaml`; Prefect's least."""
LOST_AFTER = timedelta(minutes=3)
"""Six heartbeats: some are lost where the server is started again, and a busy server takes them in
a minute late (measured: docs/decisions/0005)."""
STARTED_WITHIN = timedelta(minutes=10)
"""A worker that dies while it starts a run leaves it Pending, and no worker takes it up again."""
ADVICE = "Start the run again with the same incident id; it goes on from the ledger."
_HEARTBEAT = "prefect.flow-run.heartbeat"
_STARTING = ("Pending", "Submitting")
_NOT_RUNNING = (
    *("Completed", "Failed", "Crashed", "Cancelled", "Cancelling"),
    *("Paused", "Suspended", "Resuming", "Scheduled", "AwaitingRetry", "AwaitingConcurrencySlot"),
    *("Late", "Stopped", "Refused"),
)
"""States in which no heartbeat is due, by the names that runs of ours have."""
log = logging.getLogger("recovery.setup")


def automations(
    lost_after: timedelta = LOST_AFTER, started_within: timedelta = STARTED_WITHIN
) -> list[AutomationCore]:
    """After a heartbeat another one must follow, or the end of running; after a start, a state."""
    return [
        _crashed(
            LOST,
            "Marks a run Crashed whose process sends no heartbeat any more.",
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *_events(_STARTING), *_events(_NOT_RUNNING)},
            within=lost_after,
            message=f"No heartbeat for {lost_after.total_seconds():.0f} seconds: the process is "
            f"gone. {ADVICE}",
        ),
        _crashed(
            NOT_STARTED,
            "Marks a run Crashed that a worker took and never started.",
            after=set(_events(_STARTING)),
            expect={_HEARTBEAT, "prefect.flow-run.Running", *_events(_NOT_RUNNING)},
            within=started_within,
            message=f"Not started within {started_within.total_seconds() / 60:.0f} minutes: the "
            f"worker is gone. {ADVICE}",
        ),
    ]


def _events(states: Iterable[str]) -> Iterator[str]:
    return (f"prefect.flow-run.{state}" for state in states)


def _crashed(
    name: str,
    description: str,
    *,
    after: set[str],
    expect: set[str],
    within: timedelta,
    message: str,
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=description,
        enabled=True,
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            after=after,
            expect=expect,
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message)],
    )


async def set_up_heartbeats(
    client: PrefectClient,
    *,
    lost_after: timedelta = LOST_AFTER,
    started_within: timedelta = STARTED_WITHIN,
) -> None:
    """Creates the automations, or makes them what they should be. Safe to repeat."""
    for wanted in automations(lost_after, started_within):
        found = await client.read_automations_by_name(wanted.name)
        if not found:
            await client.create_automation(wanted)
            log.info("automation `%s` created", wanted.name)
            continue
        first, *doubles = found
        await client.update_automation(first.id, wanted)
        for double in doubles:
            await client.delete_automation(double.id)
        log.info("automation `%s` is there", wanted.name)
