"""The tables a rehearsal ends with: KPIs, timeline, phases, what was refused, the world's verdict.

Rewrites the report with what only a rehearsal knows: when the attacker was really out.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ledger import Ledger
from ledger.reporting import report_input
from recovery.drift import CheckResult, RehearsalResult, figures_of
from recovery.files import write_private
from recovery.report import (
    ReportInput,
    WorldCheck,
    WorldFacts,
    kpis,
    render_html,
    render_markdown,
    timeline,
)
from recovery.report_kpis import duration
from rehearsal.drive import INCIDENT, Finished
from rehearsal.prefect_server import ROOT
from rehearsal.stage import Stage

_MARK = {"met": "[green]met[/green]", "missed": "[red]missed[/red]", "not yet known": "open"}


def show_summary(
    console: Console, stage: Stage, ledger: Ledger, finished: Finished, seconds: float
) -> None:
    """Prints the tables and the paths; the files hold the same and more."""
    run = finished.run
    style = "green" if run.type == "COMPLETED" else "red"
    console.print(f"\nrespond ended as [{style}]{run.state}[/{style}]: {run.message}", markup=True)
    directory = stage.reports / INCIDENT
    if any(i.incident_id == INCIDENT for i in ledger.incidents()):
        report = _with_world(ledger, stage, finished)
        if directory.exists():
            write_private(directory / "report.html", render_html(report))
            write_private(directory / "report.md", render_markdown(report))
        console.print(_kpi_table(report))
        console.print(_timeline_table(report))
        console.print(_phase_table(report))
    console.print(_verdict_table(finished))
    _show_paths(console, directory)
    console.print(
        f"{seconds:.0f} s in all, at most {finished.peak_bytes / 1e6:.0f} MB resident "
        f"(scenario {stage.scenario.name}, seed {stage.seed}, {stage.accounts} accounts)"
    )


def write_result(
    path: Path, stage: Stage, ledger: Ledger, finished: Finished, seconds: float
) -> None:
    """How it ended, for a comparison with the next one; an incident that was never opened has no
    figures and no counts."""
    known = any(i.incident_id == INCIDENT for i in ledger.incidents())
    scope = ledger.scope(INCIDENT) if known else None
    counts = {} if scope is None else {**asdict(scope), **scope.reasons}
    counts.pop("reasons", None)
    if known:
        counts["clients"] = len(ledger.clients(INCIDENT))
    result = RehearsalResult(
        scenario=stage.scenario.name,
        runbook=stage.scenario.runbook,
        seed=stage.seed,
        accounts=stage.accounts,
        at=datetime.now(UTC),
        seconds=round(seconds, 1),
        state=finished.run.type,
        checks=tuple(
            CheckResult(name=c.name, passed=c.passed, found=c.found) for c in finished.checks
        ),
        figures=figures_of(kpis(_with_world(ledger, stage, finished))) if known else (),
        counts=counts,
    )
    write_private(path, result.model_dump_json(indent=2))


def _with_world(ledger: Ledger, stage: Stage, finished: Finished) -> ReportInput:
    found = report_input(ledger, INCIDENT, stage.policy.report, stage.reports / INCIDENT)
    checks = tuple(WorldCheck(c.name, c.passed, c.found) for c in finished.checks)
    return replace(found, world=WorldFacts(finished.attacker_last_accepted, checks))


def _kpi_table(report: ReportInput) -> Table:
    table = Table("figure", "value", "target", "", title="KPIs", title_justify="left")
    for kpi in kpis(report).all:
        table.add_row(kpi.title, kpi.value, kpi.target, _MARK[kpi.standing])
    return table


def _timeline_table(report: ReportInput) -> Table:
    shown = timeline(report)
    waited = duration(shown.waited)
    title = f"Timeline against the playbook's 90 minutes; waited for people {waited}"
    table = Table("phase", "playbook", "began", "done", "", title=title, title_justify="left")
    for span in shown.phases:
        low, high = (int(edge.total_seconds() // 60) for edge in span.window)
        table.add_row(
            span.phase,
            f"{low}-{high} min",
            duration(span.started) if span.started is not None else "not begun",
            duration(span.finished) if span.finished is not None else "not done",
            _MARK[span.standing],
        )
    return table


def _phase_table(report: ReportInput) -> Table:
    table = Table(
        "step",
        "done",
        "already",
        "refused",
        "unknown",
        "why",
        title="What was done, refused or unknown",
        title_justify="left",
    )
    for step in report.steps:
        reasons = {**step.refused_reasons, **step.unknown_reasons}
        why = "; ".join(f"{n}x {reason}" for reason, n in reasons.items())
        counts = (step.done, step.already, step.refused, step.unknown + step.unsettled)
        table.add_row(step.step, *(str(n or "") for n in counts), why)
    return table


def _verdict_table(finished: Finished) -> Table:
    table = Table("", "the world says", "found", title="Verdict", title_justify="left")
    for check in finished.checks:
        mark = "[green]yes[/green]" if check.passed else "[red]NO[/red]"
        table.add_row(mark, check.name, check.found)
    return table


def _show_paths(console: Console, directory: Path) -> None:
    for name, title in (
        ("report.html", "report"),
        ("report.md", "report"),
        ("canonical.csv", "canonical list"),
        ("canonical.json", "canonical list"),
        ("audit.jsonl", "audit log"),
    ):
        path = directory / name
        if path.exists():
            console.print(f"{title:>15}: {path.relative_to(ROOT)}", soft_wrap=True)
