"""What a report is made from: counts, times and reasons. No names, addresses or tokens get in.

Built from the ledger by whoever has it; a rehearsal adds what its world knows.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from recovery.accounts import Quarantined, Stage, Verdict
from recovery.incident import (
    ActRecord,
    ApprovalAttempt,
    ClientRecord,
    Incident,
    Mark,
    ScopeCounts,
    Tally,
)

_PERSONAL = re.compile(
    r"[^\s@,;<>()]+@[^\s@,;<>()]+"  # an address
    r"|\+\d[\d\s().-]{6,}\d|\b\d{9,}\b"  # a telephone number
    r"|\beyJ[\w-]+\.[\w-]+\.[\w-]*"  # a JWT
)


def scrub(text: str) -> str:
    """Free text as it may stand in a report: what looks personal or secret is withheld."""
    return _PERSONAL.sub("[withheld]", text)


@dataclass(frozen=True, slots=True)
class StageTimes:
    """When accounts first reached the stages that are measured, by opaque ref."""

    contained: Mapping[str, datetime]
    notified: Mapping[str, datetime]
    enrolled: Mapping[str, datetime]

    @classmethod
    def of(cls, stage_times: Iterable[tuple[str, Stage, datetime]]) -> Self:
        """Reads `Ledger.stage_times` once. An account that reached a stage again counts from the
        first time."""
        first: dict[Stage, dict[str, datetime]] = {
            Stage.CONTAINED: {},
            Stage.NOTIFIED: {},
            Stage.ENROLLED: {},
        }
        for ref, stage, at in stage_times:
            if stage in first:
                known = first[stage].get(ref)
                first[stage][ref] = at if known is None else min(known, at)
        return cls(first[Stage.CONTAINED], first[Stage.NOTIFIED], first[Stage.ENROLLED])


@dataclass(frozen=True, slots=True)
class StepSummary:
    """The acts of one step, counted, with the reasons of what was not done."""

    step: str
    done: int = 0
    already: int = 0
    refused: int = 0
    unknown: int = 0
    unsettled: int = 0
    refused_reasons: Mapping[str, int] = field(default_factory=dict)
    unknown_reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.done + self.already + self.refused + self.unknown + self.unsettled


def summarize(acts: Iterable[ActRecord]) -> list[StepSummary]:
    """Counts acts by step, in the order in which the steps were first seen."""
    verdicts: dict[str, Counter[Verdict | None]] = defaultdict(Counter)
    reasons: dict[tuple[str, Verdict | None], Counter[str]] = defaultdict(Counter)
    for record in acts:
        step = record.act.step
        verdicts[step][record.verdict] += 1
        if record.verdict in (Verdict.REFUSED, Verdict.UNKNOWN):
            reasons[step, record.verdict][scrub(record.detail) or "no reason given"] += 1
    return [
        StepSummary(
            step,
            counts[Verdict.DONE],
            counts[Verdict.ALREADY],
            counts[Verdict.REFUSED],
            counts[Verdict.UNKNOWN],
            counts[None],
            dict(reasons[step, Verdict.REFUSED].most_common()),
            dict(reasons[step, Verdict.UNKNOWN].most_common()),
        )
        for step, counts in verdicts.items()
    ]


class RotationState(StrEnum):
    """How far one client's secret is."""

    RETIRED = "rotated, old secret gone"
    RENEWED = "rotated, old secret still valid"
    ROLLED_BACK = "rolled back to the old secret"
    ASK = "needs a person"
    OPEN = "not rotated yet"
    UNTOUCHED = "left to a person"


@dataclass(frozen=True, slots=True)
class ClientOutcome:
    """What became of one app client. `failures` counts deployments and tests that failed on the
    way; `ill_consumers` are those that are not healthy now."""

    record: ClientRecord
    state: RotationState
    reason: str = ""
    failures: int = 0
    ill_consumers: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """An integration that the rotation left broken, or that it could not bring over."""
        lost = (RotationState.ASK, RotationState.ROLLED_BACK)
        return bool(self.ill_consumers) or self.state in lost


def _gap(milliseconds: int) -> str:
    if not milliseconds:
        return "replaced in place; nobody was seen without service"
    return f"replaced in place; its consumers were without service for up to {milliseconds} ms"


def client_outcomes(
    records: Sequence[ClientRecord],
    acts: Iterable[ActRecord],
    *,
    ill_consumers: Iterable[str] = (),
) -> list[ClientOutcome]:
    """What became of each client, by its `rotate.*` acts in the order in which they were meant."""
    state: dict[str, tuple[RotationState, str]] = {}
    failures: Counter[str] = Counter()
    # What was left to a person and is rotated all the same was approved by name.
    promoted: set[str] = set()
    # Where the platform holds one secret: ms that somebody was without, if that was measured.
    gaps: dict[str, int] = {}
    for record in acts:
        client, move = record.act.subject, record.act.step.rpartition(".")[2]
        well = record.verdict is not None and record.verdict.settled_well
        if move == "rotate_in_place":
            gaps.setdefault(client, 0)
        if client in gaps:
            gaps[client] = max(gaps[client], record.counts.get("gap_ms", 0))
        if move == "promote" and well:
            promoted.add(client)
        if move in ("restart", "prove") and record.verdict is Verdict.REFUSED:
            failures[client] += 1
        if record.act.step == "rotate.outcome" and record.verdict is Verdict.REFUSED:
            state[client] = RotationState.ASK, scrub(record.detail)
        elif well and move == "drop_previous" and ".retire." in record.act.step:
            state[client] = RotationState.RETIRED, ""
        elif well and move == "roll_back":
            state[client] = RotationState.ROLLED_BACK, scrub(record.detail)
        elif well and move == "prove" and client in gaps:
            state[client] = RotationState.RETIRED, _gap(gaps[client])
        elif well and move == "prove" and state.get(client, ("",))[0] != RotationState.RETIRED:
            state[client] = RotationState.RENEWED, ""
    ill = set(ill_consumers)
    outcomes = []
    for row in records:
        found = state.get(row.client_id, (RotationState.OPEN, ""))
        if row.untouched_reason and row.client_id not in promoted:
            found = RotationState.UNTOUCHED, row.untouched_reason
        sick = tuple(name for name in row.consumers if name in ill)
        outcomes.append(ClientOutcome(row, *found, failures[row.client_id], sick))
    return outcomes


def count_quarantined(rows: Iterable[Quarantined]) -> dict[tuple[str, str], int]:
    """(field, reason) -> how often; the values stay where they came from."""
    return dict(Counter((row.field, scrub(row.reason)) for row in rows).most_common())


@dataclass(frozen=True, slots=True)
class AuditHead:
    """Where the audit log stands: how many entries, and the hash of the last one (hex)."""

    count: int
    hash: str


@dataclass(frozen=True, slots=True)
class WorldCheck:
    """One thing that a rehearsal found true or false of its world."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class WorldFacts:
    """What only a rehearsal can know: the attacker's side, and what its servers counted."""

    attacker_last_accepted: datetime | None
    """The last time anything stolen worked; None where nothing did since the opening."""
    checks: tuple[WorldCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class Targets:
    """What the figures are held against: the playbook's, where it names one, else its case."""

    first_containment: timedelta = timedelta(minutes=10)
    contained: timedelta = timedelta(minutes=25)
    notified: timedelta = timedelta(minutes=45)
    remediation: timedelta = timedelta(hours=2)
    enrolled_24h: float = 0.86
    enrolled_72h: float = 0.90
    failed_integrations: int = 0


@dataclass(frozen=True, slots=True)
class ReportInput:
    incident: Incident
    scope: ScopeCounts
    marks: Sequence[Mark]
    times: StageTimes
    tally: Tally
    steps: Sequence[StepSummary]
    clients: Sequence[ClientOutcome]
    approvals: Sequence[ApprovalAttempt]
    quarantined: Mapping[tuple[str, str], int]
    """(field, reason) -> count."""
    deliveries: Mapping[str, int]
    """What the mail provider reported: event -> count."""
    audit: AuditHead
    generated_at: datetime
    targets: Targets = Targets()
    burst_picture: str = ""
    """`recovery.detect.burst_svg`, or empty."""
    world: WorldFacts | None = None
    """Rehearsal only."""

    def mark(self, name: str) -> datetime | None:
        return next((mark.at for mark in self.marks if mark.name == name), None)

    @property
    def population(self) -> int:
        """Accounts that are to be recovered: admitted, and not excluded."""
        return sum(n for (_, stage), n in self.tally.stages.items() if stage is not Stage.EXCLUDED)
