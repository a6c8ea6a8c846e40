"""Write what happened: report (HTML and Markdown), canonical list, audit log; owner-only files."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ledger.reporting import report_input
from recovery.policy import ReportPolicy
from recovery.report import Targets, kpis, render_html, render_markdown
from tasks.case import Case
from tasks.detect import BURST_PICTURE
from tasks.files import write_private
from tasks.retries import RETRIES


@dataclass(frozen=True, slots=True)
class Written:
    """Where the files are, and the report's short form for the UI."""

    html: Path
    markdown: Path
    audit: Path
    entries: int
    text: str
    headline: tuple[tuple[str, str], ...]


def targets(policy: ReportPolicy) -> Targets:
    """What the figures are held against, where the runbook says so."""
    return Targets(
        first_containment=policy.containment_target, remediation=policy.remediation_target
    )


@task(task_run_name="write report", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def write_report(case: Case) -> Written:
    """Verifies the audit chain, then writes the report, the chain and the KPIs beside the list."""
    return await asyncio.to_thread(_write, case)


def _write(case: Case) -> Written:
    case.ledger.verify_audit()
    directory = case.directory
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    picture = directory / BURST_PICTURE
    found = report_input(
        case.ledger,
        case.incident_id,
        targets(case.policy.report),
        burst_picture=picture.read_text() if picture.exists() else "",
    )
    html, markdown, audit = (directory / n for n in ("report.html", "report.md", "audit.jsonl"))
    text = render_markdown(found)
    write_private(html, render_html(found))
    write_private(markdown, text)
    entries = case.ledger.export_audit(audit, case.incident_id)
    get_run_logger().info("report in %s, %s audit entries, chain verified", directory, entries)
    headline = tuple((k.title, k.value) for k in kpis(found).headline)
    return Written(html, markdown, audit, entries, text, headline)
