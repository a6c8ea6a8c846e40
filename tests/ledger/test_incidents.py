"""Opening, widening, timing and closing an incident."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from recovery.accounts import Act, Outcome, Verdict
from recovery.errors import NotFound, Refused
from recovery.incident import Mark


def test_opening_again_returns_the_first_and_writes_nothing(world: Any) -> None:
    first = world.ledger.incident(world.incident)
    world.clock.forward(hours=1)
    again = world.ledger.open_incident(
        world.incident,
        window_start=first.window_start - timedelta(days=9),
        window_end=first.window_end,
        runbook_digest="other",
        runbook_commit="other",
        requested_by="other",
    )
    assert again == first
    assert again.opened_at == world.clock.now - timedelta(hours=1)
    assert world.events() == ["incident.opened"]


def test_unknown_incident_is_not_found(world: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: world.ledger.incident("INC-0"),
        lambda: world.ledger.mark("INC-0", "x"),
        lambda: world.ledger.marks("INC-0"),
        lambda: world.ledger.scope("INC-0"),
        lambda: world.ledger.tally("INC-0"),
        lambda: world.ledger.intend("INC-0", []),
        lambda: world.ledger.settle("INC-0", []),
        lambda: world.ledger.unsettled("INC-0"),
        lambda: next(world.ledger.accounts("INC-0")),
        lambda: next(world.ledger.acts("INC-0", "contain")),
        lambda: world.ledger.close_incident("INC-0"),
        lambda: world.ledger.note("INC-0", "x", actor="a", facts={}),
        lambda: world.ledger.clients("INC-0"),
        lambda: world.ledger.approvals("INC-0", "g"),
        lambda: world.ledger.deliveries("INC-0"),
        lambda: world.ledger.waves("INC-0"),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_incidents_come_oldest_first(world: Any) -> None:
    world.clock.forward(minutes=1)
    world.open("INC-0001")
    ids = [incident.incident_id for incident in world.ledger.incidents()]
    assert ids == [world.incident, "INC-0001"]


def test_window_only_widens(world: Any) -> None:
    known = world.ledger.incident(world.incident)
    inside = known.window_start + timedelta(minutes=10)
    world.ledger.set_window(world.incident, inside, inside + timedelta(minutes=1))
    assert world.ledger.incident(world.incident) == known
    assert world.events() == ["incident.opened"]
    later = known.window_end + timedelta(hours=1)
    world.ledger.set_window(world.incident, inside, later)
    widened = world.ledger.incident(world.incident)
    assert (widened.window_start, widened.window_end) == (known.window_start, later)
    assert world.events() == ["incident.opened", "incident.window"]
    with pytest.raises(Refused, match="ends before it starts"):
        world.ledger.set_window(world.incident, later, inside)


def test_the_ledger_tells_its_time(world: Any) -> None:
    world.clock.forward(minutes=3)
    assert world.ledger.now() == world.clock.now == world.ledger.mark(world.incident, "x")


def test_the_first_mark_stays(world: Any) -> None:
    first = world.ledger.mark(world.incident, "contain.started")
    world.clock.forward(seconds=5)
    assert world.ledger.mark(world.incident, "contain.started") == first
    second = world.ledger.mark(world.incident, "contain.finished")
    assert second > first
    assert world.ledger.marks(world.incident) == [
        Mark("contain.started", first),
        Mark("contain.finished", second),
    ]
    assert world.events().count("mark") == 2


def test_a_note_is_an_entry_of_its_own(world: Any) -> None:
    for _ in range(2):
        world.ledger.note(
            world.incident, "limit.lowered", actor="mona", facts={"per_second": 25, "why": "429"}
        )
    entries = list(world.ledger.audit(world.incident))[-2:]
    assert [entry.actor for entry in entries] == ["mona", "mona"]
    assert entries[0].facts == {"per_second": 25, "why": "429"}


def test_closing_revokes_and_ends_new_work(world: Any) -> None:
    enrollments = world.armed(3)
    session = world.ledger.begin(enrollments[0].jti, session_hash="s0", ttl=timedelta(minutes=10))
    world.ledger.redeem(enrollments[0].jti, session.session_hash)
    world.ledger.close_incident(world.incident)
    world.ledger.close_incident(world.incident)
    assert world.ledger.incident(world.incident).closed_at == world.clock.now
    assert world.events().count("incident.closed") == 1
    kept = world.ledger.enrollment(enrollments[0].jti)
    assert kept.redeemed_at is not None
    assert kept.superseded_at is None
    for enrollment in enrollments[1:]:
        assert not world.ledger.live(world.ledger.enrollment(enrollment.jti), world.clock.now)
    refs = [enrollment.ref for enrollment in enrollments]
    now = world.clock.now
    calls: list[Callable[[], object]] = [
        lambda: world.open(world.incident),
        lambda: world.ledger.admit(world.incident, []),
        lambda: world.ledger.intend(world.incident, []),
        lambda: world.ledger.issue(world.incident, refs),
        lambda: world.ledger.arm(world.incident, refs, ttl=timedelta(minutes=1)),
        lambda: world.ledger.set_window(world.incident, now, now),
        lambda: world.ledger.record_sightings(world.incident, [world.sighting(1)]),
        lambda: world.ledger.quarantine(world.incident, []),
        lambda: world.ledger.stand_aside(world.incident, refs, "x"),
    ]
    for call in calls:
        with pytest.raises(Refused, match="incident closed"):
            call()


def test_what_is_under_way_may_still_be_settled_after_closing(world: Any) -> None:
    refs = world.admitted(1)
    acts = world.ledger.intend(world.incident, [Act(refs[0], "contain.revoke")]).fresh
    world.ledger.close_incident(world.incident)
    world.ledger.settle(world.incident, [Outcome(acts[0], Verdict.DONE)])
    assert world.ledger.unsettled(world.incident) == []


def test_naive_times_are_refused_and_leave_nothing(world: Any) -> None:
    naive = datetime(2026, 1, 1)
    before = world.ledger.audit_head()
    with pytest.raises(Exception, match="aware datetimes"):
        world.ledger.record_sightings(world.incident, [world.sighting(1, first_seen=naive)])
    assert world.ledger.audit_head() == before
    assert world.ledger.scope(world.incident).sighted == 0
