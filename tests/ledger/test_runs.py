"""Leases, stop orders, requesters and requests: who may work, and who asked for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recovery.accounts import Act, Channel, Outcome, Stage, Verdict
from recovery.errors import Refused
from recovery.incident import ApprovalAttempt, GateRequest, Lease

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
LEASE = Lease("INC-2026-0142", "recovery", "run-1", "respond", NOW, NOW + timedelta(seconds=90))
OTHER = replace(LEASE, run_id="run-2", flow="contain")
REQUEST = GateRequest("contain", 0, "d" * 64, "run-1", "oscar", NOW)


def test_one_run_has_the_lane_and_the_other_is_told_which(world: Any) -> None:
    ledger = world.ledger
    assert ledger.take_lease(LEASE, now=NOW) is None
    assert ledger.take_lease(OTHER, now=NOW) == LEASE
    assert ledger.take_lease(replace(OTHER, lane="serve-links"), now=NOW) is None
    assert ledger.take_lease(replace(OTHER, incident_id="INC-2026-0143"), now=NOW) is None
    assert ledger.take_lease(LEASE, now=NOW) is None, "a resumed run keeps it"
    ledger.drop_lease(LEASE)
    assert ledger.take_lease(OTHER, now=NOW) is None


def test_a_dead_holder_blocks_nobody(world: Any) -> None:
    ledger = world.ledger
    ledger.take_lease(LEASE, now=NOW)
    assert ledger.take_lease(OTHER, now=NOW, from_run="run-1") is None
    assert not ledger.renew_lease(LEASE), "the first one learns that it has lost it"
    assert ledger.take_lease(LEASE, now=OTHER.until - timedelta(seconds=1)) == OTHER
    assert ledger.take_lease(LEASE, now=OTHER.until) is None
    ledger.drop_lease(OTHER)
    assert [lease.run_id for lease in ledger.leases("INC-2026-0142")] == ["run-1"]
    expired = [e for e in ledger.audit() if e.event == "lease.expired"]
    assert [e.facts["from_run"] for e in expired] == ["run-2"]


def test_renewing_moves_the_end(world: Any) -> None:
    world.ledger.take_lease(LEASE, now=NOW)
    longer = replace(LEASE, until=NOW + timedelta(seconds=200))
    assert world.ledger.renew_lease(longer)
    assert world.ledger.take_lease(OTHER, now=NOW + timedelta(seconds=150)) == longer


def test_a_stop_stands_until_it_is_released_and_both_are_logged(world: Any) -> None:
    ledger = world.ledger
    assert ledger.standing_stop("INC-2026-9999") is None
    first = ledger.order_stop("INC-2026-9999", reason="wrong window", ordered_by="jonas")
    assert ledger.order_stop("INC-2026-9999", reason="really", ordered_by="maya") == first
    assert ledger.standing_stop("INC-2026-9999") == first
    assert ledger.release_stop("INC-2026-9999", reason="mended", released_by="maya")
    assert not ledger.release_stop("INC-2026-9999", reason="mended", released_by="maya")
    assert ledger.standing_stop("INC-2026-9999") is None
    said = [(e.event, e.actor) for e in ledger.audit("INC-2026-9999")]
    assert said == [
        ("stop.ordered", "jonas"),
        ("stop.ordered", "maya"),
        ("stop.released", "maya"),
    ]


def test_every_requester_is_remembered_once(world: Any) -> None:
    ledger, incident = world.ledger, world.incident
    first = ledger.requesters(incident)
    begun = {"flow": "respond", "requested_by": "maya", "ask_again": True}
    assert ledger.begin_run(incident, "run-1", **begun)
    assert not ledger.begin_run(incident, "run-1", **begun)
    assert ledger.begin_run(incident, "run-2", **{**begun, "ask_again": False})
    assert ledger.requesters(incident) == [*first, "maya"]
    assert ledger.asks_again(incident, "run-1")
    assert not ledger.asks_again(incident, "run-2")
    assert not ledger.asks_again(incident, "run-3")
    assert [e.actor for e in ledger.audit(incident) if e.event == "run.began"] == ["maya", "maya"]


def test_requests_are_numbered_and_closed_by_their_answer(world: Any) -> None:
    ledger, incident = world.ledger, world.incident
    one = ledger.request_approval(incident, REQUEST)
    two = ledger.request_approval(incident, replace(REQUEST, asked_again=True))
    other = ledger.request_approval(incident, replace(REQUEST, gate="notify"))
    assert [one.number, two.number, other.number] == [1, 2, 1]
    attempt = ApprovalAttempt(
        "contain", "d" * 64, 1, "maya", "approve", "read", "", NOW, NOW, "run-1", "oscar"
    )
    ledger.record_approval(incident, attempt, answers=one)
    ledger.close_request(incident, one, "too late")
    ledger.close_request(incident, two, "the run went on without an answer")
    kept = ledger.gate_requests(incident, "contain")
    assert [r.closed for r in kept] == ["answered", "the run went on without an answer"]
    assert [r.asked_again for r in kept] == [False, True]
    assert [r.closed for r in ledger.gate_requests(incident, "notify")] == [""]
    assert len(ledger.gate_requests(incident)) == 3
    assert ledger.approvals(incident, "contain") == [attempt]
    assert ledger.attempts_of("maya") == [attempt]
    assert ledger.attempts_of("jonas") == []


def test_a_closed_incident_asks_nobody(world: Any) -> None:
    world.ledger.close_incident(world.incident, actor="oscar")
    with pytest.raises(Refused, match="incident closed"):
        world.ledger.request_approval(world.incident, REQUEST)
    closed = [e for e in world.ledger.audit(world.incident) if e.event == "incident.closed"]
    assert [e.actor for e in closed] == ["oscar"]


def test_what_was_withdrawn_was_never_intended(world: Any) -> None:
    ledger, incident = world.ledger, world.incident
    one, two, three = (Act(ref, "contain.account") for ref in world.admitted(3))
    ledger.intend(incident, [one, two, three])
    ledger.settle(incident, [Outcome(one, Verdict.DONE), Outcome(two, Verdict.UNKNOWN, "lost")])
    assert ledger.withdraw(incident, [one, two, three]) == 1
    assert [r.act for r in ledger.unsettled(incident)] == [two]
    again = ledger.intend(incident, [one, two, three])
    assert (again.settled, again.unsettled, again.fresh) == ((one,), (two,), (three,))
    ledger.verify_audit()


def test_messages_without_a_link_are_counted_for_the_budget(world: Any) -> None:
    ledger, incident = world.ledger, world.incident
    one, two = world.contained(2)
    acts = [
        Act(one, "notify_manual.email"),
        Act(one, "notify_manual.sms"),
        Act(one, "notify.email"),
        Act(two, "notify_manual.in_app"),
    ]
    ledger.intend(incident, acts)
    ledger.settle(
        incident, [Outcome(acts[0], Verdict.DONE), Outcome(acts[1], Verdict.REFUSED, "21610")]
    )
    counted = ledger.messages_without_link(incident, [one, two])
    assert counted == {one: {Channel.EMAIL: 1}, two: {Channel.IN_APP: 1}}
    assert world.stage(one) is Stage.CONTAINED
