"""Events about an incident, for automations to react on. They carry counts and names of gates and
approvers, never accounts, contacts, reasons or codes."""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event


def tell(incident_id: str, event: str, payload: Mapping[str, Any]) -> None:
    """Emits `event` on the resource `recovery.incident.<id>`. Telling never stops a run."""
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"recovery.incident.{incident_id}",
            "prefect.resource.name": incident_id,
        },
        payload={"incident": incident_id, **payload},
    )
