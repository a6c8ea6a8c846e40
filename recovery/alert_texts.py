"""What automations say to people and hand to runs: Jinja templates that Prefect's server renders.

They name runs, gates and times; an event that carries more is not passed on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

RUN = "{{ flow_run.name }}"
LINK = "{{ flow_run|ui_url }}"
STATE = "{{ flow_run.state.name }}"
WHY = "{{ flow_run.state.message | default('without a word', true) | truncate(300) }}"


@dataclass(frozen=True, slots=True)
class Note:
    subject: str
    body: str


WAITS = Note(
    f"{RUN} waits for an approver",
    f"{RUN} is suspended at a gate and does nothing until somebody answers. Read the plan and "
    f"answer it under Resume: {LINK}",
)
UNANSWERED = Note(
    f"Nobody answers: {RUN}",
    f"{RUN} has been waiting at a gate for longer than the runbook allows for. Nothing approves "
    f"itself: call an approver. {LINK}",
)
OVERDUE = Note(
    "Nobody answers at the gate {{ event.payload.gate }} of {{ event.resource.name }}",
    "The gate {{ event.payload.gate }} of {{ event.resource.name }} is overdue. Nothing approves "
    "itself. Call one of: {{ event.payload.approvers | join(', ') }}. "
    "{{ event.payload.run_url or event.payload.run }}",
)
ENDED_BADLY = Note(
    f"{RUN} ended as {STATE}",
    f"{RUN} ended as {STATE}: {WHY} "
    f"What was done stands in the ledger; the same incident id goes on from there. {LINK}",
)
BLIND = Note(
    "Nobody watches for bursts",
    f"{RUN} ended as {STATE}: {WHY} "
    f"Until it is mended a burst is found by people alone. Said at most once an hour. {LINK}",
)


def dry_run_parameters(runbook: str, requester: str) -> dict[str, Any]:
    """The parameters of a run of `respond` that an event plans: always a dry run, whatever the
    event says. A window that it does not tell is found in the SIEM."""
    return {
        "incident_id": _jinja("{{ event.payload.incident_id }}"),
        "runbook": runbook,
        "window_start": _optional("event.payload.window_start"),
        "window_end": _optional("event.payload.window_end"),
        "dry_run": True,
        "requested_by": requester,
    }


def _jinja(template: str) -> Mapping[str, str]:
    return {"__prefect_kind": "jinja", "template": template}


def _optional(value: str) -> Mapping[str, Any]:
    """A text, or null where the event has none: an empty text is no time."""
    return {"__prefect_kind": "json", "value": _jinja(f"{{{{ ({value} or none) | tojson }}}}")}
