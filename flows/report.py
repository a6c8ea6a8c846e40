"""Report: KPIs, timeline, canonical list, audit log; written owner-only and shown as artifacts."""

import asyncio

from flows.forms import operator_flow
from flows.parameters import DEFAULT_RUNBOOK, IncidentId, RunbookName
from flows.progress import show_markdown
from recovery.incident import Phase
from tasks import detect
from tasks import report as tasks
from tasks.audit import AuditDesk, keep_checkpoint
from tasks.case import open_case


@operator_flow("report")
async def report(incident_id: IncidentId, runbook: RunbookName = DEFAULT_RUNBOOK) -> str:
    """Write the report of an incident as it stands now; changes nothing else.

    HTML and Markdown, the canonical list (CSV and JSON) and the audit log, whose chain is verified
    first; a signed checkpoint of it goes to the runbook's second places. Run it again at any time:
    24 and 72 hours later the re-enrollment figures are known.
    """
    async with open_case(incident_id, runbook) as case:
        await asyncio.to_thread(case.ledger.mark, incident_id, f"{Phase.REPORT}.started")
        await detect.export_canonical(case)
        written = await tasks.write_report(case)
        await asyncio.to_thread(case.ledger.mark, incident_id, f"{Phase.REPORT}.finished")
        if case.checkpoints:
            await keep_checkpoint(AuditDesk.of(case))
        await show_markdown(case, "kpis", written.figures, f"Figures of {incident_id}")
        await show_markdown(case, "report", written.text, f"Report of {incident_id}")
        return str(written.html)
