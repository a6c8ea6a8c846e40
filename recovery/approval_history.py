"""Who requested, who approved which plan, when, and what was done under it: read from the audit
log's entries alone, so that an auditor needs neither the ledger nor Prefect."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from recovery.audit import AuditEntry
from recovery.errors import NotFound


@dataclass(slots=True)
class Gate:
    """One plan at one gate, from its first request to what was done under it."""

    gate: str
    digest: str
    requests: list[AuditEntry] = field(default_factory=list)
    answers: list[AuditEntry] = field(default_factory=list)
    opened: list[AuditEntry] = field(default_factory=list)
    done: dict[str, dict[str, int]] = field(default_factory=dict)
    """Per step, how many outcomes of each verdict were settled while this plan was in force."""
    first: datetime | None = None
    last: datetime | None = None


@dataclass(frozen=True, slots=True)
class History:
    """An incident's approvals, by the log."""

    incident_id: str
    runs: Sequence[AuditEntry]
    gates: Sequence[Gate]
    ungated: dict[str, dict[str, int]]
    """What was done behind no gate: steps that need no approval."""
    stops: Sequence[AuditEntry]


def history(entries: Iterable[AuditEntry]) -> History:
    """Reads the entries of one incident in their order. Raises NotFound where there are none."""
    gates: dict[tuple[str, str], Gate] = {}
    in_force: dict[str, Gate] = {}
    runs: list[AuditEntry] = []
    stops: list[AuditEntry] = []
    ungated: dict[str, dict[str, int]] = {}
    incident_id = ""
    for entry in entries:
        incident_id = incident_id or entry.incident_id
        match entry.event:
            case "incident.opened" | "run.began":
                runs.append(entry)
            case "stop.ordered" | "stop.released":
                stops.append(entry)
            case "approval.requested":
                _gate(gates, entry).requests.append(entry)
            case "approval":
                _gate(gates, entry).answers.append(entry)
            case "gate.open":
                gate = _gate(gates, entry)
                gate.opened.append(entry)
                in_force[_scope(gate.gate)] = gate
            case "settle":
                _count(in_force, ungated, entry)
    if not incident_id:
        raise NotFound("Read the approvals of an incident", got="no audit entry")
    return History(incident_id, runs, list(gates.values()), ungated, stops)


def render(found: History) -> str:
    """The history as Markdown."""
    lines = [f"# Approvals of {found.incident_id}, from the audit log", "", "## Who requested", ""]
    lines += [
        f"- {_at(e)} {e.actor}: {e.facts.get('flow', 'opened the incident')}"
        + (f", run {e.facts['run_id']}" if "run_id" in e.facts else "")
        for e in found.runs
    ]
    for gate in found.gates:
        lines += ["", f"## Gate {gate.gate}", "", f"Plan `{gate.digest}`", ""]
        lines += [_requested(e) for e in gate.requests]
        lines += [_answered(e) for e in gate.answers]
        lines += [
            f"- {_at(e)} open for run {e.facts['run_id']}, approved by {e.facts['approved_by']}"
            for e in gate.opened
        ]
        lines += _done(gate.done) or ["- nothing was done under this plan"]
        if gate.first and gate.last:
            lines.append(f"- first act {gate.first:%H:%M:%S}, last act {gate.last:%H:%M:%S} UTC")
    if found.ungated:
        lines += ["", "## Done without a gate", "", *_done(found.ungated)]
    if found.stops:
        lines += ["", "## Emergency stops", ""]
        lines += [f"- {_at(e)} {e.event} by {e.actor}: {e.facts['reason']}" for e in found.stops]
    return "\n".join(lines) + "\n"


def _gate(gates: dict[tuple[str, str], Gate], entry: AuditEntry) -> Gate:
    """The gate and plan an entry is about. A wrong digest in an answer is a plan of its own."""
    key = (str(entry.facts["gate"]), str(entry.facts["digest"]))
    return gates.setdefault(key, Gate(*key))


def _scope(gate: str) -> str:
    """The steps behind a gate, as the beginning of their names."""
    words = gate.split(".")
    if words[0] == "hold":
        return words[1]
    return "rotate.retire" if words[0] == "retire" else words[0]


def _count(
    in_force: dict[str, Gate], ungated: dict[str, dict[str, int]], entry: AuditEntry
) -> None:
    step = str(entry.facts.get("step", ""))
    # notify_manual.email and stage.notified belong to the messages.
    family = step.replace("notify_manual", "notify").replace("stage.notified", "notify.stage")
    behind = [scope for scope in in_force if family == scope or family.startswith(scope + ".")]
    gate = in_force[max(behind, key=len)] if behind else None
    counts = (gate.done if gate else ungated).setdefault(step, {})
    counts[entry.verdict] = counts.get(entry.verdict, 0) + 1
    if gate is not None:
        gate.first = gate.first or entry.at
        gate.last = entry.at


def _requested(entry: AuditEntry) -> str:
    again = ", in spite of an earlier rejection" if entry.facts.get("asked_again") else ""
    return f"- {_at(entry)} asked for by {entry.actor}, run {entry.facts['run_id']}{again}"


def _answered(entry: AuditEntry) -> str:
    facts = entry.facts
    if facts["refusal"]:
        return f"- {_at(entry)} {entry.actor}: {facts['decision']}, REFUSED: {facts['refusal']}"
    until = f", valid until {facts['valid_until']}" if facts["decision"] == "approve" else ""
    return f"- {_at(entry)} **{entry.actor}: {facts['decision']}**{until}: {facts['reason']}"


def _done(steps: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"- {step}: " + ", ".join(f"{n:,} {verdict}" for verdict, n in sorted(counts.items()))
        for step, counts in sorted(steps.items())
    ]


def _at(entry: AuditEntry) -> str:
    return f"{entry.at:%Y-%m-%d %H:%M:%S} UTC"
