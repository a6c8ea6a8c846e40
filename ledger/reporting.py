"""Everything a report says of one incident, read from the ledger in one go; counts and reasons."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path

from ledger import Ledger
from recovery.incident import ActRecord, ApprovalAttempt, Mark
from recovery.policy import ReportPolicy
from recovery.report import (
    AuditHead,
    ReportInput,
    StageTimes,
    Targets,
    client_outcomes,
    count_quarantined,
    summarize,
)

STEPS = ("contain", "enroll", "notify", "notify_manual", "skip", "rotate", "validate")


BURST_PICTURE = "burst.svg"
"""The file beside the report in which scoping leaves the picture of the burst."""


def report_input(
    ledger: Ledger, incident_id: str, policy: ReportPolicy, directory: Path
) -> ReportInput:
    """What `recovery.report` renders. Streams the acts; nothing of a person is in the result."""
    picture = directory / BURST_PICTURE
    marks = ledger.marks(incident_id)
    seq, head = ledger.audit_head()
    return ReportInput(
        incident=ledger.incident(incident_id),
        scope=ledger.scope(incident_id),
        marks=marks,
        times=_times(ledger, incident_id),
        tally=ledger.tally(incident_id),
        steps=summarize(_acts(ledger, incident_id)),
        clients=client_outcomes(ledger.clients(incident_id), ledger.acts(incident_id, "rotate")),
        approvals=_approvals(ledger, incident_id, marks),
        quarantined=count_quarantined(ledger.quarantined(incident_id)),
        deliveries=ledger.deliveries(incident_id),
        audit=AuditHead(seq, head),
        generated_at=ledger.now(),
        targets=Targets(
            first_containment=policy.containment_target, remediation=policy.remediation_target
        ),
        burst_picture=picture.read_text() if picture.exists() else "",
    )


def _times(ledger: Ledger, incident_id: str) -> StageTimes:
    """By stage; but notified is who was sent anything, by the acts: who stands aside for a person
    gets a notice without a link, and who enrolls at once is past NOTIFIED before it is settled."""
    times = StageTimes.of(ledger.stage_times(incident_id))
    notified: dict[str, datetime] = {}
    acts = (ledger.acts(incident_id, step) for step in ("notify", "notify_manual"))
    for record in chain.from_iterable(acts):
        well = record.verdict is not None and record.verdict.settled_well
        if well and record.settled_at is not None:
            told = notified.get(record.act.subject, record.settled_at)
            notified[record.act.subject] = min(told, record.settled_at)
    return replace(times, notified=notified)


def _acts(ledger: Ledger, incident_id: str) -> Iterator[ActRecord]:
    return chain.from_iterable(ledger.acts(incident_id, step) for step in STEPS)


def _approvals(ledger: Ledger, incident_id: str, marks: list[Mark]) -> list[ApprovalAttempt]:
    """All attempts at all gates that somebody was asked at."""
    gates = [
        mark.name.removeprefix("gate.").removesuffix(".waiting")
        for mark in marks
        if mark.name.startswith("gate.") and mark.name.endswith(".waiting")
    ]
    return [attempt for gate in gates for attempt in ledger.approvals(incident_id, gate)]
