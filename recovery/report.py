"""The incident in one page: figures, timeline, what was refused or is unknown, and what to do next.

The HTML page needs nothing but itself (no script, no request to anybody); the Markdown is the short
form for a Prefect artifact. Neither holds personal data: counts, times, reasons and opaque ids.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from recovery.accounts import Stage
from recovery.report_input import (
    AuditHead,
    ClientOutcome,
    ReportInput,
    RotationState,
    StageTimes,
    StepSummary,
    Targets,
    WorldCheck,
    WorldFacts,
    client_outcomes,
    count_quarantined,
    scrub,
    summarize,
)
from recovery.report_kpis import (
    Kpi,
    Kpis,
    Standing,
    Timeline,
    duration,
    kpis,
    timeline,
)
from recovery.report_svg import curves_svg, gantt_svg

__all__ = [
    "AuditHead",
    "ClientOutcome",
    "Kpi",
    "Kpis",
    "ReportInput",
    "RotationState",
    "StageTimes",
    "Standing",
    "StepSummary",
    "Targets",
    "Timeline",
    "WorldCheck",
    "WorldFacts",
    "client_outcomes",
    "count_quarantined",
    "kpis",
    "render_html",
    "render_markdown",
    "summarize",
    "timeline",
]

_PATH = (
    Stage.SCOPED,
    Stage.CONTAINED,
    Stage.TOKEN_ISSUED,
    Stage.NOTIFIED,
    Stage.ENROLLED,
    Stage.VALIDATED,
)
_SHOWN_STAGES = (*_PATH, Stage.MANUAL)
_STAGE_TITLES = {
    Stage.SCOPED: "In scope",
    Stage.CONTAINED: "Contained",
    Stage.TOKEN_ISSUED: "Link prepared",
    Stage.NOTIFIED: "Notified",
    Stage.ENROLLED: "Enrolled",
    Stage.VALIDATED: "Validated",
    Stage.MANUAL: "With our team",
}
# Acts that only write something down; they are shown where they belong, not as work.
_SKIPPED, _BOOKKEEPING = "skip.", "stage."

_REFUSED_ADVICE = {
    "contain": "Look these accounts up at the platform. Deleted or deactivated ones need nothing; "
    "contain the others by hand, mend the cause, reopen the acts and run `respond` again.",
    "enroll": "The platform would not change these accounts. Mend the cause, reopen the acts and "
    "run `respond` again; until then they can’t enroll.",
    "notify": "The provider will not deliver to these contacts. These people have the other "
    "channels; whoever was reached on none is for the support team.",
    "notify_manual": "These people wait for our team and were not told over this channel. Call "
    "them first.",
    "rotate": "Nothing was broken by it: a secret that failed was taken back. Read the reason, "
    "mend it and run `rotate` again.",
    "validate": "These did not pass. Contain them again and look at what is still alive before "
    "anything is retired.",
}
_UNKNOWN_ADVICE = {
    "notify": "The provider’s answer never came. The next run asks it first and sends only what "
    "it does not have; nobody is written to twice.",
    "rotate": "The next run looks at Vault and the platform and goes on from what it sees.",
}
_CODES = {
    "21211": "not a valid number",
    "21408": "texts to this country are switched off",
    "21610": "the person has opted out by STOP",
    "21614": "not a mobile number",
}
"""What Twilio's numbers mean; they are refused for good."""
_DEFAULT_REFUSED = "Read the reason, mend the cause, reopen the acts and run `respond` again."
_DEFAULT_UNKNOWN = "Run `respond` again: what is not known is asked for or safely repeated."


@dataclass(frozen=True, slots=True)
class _Trouble:
    """One reason for which something was not done, and what to do about it."""

    step: str
    verdict: str
    reason: str
    count: int
    advice: str


@dataclass(frozen=True, slots=True)
class _Bar:
    title: str
    count: int
    share: float
    """Of the first bar, 0 to 1."""


def render_html(report: ReportInput) -> str:
    """One self-contained page for print and screen, light and dark."""
    line = timeline(report)
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            **_common(report, line),
            # Our own drawings, built from numbers and escaped labels.
            gantt=Markup(gantt_svg(line, _milestones(kpis(report)))),  # noqa: S704
            curves=Markup(curves_svg(report)),  # noqa: S704
            burst=Markup(report.burst_picture),  # noqa: S704
            waves=_waves(report),
            shown_stages=[(stage, _STAGE_TITLES[stage]) for stage in _SHOWN_STAGES],
            work=[s for s in report.steps if not s.step.startswith((_SKIPPED, _BOOKKEEPING))],
            skips=_skips(report.steps),
            clients=sorted(report.clients, key=lambda c: (not c.failed, c.record.client_id)),
            approvals=report.approvals,
            quarantined=sorted(report.quarantined.items(), key=lambda item: (-item[1], item[0])),
            deliveries=sorted(report.deliveries.items()),
            reasons=sorted(report.scope.reasons.items(), key=lambda item: -item[1]),
            phases=line.phases,
        )
    )


def render_markdown(report: ReportInput) -> str:
    """The short form: headline figures, how far everybody is, and what needs a person."""
    line = timeline(report)
    template = _templates().get_template("report.md.j2")
    return template.render(**_common(report, line)).strip() + "\n"


def _common(report: ReportInput, line: Timeline) -> dict[str, object]:
    figures = kpis(report)
    return {
        "report": report,
        "incident": report.incident,
        "scope": report.scope,
        "headline": figures.headline,
        "figures": figures.all,
        "line": line,
        "funnel": _funnel(report),
        "manual": report.tally.in_stage(Stage.MANUAL),
        "accounted": _accounted(report),
        "troubles": [*_waiting(report), *_troubles(report.steps)],
        "broken": [c for c in report.clients if c.failed],
        "population": report.population,
        "verdict": _verdict(report, figures),
    }


def _verdict(report: ReportInput, figures: Kpis) -> str:
    """The incident in one sentence."""
    people = report.population
    if not people:
        return "No affected account was admitted."
    contained = report.tally.in_stage(*(s for s in Stage if s.rank >= Stage.CONTAINED.rank))
    enrolled = report.tally.in_stage(Stage.ENROLLED, Stage.VALIDATED)
    done = figures.by_key["all_contained"]
    text = f"{contained:,} of {people:,} accounts contained"
    if done.measured is not None:
        text += f" in {done.value}"
    text += f", {enrolled:,} people enrolled again"
    failed = sum(client.failed for client in report.clients)
    turned = sum(
        client.state in (RotationState.RENEWED, RotationState.RETIRED) for client in report.clients
    )
    if report.clients:
        text += f", {turned:,} of {len(report.clients):,} client secrets rotated"
        text += f" ({failed:,} in trouble)" if failed else " without a failed integration"
    return text + "."


def _funnel(report: ReportInput) -> list[_Bar]:
    """How many got at least this far. An account left to our team is a contained one."""
    people = report.population
    bars = [_Bar("Sighted in the burst", report.scope.sighted, 1.0)]
    whole = max(report.scope.sighted, people, 1)
    for stage in _PATH:
        count = report.tally.in_stage(*(s for s in Stage if s.rank >= stage.rank))
        bars.append(_Bar(_STAGE_TITLES[stage], count, count / whole))
    return bars


def _accounted(report: ReportInput) -> bool:
    """Rows in = admitted + excluded + not in the roster; anything else is shown as an alarm."""
    scope = report.scope
    return scope.sighted == scope.admitted + scope.excluded + scope.unrostered


def _waves(report: ReportInput) -> list[tuple[int, dict[Stage, int], int]]:
    numbers = sorted({wave for wave, stage in report.tally.stages if stage in _SHOWN_STAGES})
    rows = []
    for wave in numbers:
        counts = {s: report.tally.in_stage(s, wave=wave) for s in _SHOWN_STAGES}
        rows.append((wave, counts, sum(counts.values())))
    return rows


def _troubles(steps: Iterable[StepSummary]) -> list[_Trouble]:
    found = []
    for step in steps:
        if step.step.startswith((_SKIPPED, _BOOKKEEPING)):
            continue
        phase = step.step.partition(".")[0]
        refused = _REFUSED_ADVICE.get(phase, _DEFAULT_REFUSED)
        unknown = _UNKNOWN_ADVICE.get(phase, _DEFAULT_UNKNOWN)
        for reason, count in step.refused_reasons.items():
            meaning = _CODES.get(reason)
            told = f"{reason}, {meaning}" if meaning else reason
            found.append(_Trouble(step.step, "refused", told, count, refused))
        for reason, count in step.unknown_reasons.items():
            found.append(_Trouble(step.step, "unknown", reason, count, unknown))
        if step.unsettled:
            reason = "begun, and the run ended before the answer"
            found.append(_Trouble(step.step, "unknown", reason, step.unsettled, unknown))
    return sorted(found, key=lambda t: -t.count)


def _waiting(report: ReportInput) -> list[_Trouble]:
    """What was left to people on purpose."""
    found = []
    if manual := report.tally.in_stage(Stage.MANUAL):
        reason = "accounts wait until our team knows who asks for them"
        advice = "Check by hand who they are, then release them: they get a link like all others."
        found.append(_Trouble("proofing", "waiting", reason, manual, advice))
    left = [c for c in report.clients if c.state is RotationState.UNTOUCHED]
    for reason, count in Counter(client.reason for client in left).most_common():
        advice = "Rotate these client secrets by hand, together with their owners."
        found.append(_Trouble("rotate", "waiting", reason, count, advice))
    return found


def _skips(steps: Iterable[StepSummary]) -> list[tuple[str, str, int]]:
    """(channel, why, how many people) who were not written to over it."""
    return [
        (step.step.removeprefix(_SKIPPED), reason, count)
        for step in steps
        if step.step.startswith(_SKIPPED)
        for reason, count in step.refused_reasons.items()
    ]


def _milestones(figures: Kpis) -> list[tuple[str, timedelta, bool]]:
    """Moments that cut across the phases: everybody contained, and the attacker's last success."""
    found = []
    for key, label in (
        ("all_contained", "All accounts contained"),
        ("attacker", "Attacker’s last accepted action"),
    ):
        kpi = figures.by_key.get(key)
        if kpi is not None and kpi.measured:
            good = kpi.standing is Standing.MET or key == "all_contained"
            found.append((label, timedelta(seconds=kpi.measured), good))
    return found


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates" / "report"),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "scrub": scrub,
        "duration": duration,
        "utc": _utc,
        "thousands": lambda number: f"{number:,}",
        "cell": _cell,
        "ticks": _ticks,
    }
    return environment


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _ticks(text: str) -> Markup:
    """Our own advice, with `names` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _cell(text: object) -> str:
    """Text inside a Markdown table."""
    return scrub(str(text)).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
