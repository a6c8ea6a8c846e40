"""Report: KPIs, timeline, canonical list, audit log; written owner-only and shown as artifacts."""

from prefect import flow

from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from tasks.case import open_case


@flow(name="report", flow_run_name="report {incident_id}", persist_result=False)
async def report(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> None:
    """Placeholder."""
    async with open_case(incident_id, runbook) as case:
        print(case)
