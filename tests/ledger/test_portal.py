"""What the person's door relies on: sessions, codes, links, deliveries, limits."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from recovery.accounts import Stage, Verdict
from recovery.errors import Conflict, NotFound, Refused, Unverified
from recovery.incident import AuthenticatorKind, CodeCheck

TTL = timedelta(minutes=10)
CODE_TTL = timedelta(minutes=3)


@pytest.fixture
def enrollment(world: Any) -> Any:
    return world.armed(1, minutes=15)[0]


@pytest.fixture
def session(world: Any, enrollment: Any) -> str:
    return str(world.ledger.begin(enrollment.jti, session_hash="cookie", ttl=TTL).session_hash)


def verified(world: Any, session: str) -> None:
    world.ledger.store_code(session, code_hash="right", ttl=CODE_TTL, max_sends=3)
    assert world.ledger.check_code(session, "right", max_attempts=5) is CodeCheck.ACCEPTED


def test_several_browsers_may_begin(world: Any, enrollment: Any) -> None:
    one = world.ledger.begin(enrollment.jti, session_hash="one", ttl=TTL)
    two = world.ledger.begin(enrollment.jti, session_hash="two", ttl=TTL)
    assert (one.ref, one.jti, one.expires_at) == (
        enrollment.ref,
        enrollment.jti,
        world.clock() + TTL,
    )
    assert two.session_hash == "two"
    assert world.ledger.begin(enrollment.jti, session_hash="one", ttl=TTL * 5) == one
    assert world.events().count("portal.begun") == 2


def test_a_cookie_belongs_to_one_enrollment(world: Any) -> None:
    first, second = world.armed(2)
    world.ledger.begin(first.jti, session_hash="cookie", ttl=TTL)
    with pytest.raises(Unverified):
        world.ledger.begin(second.jti, session_hash="cookie", ttl=TTL)


@pytest.mark.parametrize("jti", ["", "0" * 32])
def test_nothing_begins_without_an_enrollment(world: Any, jti: str) -> None:
    with pytest.raises(Unverified):
        world.ledger.begin(jti, session_hash="cookie", ttl=TTL)
    assert world.ledger.portal_session("cookie") is None


def test_a_session_ends_by_its_own_time(world: Any, session: str) -> None:
    world.clock.forward(minutes=9, seconds=59)
    assert world.ledger.portal_session(session) is not None
    world.clock.forward(seconds=1)
    assert world.ledger.portal_session(session) is None
    calls: list[Callable[[], object]] = [
        lambda: world.ledger.store_code(session, code_hash="x", ttl=CODE_TTL, max_sends=9),
        lambda: world.ledger.store_candidate(session, b"x"),
    ]
    for call in calls:
        with pytest.raises(Unverified):
            call()


def test_a_code_is_accepted_once(world: Any, session: str) -> None:
    assert world.ledger.check_code(session, "right", max_attempts=5) is CodeCheck.EXPIRED
    assert world.ledger.store_code(session, code_hash="right", ttl=CODE_TTL, max_sends=3)
    assert world.ledger.check_code(session, "wrong", max_attempts=5) is CodeCheck.WRONG
    assert world.ledger.portal_session(session).code_verified_at is None
    assert world.ledger.check_code(session, "right", max_attempts=5) is CodeCheck.ACCEPTED
    assert world.ledger.portal_session(session).code_verified_at == world.clock.now
    assert world.ledger.check_code(session, "right", max_attempts=5) is CodeCheck.EXPIRED
    with pytest.raises(Unverified):
        world.ledger.check_code("none", "right", max_attempts=5)


def test_attempts_run_out_and_a_new_code_brings_new_ones(world: Any, session: str) -> None:
    world.ledger.store_code(session, code_hash="right", ttl=CODE_TTL, max_sends=2)
    for _ in range(3):
        assert world.ledger.check_code(session, "wrong", max_attempts=3) is CodeCheck.WRONG
    assert world.ledger.check_code(session, "right", max_attempts=3) is CodeCheck.EXHAUSTED
    assert world.ledger.store_code(session, code_hash="second", ttl=CODE_TTL, max_sends=2)
    assert world.ledger.check_code(session, "right", max_attempts=3) is CodeCheck.WRONG
    assert world.ledger.check_code(session, "second", max_attempts=3) is CodeCheck.ACCEPTED


def test_sends_run_out_and_the_last_code_stays(world: Any, session: str) -> None:
    for name in ("first", "second"):
        assert world.ledger.store_code(session, code_hash=name, ttl=CODE_TTL, max_sends=2)
    assert not world.ledger.store_code(session, code_hash="third", ttl=CODE_TTL, max_sends=2)
    assert world.ledger.check_code(session, "second", max_attempts=3) is CodeCheck.ACCEPTED


def test_a_code_expires(world: Any, session: str) -> None:
    world.ledger.store_code(session, code_hash="right", ttl=CODE_TTL, max_sends=2)
    world.clock.forward(minutes=3)
    assert world.ledger.check_code(session, "right", max_attempts=3) is CodeCheck.EXPIRED


def test_the_first_candidate_stays_and_goes_at_the_end(
    world: Any, enrollment: Any, session: str
) -> None:
    with pytest.raises(Unverified, match="accepted code"):
        world.ledger.store_candidate(session, b"early")
    verified(world, session)
    world.ledger.store_candidate(session, b"\x00first\xff")
    world.ledger.store_candidate(session, b"second")
    assert world.ledger.portal_session(session).sealed_candidate == b"\x00first\xff"
    with pytest.raises(Unverified, match="not redeemed"):
        world.ledger.complete(session)
    world.ledger.redeem(enrollment.jti, session)
    world.ledger.complete(session)
    completed = world.ledger.portal_session(session)
    world.clock.forward(seconds=1)
    world.ledger.complete(session)
    assert world.ledger.portal_session(session) == completed
    assert completed.sealed_candidate is None
    assert completed.completed_at is not None
    assert world.events().count("portal.completed") == 1


@pytest.mark.parametrize(
    "typed",
    ["person.1", "PERSON.1", " @Person.1 ", "PERSON.1@MAIL.example", "person.1@mail.example"],
)
def test_an_account_is_found_by_handle_or_mail(world: Any, typed: str) -> None:
    world.admitted(3)
    found = world.ledger.find_account(typed)
    assert [account.account_id for account in found] == ["u000001"]


def test_only_open_incidents_are_searched(world: Any) -> None:
    world.open("INC-2")
    world.admitted(2)
    world.admitted(2, incident="INC-2")
    assert len(world.ledger.find_account("person.1")) == 2
    world.ledger.close_incident("INC-2")
    assert [a.ref for a in world.ledger.find_account("person.1")] == [world.ref(1)]
    for nothing in ("", "  ", "@", "person.%", "nobody"):
        assert world.ledger.find_account(nothing) == []


def test_letters_outside_ascii_fold_the_same_in_both_databases(world: Any) -> None:
    placed = world.placed(1)
    account = replace(placed.account, handle="Ärztin.İ", email="Österreich@mail.example")
    world.ledger.admit(world.incident, [replace(placed, account=account)])
    assert len(world.ledger.find_account("ärztin.İ")) == 1
    assert len(world.ledger.find_account("österreich@MAIL.example")) == 1


def test_a_link_is_requested_once_until_served(world: Any) -> None:
    refs = world.admitted(3)
    assert world.ledger.request_link(refs[1])
    assert not world.ledger.request_link(refs[1])
    world.clock.forward(seconds=1)
    assert world.ledger.request_link(refs[0])
    assert world.ledger.pending_link_requests(world.incident) == [refs[1], refs[0]]
    assert world.ledger.serve_link_requests(world.incident, [refs[1], refs[2]]) == 1
    assert world.ledger.serve_link_requests(world.incident, [refs[1]]) == 0
    assert world.ledger.pending_link_requests(world.incident) == [refs[0]]
    assert world.ledger.request_link(refs[1])
    with pytest.raises(NotFound):
        world.ledger.request_link("acc-unknown")


def test_no_link_for_the_excluded_or_after_closing(world: Any) -> None:
    refs = world.admitted(1)
    world.ledger.admit(world.incident, [world.placed(9, excluded="break-glass")])
    assert not world.ledger.request_link(world.ref(9))
    world.ledger.close_incident(world.incident)
    assert not world.ledger.request_link(refs[0])


def test_notices_are_the_messages_that_went_out(world: Any) -> None:
    refs = world.admitted(2)
    world.carry_out(refs, "notify.sms", Verdict.REFUSED)
    world.carry_out(refs, "contain.revoke")
    world.clock.forward(seconds=1)
    world.carry_out(refs, "notify.in_app", Verdict.ALREADY)
    world.clock.forward(seconds=1)
    world.carry_out(refs, "notify.email", receipt="m-1")
    steps = [(r.act.step, r.act.subject, r.receipt) for r in world.ledger.notices(refs[0])]
    assert steps == [("notify.in_app", refs[0], ""), ("notify.email", refs[0], "m-1")]
    assert world.ledger.notices("acc-unknown") == []


def test_delivery_events_count_once(world: Any) -> None:
    refs = world.admitted(2)
    world.carry_out(refs[:1], "notify.email", receipt="m-1")
    assert world.ledger.settle_delivery("m-1", event="delivered", dedupe="e-1")
    assert not world.ledger.settle_delivery("m-1", event="delivered", dedupe="e-1")
    assert not world.ledger.settle_delivery("m-1", event="bounced", dedupe="e-1")
    assert world.ledger.settle_delivery("m-1", event="optout", dedupe="e-2")
    assert world.ledger.deliveries(world.incident) == {"delivered": 1, "optout": 1}
    entries = [entry for entry in world.ledger.audit(world.incident) if entry.event == "delivery"]
    assert [entry.facts["delivery"] for entry in entries] == ["delivered", "optout"]
    with pytest.raises(Refused):
        world.ledger.settle_delivery("m-1", event="opened", dedupe="e-3")


def test_a_webhook_may_be_faster_than_settling(world: Any) -> None:
    """Providers answer within milliseconds; the batch of five hundred is settled at its end."""
    assert world.ledger.settle_delivery("m-9", event="bounced", dedupe="e-9")
    assert world.ledger.deliveries(world.incident) == {}
    refs = world.admitted(3)
    world.carry_out(refs, "notify.email", receipt="m-9")
    assert world.ledger.deliveries(world.incident) == {"bounced": 1}, "once, for three messages"
    world.open("INC-2")
    assert world.ledger.deliveries("INC-2") == {}


def test_the_window_slides(world: Any) -> None:
    def knock(key: str = "ip:1") -> bool:
        return bool(world.ledger.throttle(key, limit=3, per=timedelta(seconds=60)))

    allowed = []
    for second in (0, 10, 20, 30, 59, 60, 61, 70, 79, 80):
        world.clock.now = world.clock.now.replace(minute=30, second=0) + timedelta(seconds=second)
        allowed.append(knock())
        world.clock.now = world.clock.now - timedelta(seconds=second)
    assert allowed == [True, True, True, False, False, True, False, True, False, True]
    assert knock("ip:2"), "keys do not share"
    assert not world.ledger.throttle("ip:3", limit=0, per=timedelta(seconds=60))


def test_throttle_forgets_and_hides_its_keys(world: Any, sql: Any) -> None:
    head = world.ledger.audit_head()
    for number in range(30):
        world.ledger.throttle(f"person{number}@mail.example", limit=3, per=timedelta(seconds=60))
    assert "mail.example" not in str(sql("SELECT * FROM throttle"))
    world.clock.forward(seconds=61)
    for _ in range(2):
        world.ledger.throttle("x", limit=3, per=timedelta(seconds=60))
    assert len(sql("SELECT * FROM throttle")) == 1
    assert world.ledger.audit_head() == head


def test_the_walk_of_one_person(world: Any, enrollment: Any, session: str) -> None:
    verified(world, session)
    world.ledger.store_candidate(session, b"sealed")
    won = world.ledger.redeem(enrollment.jti, session)
    world.carry_out([won.ref], "enroll.bind", advance=Stage.ENROLLED)
    world.ledger.complete(session)
    assert world.stage(won.ref) is Stage.ENROLLED
    assert world.ledger.verify_audit()[0] == world.ledger.audit_head().seq


def test_a_challenge_is_good_once(world: Any, session: str) -> None:
    ledger = world.ledger
    with pytest.raises(Unverified, match="accepted code"):
        ledger.store_challenge(session, "early", ttl=TTL)
    assert ledger.portal_session(session).challenge == ""
    verified(world, session)
    ledger.store_challenge(session, "first", ttl=CODE_TTL)
    ledger.store_challenge(session, "second", ttl=CODE_TTL)
    assert ledger.portal_session(session).challenge == "second", "the newest one alone"
    for wrong in ("", "first"):
        with pytest.raises(Unverified, match="no open challenge"):
            ledger.store_passkey(session, b"x", challenge=wrong)
    ledger.burn_challenge(session)
    ledger.burn_challenge(session)
    ledger.burn_challenge("no such session")
    assert ledger.portal_session(session).challenge == ""
    for wrong in ("", "second"):
        with pytest.raises(Unverified, match="no open challenge"):
            ledger.store_passkey(session, b"x", challenge=wrong)
    ledger.store_challenge(session, "third", ttl=CODE_TTL)
    world.clock.forward(minutes=3)
    assert ledger.portal_session(session).challenge == "", "it ran out"
    with pytest.raises(Unverified, match="no open challenge"):
        ledger.store_passkey(session, b"x", challenge="third")
    assert world.events().count("portal.challenge_burned") == 1
    assert ledger.portal_session(session).sealed_passkey is None


def test_the_first_passkey_stays_and_goes_at_the_end(
    world: Any, enrollment: Any, session: str
) -> None:
    verified(world, session)
    world.ledger.store_challenge(session, "c", ttl=CODE_TTL)
    world.ledger.store_passkey(session, b"\x00first\xff", challenge="c")
    world.ledger.store_passkey(session, b"second", challenge="c")
    kept = world.ledger.portal_session(session)
    assert (kept.sealed_passkey, kept.challenge) == (b"\x00first\xff", "")
    with pytest.raises(Unverified, match="passkey already"):
        world.ledger.store_challenge(session, "late", ttl=TTL)
    world.ledger.redeem(enrollment.jti, session, method=AuthenticatorKind.PASSKEY)
    world.ledger.complete(session)
    after = world.ledger.portal_session(session)
    assert (after.sealed_passkey, after.method) == (None, AuthenticatorKind.PASSKEY)


def test_who_won_with_one_kind_does_not_bind_another(
    world: Any, enrollment: Any, session: str
) -> None:
    """Two tabs of one browser: the platform would keep the first and the person use the second."""
    assert world.ledger.portal_session(session).method is None
    won = world.ledger.redeem(enrollment.jti, session, method=AuthenticatorKind.PASSKEY)
    with pytest.raises(Conflict, match="passkey"):
        world.ledger.redeem(enrollment.jti, session, method=AuthenticatorKind.TOTP)
    again = world.ledger.redeem(enrollment.jti, session, method=AuthenticatorKind.PASSKEY)
    assert again == won
