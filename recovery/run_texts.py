"""What the run history shows of an incident: a phase's table, the sub-runs, the page of figures.

Counts, phases and gates; nobody's account, name or address.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from recovery.accounts import Stage, Verdict
from recovery.incident import Phase, Tally
from recovery.report_input import ReportInput
from recovery.report_kpis import Kpis, Standing, Timeline, duration, kpis, timeline
from recovery.report_svg import gantt_svg

Row = dict[str, str | int]

_LIGHT = {
    "ink": "#1d2433",
    "muted": "#5b6474",
    "line": "#cfd5df",
    "frame": "#eef1f6",
    "card": "#ffffff",
    "ok": "#1f7a4d",
    "bad": "#b3261e",
    "wait": "#9a6700",
    "accent": "#2457c5",
    "plum": "#7a3e9d",
}
"""An image can't see the colours of the page around it: it brings its own, and its own ground."""
_BAR = 24


def run_name(flow: str, parameters: Mapping[str, object]) -> str:
    """`contain INC-2026-0142`, `respond INC-2026-0142 (dry run)`, `checkpoint (rehearsal)`."""
    runbook = parameters.get("runbook", "")
    about = parameters.get("incident_id") or (f"({runbook})" if runbook else "")
    name = f"{flow.replace('-', ' ')} {about}".strip()
    return f"{name} (dry run)" if parameters.get("dry_run") is True else name


def wave_name(phase: Phase, incident_id: str, wave: int) -> str:
    """What a phase's run is called while it works on a wave."""
    return f"{phase} {incident_id} wave {wave}"


def phase_rows(tally: Tally, step: str, waves: Iterable[int], promoted: Iterable[int]) -> list[Row]:
    """One row a wave: accounts, outcomes of the phase's step, whether the gate let it pass."""
    passed = set(promoted)
    rows: list[Row] = []
    for wave in sorted(waves):
        outcomes = {verdict: tally.of_verdict(step, verdict, wave=wave) for verdict in Verdict}
        open_acts = tally.of_verdict(step, None, wave=wave)
        rows.append(
            {
                "wave": f"{wave} (canary)" if wave == 0 else wave,
                "accounts": sum(n for (w, _), n in tally.stages.items() if w == wave),
                "done": outcomes[Verdict.DONE],
                "already": outcomes[Verdict.ALREADY],
                "refused": outcomes[Verdict.REFUSED],
                "unknown": outcomes[Verdict.UNKNOWN] + open_acts,
                "left to a person": tally.in_stage(Stage.MANUAL, wave=wave),
                "gate": "promoted" if wave in passed else "not yet",
            }
        )
    return rows


@dataclass(frozen=True, slots=True)
class SubRun:
    """One sub-run as the history shows it."""

    run_id: str
    name: str
    state: str
    started: datetime | None
    took: timedelta


def runs_markdown(incident_id: str, runs: Sequence[SubRun]) -> str:
    """The sub-runs in their order, each a link; addresses are relative to the UI they are in."""
    rows = "\n".join(
        f"| [{run.name}](/runs/flow-run/{run.run_id}) | {run.state} | "
        f"{f'{run.started:%H:%M:%S}' if run.started else '-'} | {duration(run.took)} |"
        for run in runs
    )
    head = "| Run | State | Began (UTC) | Took |\n|---|---|---|---|"
    return f"# Runs of {incident_id}\n\n{head}\n{rows}\n"


def kpi_markdown(report: ReportInput) -> str:
    """The page of figures: standing, KPIs, the timeline as a picture and in characters."""
    figures, line = kpis(report), timeline(report)
    picture = picture_markdown(gantt_svg(line), "The phases against the playbook's 90 minutes")
    return "\n".join(
        [
            f"# Figures of {report.incident.incident_id}",
            "",
            _sentence(figures),
            "",
            "| Figure | Value | Target | | |",
            "|---|---|---|---|---|",
            *(
                f"| {k.title} | **{k.value}** | {k.target} | {_word(k.standing)} | {k.note} |"
                for k in figures.all
            ),
            "",
            "## Timeline",
            "",
            picture,
            "",
            f"Waited for people: {duration(line.waited)}.",
            "",
            "```text",
            *_bars(line),
            "```",
            "",
        ]
    )


def picture_markdown(svg: str, title: str) -> str:
    """An SVG inside of the Markdown itself; nothing is fetched from anywhere."""
    style = ";".join(f"--{name}:{colour}" for name, colour in _LIGHT.items())
    begun, rest = svg.split(">", 1)
    _, _, width, height = begun.partition('viewBox="')[2].partition('"')[0].split()
    style += f";background:{_LIGHT['card']};font-family:system-ui,sans-serif"
    drawn = f'{begun} width="{width}" height="{height}"><style>svg{{{style}}}</style>{rest}'
    encoded = base64.b64encode(drawn.encode()).decode()
    return f"![{title}](data:image/svg+xml;base64,{encoded})"


def _sentence(figures: Kpis) -> str:
    missed = sum(k.standing is Standing.MISSED for k in figures.all)
    still = sum(k.standing is Standing.OPEN for k in figures.all)
    met = len(figures.all) - missed - still
    return f"{met} of {len(figures.all)} targets met, {missed} missed, {still} not yet known."


def _word(standing: Standing) -> str:
    return f"**{standing}**" if standing is Standing.MISSED else str(standing)


def _bars(line: Timeline) -> list[str]:
    """One line a phase; the whole width is the time since the opening."""
    whole = max(line.elapsed, timedelta(seconds=1))
    rows = []
    for span in line.phases:
        if span.started is None:
            rows.append(f"{span.phase:<9} {'·' * _BAR}  not begun")
            continue
        ended = span.finished or line.elapsed
        first = min(int(span.started / whole * _BAR), _BAR - 1)
        last = max(first + 1, min(int(ended / whole * _BAR), _BAR))
        bar = "·" * first + "█" * (last - first) + "·" * (_BAR - last)
        tail = "" if span.finished else ", still running"
        rows.append(f"{span.phase:<9} {bar}  {duration(ended - span.started)}{tail}")
    return rows
