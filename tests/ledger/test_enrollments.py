"""Issue, arm, redeem: one live invitation at a time, used once."""

from datetime import timedelta
from typing import Any

import pytest

from recovery.accounts import Act, Stage, Verdict
from recovery.errors import NotFound, Unverified

TTL = timedelta(minutes=15)


def test_issue_brings_contained_accounts_to_token_issued(world: Any) -> None:
    refs = world.contained(3)
    enrollments = world.ledger.issue(world.incident, [refs[2], refs[0], refs[1]])
    assert [enrollment.ref for enrollment in enrollments] == [refs[2], refs[0], refs[1]]
    assert {enrollment.generation for enrollment in enrollments} == {1}
    assert len({enrollment.jti for enrollment in enrollments}) == 3
    for enrollment in enrollments:
        assert len(enrollment.jti) == 32
        assert int(enrollment.jti, 16)
        assert enrollment.issued_at is None
        assert world.ledger.enrollment(enrollment.jti) == enrollment
        assert not world.ledger.live(enrollment, world.clock.now)
        assert world.stage(enrollment.ref) is Stage.TOKEN_ISSUED
    assert world.ledger.enrollment("none") is None


def test_issue_again_keeps_what_is_not_yet_armed(world: Any) -> None:
    refs = world.contained(2)
    first = world.ledger.issue(world.incident, refs)
    head = world.ledger.audit_head()
    world.clock.forward(minutes=1)
    assert world.ledger.issue(world.incident, refs) == first
    assert world.ledger.audit_head() == head


def test_issue_again_replaces_what_was_armed_and_notification_is_due_again(world: Any) -> None:
    first = world.armed(2)
    refs = [enrollment.ref for enrollment in first]
    world.carry_out(refs[:1], "notify.email", advance=Stage.NOTIFIED)
    world.clock.forward(minutes=1)
    second = world.ledger.issue(world.incident, refs)
    assert [enrollment.generation for enrollment in second] == [2, 2]
    assert [world.stage(ref) for ref in refs] == [Stage.TOKEN_ISSUED] * 2
    for enrollment in first:
        replaced = world.ledger.enrollment(enrollment.jti)
        assert replaced.superseded_at == world.clock.now
        assert not world.ledger.live(replaced, world.clock.now)
        with pytest.raises(Unverified):
            world.ledger.begin(enrollment.jti, session_hash="late", ttl=TTL)
    assert world.ledger.current_enrollments(world.incident, refs) == second


def test_issue_leaves_out_who_may_not_have_one(world: Any) -> None:
    refs = world.admitted(5)
    world.ledger.admit(world.incident, [world.placed(9, excluded="break-glass")])
    world.carry_out(refs[1:], "contain.revoke", advance=Stage.CONTAINED)
    world.ledger.stand_aside(world.incident, [refs[2]], "no contact")
    world.carry_out([refs[3]], "enroll.bind", advance=Stage.ENROLLED)
    issued = world.ledger.issue(world.incident, [*refs, world.ref(9)])
    assert [enrollment.ref for enrollment in issued] == [refs[1], refs[4]]
    assert world.stage(refs[3]) is Stage.ENROLLED
    with pytest.raises(NotFound):
        world.ledger.issue(world.incident, [refs[1], "acc-unknown"])


def test_a_redeemed_enrollment_is_never_superseded(world: Any) -> None:
    (first,) = world.armed(1)
    world.ledger.begin(first.jti, session_hash="s", ttl=TTL)
    world.ledger.redeem(first.jti, "s")
    (second,) = world.ledger.issue(world.incident, [first.ref])
    assert second.generation == 2
    assert world.ledger.enrollment(first.jti).superseded_at is None


def test_arming_sets_the_times_once(world: Any) -> None:
    refs = world.contained(2)
    world.ledger.issue(world.incident, refs)
    armed_at = world.clock.forward(minutes=3)
    armed = world.ledger.arm(world.incident, refs, ttl=TTL)
    for enrollment in armed:
        assert (enrollment.issued_at, enrollment.expires_at) == (armed_at, armed_at + TTL)
        assert world.ledger.live(enrollment, armed_at)
        assert not world.ledger.live(enrollment, armed_at + TTL)
    head = world.ledger.audit_head()
    world.clock.forward(minutes=14)
    assert world.ledger.arm(world.incident, refs, ttl=TTL * 9) == armed
    assert world.ledger.audit_head() == head
    assert world.ledger.arm(world.incident, ["acc-unknown"], ttl=TTL) == []


@pytest.mark.parametrize(
    ("verdict", "again"),
    [
        (None, True),
        (Verdict.REFUSED, True),
        (Verdict.DONE, False),
        (Verdict.ALREADY, False),
        (Verdict.UNKNOWN, False),
    ],
)
def test_an_expired_one_is_armed_again_only_if_nobody_was_told(
    world: Any, verdict: Verdict | None, again: bool
) -> None:
    (enrollment,) = world.armed(1)
    world.ledger.intend(world.incident, [Act(enrollment.ref, "notify.email")])
    if verdict is not None:
        world.carry_out([enrollment.ref], "notify.email", verdict)
    now = world.clock.forward(minutes=15)
    (after,) = world.ledger.arm(world.incident, [enrollment.ref], ttl=TTL)
    assert world.ledger.live(after, now) == again
    assert after.jti == enrollment.jti


def test_a_message_about_an_older_enrollment_does_not_keep_the_new_one_down(world: Any) -> None:
    (first,) = world.armed(1)
    world.carry_out([first.ref], "notify.email", advance=Stage.NOTIFIED)
    world.clock.forward(minutes=20)
    world.ledger.issue(world.incident, [first.ref])
    world.ledger.arm(world.incident, [first.ref], ttl=TTL)
    now = world.clock.forward(minutes=20)
    (second,) = world.ledger.arm(world.incident, [first.ref], ttl=TTL)
    assert second.generation == 2
    assert world.ledger.live(second, now)


def test_redeem_needs_a_session_of_this_enrollment(world: Any) -> None:
    first, second = world.armed(2)
    world.ledger.begin(second.jti, session_hash="other", ttl=TTL)
    for session in ("none", "other"):
        with pytest.raises(Unverified):
            world.ledger.redeem(first.jti, session)
    assert world.ledger.enrollment(first.jti).redeemed_at is None


def test_the_winner_may_ask_again_and_nobody_else(world: Any) -> None:
    (enrollment,) = world.armed(1)
    for session in ("one", "two"):
        world.ledger.begin(enrollment.jti, session_hash=session, ttl=TTL)
    won = world.ledger.redeem(enrollment.jti, "one")
    assert won.redeemed_at == world.clock.now
    world.clock.forward(hours=2)
    assert world.ledger.redeem(enrollment.jti, "one") == won
    with pytest.raises(Unverified, match="another session"):
        world.ledger.redeem(enrollment.jti, "two")
    assert world.events().count("enrollment.redeemed") == 1
    assert world.stage(enrollment.ref) is Stage.TOKEN_ISSUED, "binding is settled by its own act"


@pytest.mark.parametrize("why", ["expired", "superseded", "session expired", "closed"])
def test_redeem_refuses_what_is_not_live(world: Any, why: str) -> None:
    (enrollment,) = world.armed(1, minutes=15)
    short = why == "session expired"
    ttl = timedelta(minutes=5 if short else 60)
    world.ledger.begin(enrollment.jti, session_hash="s", ttl=ttl)
    match why:
        case "expired":
            world.clock.forward(minutes=15)
        case "superseded":
            world.ledger.issue(world.incident, [enrollment.ref])
        case "closed":
            world.ledger.close_incident(world.incident)
        case _:
            world.clock.forward(minutes=5)
    with pytest.raises(Unverified):
        world.ledger.redeem(enrollment.jti, "s")
    assert world.ledger.enrollment(enrollment.jti).redeemed_at is None


def test_an_unarmed_enrollment_cannot_begin(world: Any) -> None:
    refs = world.contained(1)
    (enrollment,) = world.ledger.issue(world.incident, refs)
    with pytest.raises(Unverified):
        world.ledger.begin(enrollment.jti, session_hash="s", ttl=TTL)
