"""Write what happened: report (HTML and Markdown), canonical list, audit log; owner-only files."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ledger.reporting import report_input
from recovery.approval_history import history, render
from recovery.files import write_private
from recovery.report import render_html, render_markdown
from recovery.run_texts import kpi_markdown
from tasks.case import Case
from tasks.retries import RETRIES


@dataclass(frozen=True, slots=True)
class Written:
    """Where the report is, and its short form for the UI."""

    html: Path
    text: str
    figures: str
    """The page of KPIs, as Markdown with the picture of the timeline."""


@task(task_run_name="write report", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def write_report(case: Case) -> Written:
    """Verifies the audit chain, then writes the report and the chain beside the list."""
    return await asyncio.to_thread(_write, case)


def _write(case: Case) -> Written:
    case.ledger.verify_audit()
    directory = case.directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = report_input(case.ledger, case.incident_id, case.policy.report, directory)
    html, markdown, audit = (directory / n for n in ("report.html", "report.md", "audit.jsonl"))
    text = render_markdown(found)
    write_private(html, render_html(found))
    write_private(markdown, text)
    entries = case.ledger.export_audit(audit, case.incident_id)
    approved = render(history(case.ledger.audit(case.incident_id)))
    write_private(directory / "approvals.md", approved)
    get_run_logger().info("report in %s, %s audit entries, chain verified", directory, entries)
    return Written(html, text, kpi_markdown(found))
