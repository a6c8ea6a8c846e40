"""An auditor's questions, answered by the entries of the log alone."""

from datetime import UTC, datetime, timedelta

import pytest

from recovery.approval_history import history, render
from recovery.audit import AuditEntry
from recovery.errors import NotFound

START = datetime(2026, 11, 24, 9, tzinfo=UTC)
PLAN, OTHER = "a" * 64, "b" * 64


def entries(*said: tuple[str, str, dict[str, str | int], str]) -> list[AuditEntry]:
    return [
        AuditEntry(
            seq, "INC-2026-0142", START + timedelta(minutes=seq), actor, event, "", verdict, facts
        )
        for seq, (actor, event, facts, verdict) in enumerate(said, 1)
    ]


def answer(who: str, digest: str, refusal: str = "", gate: str = "contain") -> tuple:  # type: ignore[type-arg]
    facts = {
        "gate": gate,
        "attempt": 1,
        "digest": digest,
        "decision": "approve",
        "reason": "read it",
        "refusal": refusal,
        "valid_until": "2026-11-24T09:40:00.000000Z",
        "run_id": "run-1",
        "requester": "oscar",
    }
    return (who, "approval", facts, "")


def opened(gate: str, digest: str) -> tuple:  # type: ignore[type-arg]
    facts = {"gate": gate, "digest": digest, "run_id": "run-1", "approved_by": "maya"}
    return ("recovery", "gate.open", facts, "")


def settled(step: str, verdict: str = "DONE") -> tuple:  # type: ignore[type-arg]
    return ("recovery", "settle", {"step": step, "generation": 1}, verdict)


WHOLE = entries(
    ("oscar", "incident.opened", {}, ""),
    ("oscar", "run.began", {"run_id": "run-1", "flow": "respond", "ask_again": 0}, ""),
    (
        "oscar",
        "approval.requested",
        {"gate": "contain", "request": 1, "digest": PLAN, "run_id": "run-1"},
        "",
    ),
    answer("mallory", PLAN, "this approver is not in the runbook's list for this gate"),
    answer("maya", PLAN),
    opened("contain", PLAN),
    settled("contain.account"),
    settled("contain.account", "REFUSED"),
    settled("enroll.remove_authenticators"),
    opened("hold.contain.0", OTHER),
    settled("contain.account"),
    opened("notify", PLAN),
    settled("notify.email"),
    settled("notify_manual.email"),
    settled("rotate.create.create_secret"),
    opened("retire", OTHER),
    settled("rotate.retire.delete"),
    ("jonas", "stop.ordered", {"reason": "wrong window"}, ""),
)


def test_acts_stand_under_the_plan_in_force_when_they_were_settled() -> None:
    found = history(WHOLE)
    done = {(g.gate, g.digest): g.done for g in found.gates}
    assert done["contain", PLAN] == {"contain.account": {"DONE": 1, "REFUSED": 1}}
    assert done["hold.contain.0", OTHER] == {"contain.account": {"DONE": 1}}
    assert done["notify", PLAN] == {"notify.email": {"DONE": 1}, "notify_manual.email": {"DONE": 1}}
    assert done["retire", OTHER] == {"rotate.retire.delete": {"DONE": 1}}
    assert found.ungated == {
        "enroll.remove_authenticators": {"DONE": 1},
        "rotate.create.create_secret": {"DONE": 1},
    }


def test_the_page_names_who_asked_who_answered_and_when() -> None:
    page = render(history(WHOLE))
    assert "- 2026-11-24 09:02:00 UTC oscar: respond, run run-1" in page
    assert "- 2026-11-24 09:03:00 UTC asked for by oscar, run run-1" in page
    assert "mallory: approve, REFUSED: this approver is not in" in page
    assert "**maya: approve**, valid until 2026-11-24T09:40:00.000000Z: read it" in page
    assert "open for run run-1, approved by maya" in page
    assert "- contain.account: 1 DONE, 1 REFUSED" in page
    assert "- first act 09:07:00, last act 09:08:00 UTC" in page
    assert "stop.ordered by jonas: wrong window" in page


def test_an_empty_log_is_no_history() -> None:
    with pytest.raises(NotFound):
        history([])
