"""How a rehearsal compares with the one before it: what turned red, got slower or came out other.

Times move with the machine, so they may grow by the runbook's tolerance; counts of one seed may not
move at all.
"""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from recovery.policy import DriftPolicy
from recovery.report_kpis import Kpis, Standing

_SHARES = "enrolled_"
"""Begins the keys of the figures that are shares: more is better."""
_COUNTS = frozenset({"failed_integrations"})


class CheckResult(BaseModel):
    """One question to the rehearsal's world."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    found: str


class Figure(BaseModel):
    """One KPI; `measured` in seconds, as a share or as a count."""

    model_config = ConfigDict(frozen=True)

    key: str
    title: str
    value: str
    measured: float | None
    standing: Standing


class RehearsalResult(BaseModel):
    """What a rehearsal ended with; no names, no addresses."""

    model_config = ConfigDict(frozen=True)

    scenario: str
    runbook: str
    seed: int
    accounts: int
    at: datetime
    seconds: float
    state: str
    checks: tuple[CheckResult, ...]
    figures: tuple[Figure, ...]
    counts: Mapping[str, int]
    drift: tuple[str, ...] = ()
    """What was other than in the rehearsal it was compared with."""

    @property
    def good(self) -> bool:
        return (
            self.state == "COMPLETED"
            and bool(self.checks)
            and all(check.passed for check in self.checks)
        )

    @property
    def measure(self) -> bool:
        """True where later rehearsals are compared with this one: a drift never becomes the
        measure by itself."""
        return self.good and not self.drift


def figures_of(kpis: Kpis) -> tuple[Figure, ...]:
    return tuple(
        Figure(key=k.key, title=k.title, value=k.value, measured=k.measured, standing=k.standing)
        for k in kpis.all
    )


def drift(before: RehearsalResult, now: RehearsalResult, policy: DriftPolicy) -> tuple[str, ...]:
    """One line for each thing that is worse or other than before, the gravest first."""
    return (
        *_checks(before, now),
        *(line for figure in now.figures if (line := _figure(before, figure, policy))),
        *_counts(before.counts, now.counts),
    )


def _checks(before: RehearsalResult, now: RehearsalResult) -> list[str]:
    had = {check.name: check.passed for check in before.checks}
    has = {check.name for check in now.checks}
    red = [
        f"turned red: {check.name} ({check.found})"
        for check in now.checks
        if not check.passed and had.get(check.name, True)
    ]
    return red + [f"not asked any more: {name}" for name in had if name not in has]


def _figure(before: RehearsalResult, now: Figure, policy: DriftPolicy) -> str:
    was = next((figure for figure in before.figures if figure.key == now.key), None)
    if was is None:
        return ""
    worse = was.standing is Standing.MET and now.standing is not Standing.MET
    if was.measured is not None and now.measured is not None:
        grown = now.measured - was.measured
        if now.key.startswith(_SHARES):
            worse |= -grown > policy.share
        elif now.key in _COUNTS:
            worse |= grown > 0
        else:
            allowed = max(was.measured * policy.tolerance, policy.slack.total_seconds())
            worse |= grown > allowed
    return f"worse: {now.title} {now.value}, was {was.value}" if worse else ""


def _counts(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    return [
        f"counts differ: {name} {now.get(name, 0)}, was {before.get(name, 0)}"
        for name in sorted({*before, *now})
        if before.get(name, 0) != now.get(name, 0)
    ]


def drift_markdown(now: RehearsalResult, before: RehearsalResult | None) -> str:
    """The page of a rehearsal: the drift first, then checks, figures and counts beside the ones
    before."""
    title = f"# Rehearsal of {now.scenario}, seed {now.seed}, {now.accounts} accounts"
    if before is None:
        against = "There was no good rehearsal of this kind before: nothing to compare with."
    else:
        against = f"Compared with {before.at:%Y-%m-%d %H:%M} UTC."
    lines = [title, "", f"{now.at:%Y-%m-%d %H:%M} UTC, {now.seconds:.0f} s. {against}", ""]
    if now.drift:
        lines += ["## Drift", "", *(f"- **{line}**" for line in now.drift), ""]
    elif before is not None:
        lines += ["No drift.", ""]
    had = {figure.key: figure.value for figure in before.figures} if before else {}
    old = before.counts if before else {}
    lines += [
        "## What the world says",
        "",
        "| | Check | Found |",
        "|---|---|---|",
        *(f"| {'yes' if c.passed else '**NO**'} | {c.name} | {c.found} |" for c in now.checks),
        "",
        "## Figures",
        "",
        "| Figure | Now | Before | Target |",
        "|---|---|---|---|",
        *(f"| {f.title} | {f.value} | {had.get(f.key, '-')} | {f.standing} |" for f in now.figures),
        "",
        "## Counts",
        "",
        "| Count | Now | Before |",
        "|---|---|---|",
        *(f"| {name} | {n} | {old.get(name, '-')} |" for name, n in sorted(now.counts.items())),
    ]
    return "\n".join(lines)
