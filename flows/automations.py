"""What happens by itself: alerts plan a response, people are told of gates and of runs that failed.

Created by `flows.setup` and seen under Automations in the UI. An event never acts: it starts a dry
run. The texts are in `recovery.alert_texts`, who is told in the runbook's `alerts`.
"""

import logging
from collections.abc import Iterable, Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.events.actions import ActionTypes, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from recovery import alert_texts as texts
from recovery.alert_texts import Note
from recovery.policy import AlertPolicy, RecoveryPolicy

log = logging.getLogger("recovery.setup")

SIEM_ALERT = "recovery.siem.alert"
BURST = "recovery.burst.detected"
OVERDUE = "recovery.approval.overdue"
_RUN = "prefect.flow-run"
_MOVED_ON = frozenset(
    f"{_RUN}.{state}"
    for state in (
        *("Resuming", "Scheduled", "Late", "AwaitingConcurrencySlot", "Pending", "Running"),
        *("Completed", "Failed", "Crashed", "Cancelling", "Cancelled"),
    )
)
_OF_A_DEPLOYMENT = {"prefect.resource.role": "deployment"}
"""Sub-runs have none: of a run that fails with its sub-run one is told."""


async def set_up_automations(client: PrefectClient, policy: RecoveryPolicy) -> list[str]:
    """Creates or updates ours by name and returns the names; says what can't be made yet.

    One that somebody has switched off in the UI stays off.
    """
    made: list[str] = []
    for automation in [
        *await _planned_responses(client, policy),
        *await _notices(client, policy.alerts),
    ]:
        await _put(client, automation)
        made.append(automation.name)
    return made


async def _put(client: PrefectClient, automation: AutomationCore) -> None:
    found = await client.read_automations_by_name(automation.name)
    if not found:
        await client.create_automation(automation)
        log.info("automation %r created", automation.name)
        return
    automation.enabled = found[0].enabled
    await client.update_automation(found[0].id, automation)
    for surplus in found[1:]:
        await client.delete_automation(surplus.id)
    state = "" if automation.enabled else ", switched off"
    log.info("automation %r is up to date%s", automation.name, state)


async def _planned_responses(client: PrefectClient, policy: RecoveryPolicy) -> list[AutomationCore]:
    try:
        deployment = await client.read_deployment_by_name("respond/respond")
    except ObjectNotFound:
        log.info("respond is not deployed yet: deploy it, then run this again for its automations")
        return []
    return [
        AutomationCore(
            name="recovery: an alert of the SIEM plans a response",
            description=f"An event {SIEM_ALERT}, posted to /api/events, starts respond as a dry "
            "run: nothing is changed. Its payload has incident_id, and window_start and "
            "window_end where the SIEM knows them.",
            trigger=_event({SIEM_ALERT}, "recovery.siem.*"),
            actions=[_dry_run(deployment.id, policy.name, "siem-alert")],
        ),
        AutomationCore(
            name="recovery: a burst seen by watch plans a response",
            description=f"An event {BURST} of the flow watch starts respond as a dry run with the "
            "window of the burst: nothing is changed.",
            trigger=_event({BURST}, "recovery.watch.*"),
            actions=[
                _dry_run(deployment.id, "{{ event.payload.runbook }}", "watch"),
            ],
        ),
    ]


def _dry_run(deployment_id: UUID, runbook: str, requester: str) -> RunDeployment:
    parameters = texts.dry_run_parameters(runbook, requester)
    return RunDeployment(source="selected", deployment_id=deployment_id, parameters=parameters)


def _event(events: Iterable[str], resource: str) -> EventTrigger:
    return EventTrigger(
        expect=set(events),
        match={"prefect.resource.id": resource},
        posture=Posture.Reactive,
        threshold=1,
    )


async def _notices(client: PrefectClient, alerts: AlertPolicy) -> list[AutomationCore]:
    """The automations whose notification blocks exist."""
    wanted: list[tuple[str, str, EventTrigger, Note, Sequence[str]]] = [
        (
            "recovery: a run waits for an approver",
            "Tells the approvers of every run that is suspended at a gate, with its link.",
            _state_of_run({"Suspended"}, "recovery"),
            texts.WAITS,
            alerts.approvers,
        ),
        (
            "recovery: nobody answers",
            f"Tells the escalation list where a run has been suspended for "
            f"{int(alerts.escalate_after.total_seconds() // 60)} minutes. It approves nothing.",
            _unanswered(alerts),
            texts.UNANSWERED,
            alerts.escalation,
        ),
        (
            "recovery: an approval is overdue",
            f"Tells the escalation list of an event {OVERDUE}. It approves nothing.",
            _event({OVERDUE}, "recovery.incident.*"),
            texts.OVERDUE,
            alerts.escalation,
        ),
        (
            "recovery: a run failed or crashed",
            "Tells the team of every run of ours that ended badly, with its link.",
            _state_of_run({"Failed", "Crashed", "TimedOut"}, "recovery", without="watch"),
            texts.ENDED_BADLY,
            alerts.failures,
        ),
        (
            "recovery: nobody watches for bursts",
            "Tells the team where the flow watch fails; at most once an hour.",
            _state_of_run({"Failed", "Crashed", "TimedOut"}, "watch", hourly=True),
            texts.BLIND,
            alerts.failures,
        ),
    ]
    made: list[AutomationCore] = []
    for name, description, trigger, note, blocks in wanted:
        actions: list[ActionTypes] = []
        for block in blocks:
            found = await _block_id(client, block)
            if found is None:
                log.info("no block %s yet: create it, then run this again (%s)", block, name)
                continue
            actions.append(
                SendNotification(block_document_id=found, subject=note.subject, body=note.body)
            )
        if actions:
            made.append(
                AutomationCore(name=name, description=description, trigger=trigger, actions=actions)
            )
        elif not blocks:
            log.info("nobody to tell in the runbook's alerts: %s", name)
    return made


def _state_of_run(
    states: Iterable[str], tag: str, *, without: str = "", hourly: bool = False
) -> EventTrigger:
    """A run of a deployment with this tag reaches one of these states; `hourly` at most once an
    hour for all of them, else each time."""
    related = [{"prefect.resource.id": f"prefect.tag.{tag}"}, _OF_A_DEPLOYMENT]
    if without:
        related[1] = {**_OF_A_DEPLOYMENT, "prefect.resource.name": f"!{without}"}
    return EventTrigger(
        expect={f"{_RUN}.{state}" for state in states},
        match={"prefect.resource.id": f"{_RUN}.*"},
        match_related=related,
        for_each=set() if hourly else {"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=3600 if hourly else 0,
    )


def _unanswered(alerts: AlertPolicy) -> EventTrigger:
    return EventTrigger(
        after={f"{_RUN}.Suspended"},
        expect=set(_MOVED_ON),
        match={"prefect.resource.id": f"{_RUN}.*"},
        match_related=[{"prefect.resource.id": "prefect.tag.recovery"}, _OF_A_DEPLOYMENT],
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=alerts.escalate_after,
    )


async def _block_id(client: PrefectClient, name: str) -> UUID | None:
    """Of the block document `type-slug/name`; None where there is none."""
    kind, _, document = name.partition("/")
    try:
        return (await client.read_block_document_by_name(document, kind)).id
    except ObjectNotFound:
        return None
