"""The figures of an incident: how fast, how many, and whether that is what was promised.

Times count from the opening of the incident and include waiting for people. A figure that can
still come out either way says so instead of guessing.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from recovery.accounts import Stage
from recovery.report_input import ReportInput, RotationState

REMEDIATED = 0.9
"""The share of accounts whose time is the time to remediation."""


class Standing(StrEnum):
    MET = "met"
    MISSED = "missed"
    OPEN = "not yet known"


@dataclass(frozen=True, slots=True)
class Kpi:
    """One figure. `value` is for people, `measured` for machines: seconds, a share, a count."""

    key: str
    title: str
    value: str
    measured: float | None
    target: str
    standing: Standing
    note: str = ""


@dataclass(frozen=True, slots=True)
class Kpis:
    """All figures, in the order in which they are shown; the first six are the headline."""

    all: tuple[Kpi, ...]

    @property
    def headline(self) -> tuple[Kpi, ...]:
        return self.all[:6]

    @property
    def by_key(self) -> Mapping[str, Kpi]:
        return {kpi.key: kpi for kpi in self.all}


def kpis(report: ReportInput) -> Kpis:
    """Every figure of the playbook's metrics, each against its target."""
    clock = _Clock(report)
    targets, times = report.targets, report.times
    first = report.mark("contain.first_action") or min(times.contained.values(), default=None)
    contained = clock.reached(times.contained.values(), 1.0)
    figures = [
        clock.kpi(
            "first_containment",
            "First containment action",
            first,
            targets.first_containment,
        ),
        clock.kpi(
            "all_contained",
            "All accounts contained",
            contained,
            targets.contained,
            f"{_done(report, Stage.CONTAINED):,} of {report.population:,}",
        ),
        clock.kpi(
            "remediation_90",
            "90 % of people enrolled again",
            clock.reached(times.enrolled.values(), REMEDIATED),
            targets.remediation,
            f"{_done(report, Stage.ENROLLED):,} of {report.population:,} enrolled"
            + _waiting(report),
        ),
        _share(report, "24h_notified", 24, targets.enrolled_24h, since_notice=True),
        _integrations(report),
        _share(report, "72h_notified", 72, targets.enrolled_72h, since_notice=True),
        clock.kpi(
            "contained_90",
            "90 % of accounts contained",
            clock.reached(times.contained.values(), REMEDIATED),
            targets.contained,
        ),
        clock.kpi(
            "notified_90",
            "90 % of people notified",
            clock.reached(times.notified.values(), REMEDIATED),
            targets.notified,
            f"{_done(report, Stage.NOTIFIED):,} of {report.population:,} got a link"
            + _waiting(report),
        ),
        _share(report, "24h_opened", 24, targets.enrolled_24h, since_notice=False),
        _share(report, "72h_opened", 72, targets.enrolled_72h, since_notice=False),
    ]
    if report.world is not None:
        figures.insert(2, _attacker(report, clock, contained))
    return Kpis(tuple(figures))


def _done(report: ReportInput, stage: Stage) -> int:
    """Accounts at this stage or beyond it."""
    return report.tally.in_stage(*(s for s in Stage if s.rank >= stage.rank))


def _waiting(report: ReportInput) -> str:
    manual = report.tally.in_stage(Stage.MANUAL)
    return f"; {manual:,} wait for our team" if manual else ""


class _Clock:
    """Durations since the opening, and what they mean while the clock still runs."""

    def __init__(self, report: ReportInput) -> None:
        self._opened = report.incident.opened_at
        self._now = report.incident.closed_at or report.generated_at
        self._population = report.population

    def reached(self, times: Iterable[datetime], share: float) -> datetime | None:
        """When this share of all accounts had got there; None where they have not yet."""
        needed = math.ceil(round(share * self._population, 9))
        ordered = sorted(times)
        return ordered[needed - 1] if 0 < needed <= len(ordered) else None

    def kpi(
        self, key: str, title: str, at: datetime | None, target: timedelta, note: str = ""
    ) -> Kpi:
        limit = f"within {duration(target)}"
        if at is None:
            if not self._population:
                return Kpi(key, title, "nobody affected", None, limit, Standing.OPEN, note)
            late = self._now - self._opened > target
            standing = Standing.MISSED if late else Standing.OPEN
            return Kpi(key, title, "not yet", None, limit, standing, note)
        took = max(at - self._opened, timedelta(0))
        standing = Standing.MET if took <= target else Standing.MISSED
        return Kpi(key, title, duration(took), took.total_seconds(), limit, standing, note)


def _attacker(report: ReportInput, clock: _Clock, contained: datetime | None) -> Kpi:
    assert report.world is not None
    last = report.world.attacker_last_accepted
    limit = "not after all were contained"
    title = "Attacker’s last accepted action"
    if last is None:
        return Kpi("attacker", title, "none since the opening", 0.0, limit, Standing.MET)
    took = max(last - report.incident.opened_at, timedelta(0))
    if contained is None:
        standing = Standing.OPEN
    else:
        standing = Standing.MET if last <= contained else Standing.MISSED
    note = "seen from the rehearsal’s world"
    return Kpi("attacker", title, duration(took), took.total_seconds(), limit, standing, note)


def _share(report: ReportInput, key: str, hours: int, target: float, *, since_notice: bool) -> Kpi:
    """The share of people who enrolled in time; open as long as enough others still may."""
    limit = timedelta(hours=hours)
    opened, now = report.incident.opened_at, report.generated_at
    enrolled, notified = report.times.enrolled, report.times.notified
    if since_notice:
        title = f"Enrolled within {hours} h of the notice"
        people = len(notified)
        good = sum(1 for r, at in notified.items() if r in enrolled and enrolled[r] - at <= limit)
        still = sum(1 for r, at in notified.items() if r not in enrolled and at + limit > now)
    else:
        title = f"Enrolled within {hours} h of the opening"
        people = report.population
        good = sum(1 for at in enrolled.values() if at - opened <= limit)
        still = people - len(enrolled) if opened + limit > now else 0
    wanted = f"at least {target:.0%}"
    if not people:
        return Kpi(f"enrolled_{key}", title, "nobody yet", None, wanted, Standing.OPEN)
    share = good / people
    if share >= target:
        standing = Standing.MET
    else:
        standing = Standing.OPEN if (good + still) / people >= target else Standing.MISSED
    note = f"{good:,} of {people:,}"
    return Kpi(f"enrolled_{key}", title, f"{share:.1%}", share, wanted, standing, note)


def _integrations(report: ReportInput) -> Kpi:
    due = [c for c in report.clients if c.state is not RotationState.UNTOUCHED]
    well = sum(c.state in (RotationState.RENEWED, RotationState.RETIRED) for c in due)
    failed = sum(c.failed for c in report.clients)
    allowed = report.targets.failed_integrations
    if failed > allowed:
        standing = Standing.MISSED
    else:
        standing = Standing.MET if due and well + failed == len(due) else Standing.OPEN
    return Kpi(
        "failed_integrations",
        "Failed client integrations",
        f"{failed:,}" if well or failed else "none rotated",
        float(failed),
        f"at most {allowed}",
        standing,
        f"{well:,} of {len(due):,} client secrets rotated" if due else "",
    )


# --- the timeline ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase against the playbook's window; all durations since the opening."""

    phase: str
    window: tuple[timedelta, timedelta]
    started: timedelta | None
    finished: timedelta | None
    """None while it runs."""
    standing: Standing


@dataclass(frozen=True, slots=True)
class Wait:
    """The run stood still until a person decided. `until` is None while it stands."""

    gate: str
    since: timedelta
    until: timedelta | None


@dataclass(frozen=True, slots=True)
class Timeline:
    phases: tuple[PhaseSpan, ...]
    waits: tuple[Wait, ...]
    elapsed: timedelta
    """From the opening to the close, or to this report."""

    @property
    def waited(self) -> timedelta:
        """Time in which at least one gate was waiting for a person."""
        total, reached = timedelta(0), timedelta(0)
        for wait in sorted(self.waits, key=lambda w: w.since):
            until = self.elapsed if wait.until is None else wait.until
            total += max(timedelta(0), until - max(wait.since, reached))
            reached = max(reached, until)
        return total


WINDOWS: Mapping[str, tuple[int, int]] = {
    "detect": (0, 10),
    "contain": (10, 25),
    "enroll": (25, 45),
    "notify": (25, 45),
    "rotate": (45, 70),
    "validate": (70, 90),
    "retire": (70, 90),
}
"""Minutes since the opening in which the playbook has each phase done."""


def timeline(report: ReportInput) -> Timeline:
    """Every phase against the playbook's window, by the marks that the run has set."""
    opened = report.incident.opened_at
    elapsed = (report.incident.closed_at or report.generated_at) - opened

    def since(at: datetime | None) -> timedelta | None:
        return None if at is None else max(at - opened, timedelta(0))

    spans = []
    for phase, minutes in WINDOWS.items():
        window = timedelta(minutes=minutes[0]), timedelta(minutes=minutes[1])
        started = since(report.mark(f"{phase}.started"))
        finished = since(report.mark(f"{phase}.finished"))
        by = elapsed if finished is None else finished
        if by > window[1]:
            standing = Standing.MISSED
        else:
            standing = Standing.OPEN if finished is None else Standing.MET
        spans.append(PhaseSpan(phase, window, started, finished, standing))
    waits = []
    for mark in report.marks:
        if mark.name.startswith("gate.") and mark.name.endswith(".waiting"):
            gate = mark.name.removeprefix("gate.").removesuffix(".waiting")
            passed = [m.at for m in report.marks if m.name.startswith(f"gate.{gate}.passed")]
            until = since(min((at for at in passed if at >= mark.at), default=None))
            waits.append(Wait(gate, since(mark.at) or timedelta(0), until))
    return Timeline(tuple(spans), tuple(waits), elapsed)


def duration(span: timedelta) -> str:
    """The two largest units: 48 s, 4 min 12 s, 1 h 5 min, 2 d 3 h."""
    seconds = int(span.total_seconds())
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    for (name, size), (smaller, small_size) in pairwise(units):
        if seconds >= size:
            whole, rest = divmod(seconds, size)
            part = rest // small_size
            return f"{whole} {name} {part} {smaller}" if part else f"{whole} {name}"
    if seconds == 0 and span > timedelta(0):
        return "under 1 s"
    return f"{seconds} s"
