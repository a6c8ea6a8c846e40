"""Delivery events: whose message they are about, and what a bounce does to the next one."""

from datetime import timedelta
from typing import Any

import pytest

from recovery.accounts import Channel, Stage, Verdict
from recovery.errors import Refused
from recovery.incident import Delivery, DeliveryEvent
from recovery.messages import notice_id, read_notice_id

BOUNCED, DELIVERED = DeliveryEvent.BOUNCED, DeliveryEvent.DELIVERED


def told(world: Any, count: int) -> list[str]:
    """People who were sent a link by one request of many, and a text message each."""
    refs = [enrollment.ref for enrollment in world.armed(count)]
    world.carry_out(refs, "notify.email", receipt="request-1", advance=Stage.NOTIFIED)
    for ref in refs:
        world.carry_out([ref], "notify.sms", receipt=f"SM-{ref}")
    return refs


def bounce(ref: str, *, event: DeliveryEvent = BOUNCED, generation: int = 1) -> Delivery:
    notice = notice_id(ref, "notify.email", generation)
    return Delivery("request-1", event, f"e-{notice}-{event}", notice)


def test_a_notice_names_one_person_of_a_request(world: Any) -> None:
    refs = told(world, 3)
    assert world.ledger.settle_deliveries([bounce(refs[1]), bounce(refs[2], event=DELIVERED)]) == 2
    assert world.ledger.unreachable(world.incident) == {refs[1]: {Channel.EMAIL: BOUNCED}}
    assert world.ledger.unreachable(world.incident, [refs[0]]) == {}
    assert world.ledger.deliveries(world.incident) == {"bounced": 1, "delivered": 1}
    assert world.ledger.lost_links(world.incident) == [refs[1]]


def test_a_batch_counts_each_event_once(world: Any) -> None:
    refs = told(world, 2)
    batch = [bounce(refs[0]), bounce(refs[1]), bounce(refs[0])]
    assert world.ledger.settle_deliveries(batch) == 2
    before = world.ledger.audit_head()
    assert world.ledger.settle_deliveries(batch) == 0
    assert world.ledger.settle_deliveries([]) == 0
    assert world.ledger.audit_head() == before
    assert world.ledger.verify_audit()


def test_a_receipt_alone_blames_nobody_of_many(world: Any) -> None:
    told(world, 3)
    world.ledger.settle_delivery("request-1", event="bounced", dedupe="e-1")
    assert world.ledger.unreachable(world.incident) == {}
    assert world.ledger.deliveries(world.incident) == {"bounced": 1}


def test_an_event_may_overtake_the_settling_of_its_message(world: Any) -> None:
    [enrollment] = world.armed(1)
    world.ledger.settle_delivery("SM-early", event="optout", dedupe="e-1")
    assert world.ledger.unreachable(world.incident) == {}
    world.carry_out([enrollment.ref], "notify.sms", receipt="SM-early")
    optout = {Channel.SMS: DeliveryEvent.OPTED_OUT}
    assert world.ledger.unreachable(world.incident) == {enrollment.ref: optout}
    assert world.ledger.unreachable(world.incident, [enrollment.ref]) == {enrollment.ref: optout}


def test_what_we_never_intended_is_not_believed(world: Any) -> None:
    refs = told(world, 1)
    for notice in ("acc-aaaa.notify.email.1", f"{refs[0]}.notify.email.7", "rubbish", "a" * 200):
        world.ledger.settle_deliveries([Delivery("nobody", BOUNCED, f"e-{notice}", notice)])
    assert world.ledger.unreachable(world.incident) == {}
    assert world.ledger.deliveries(world.incident) == {}


def test_a_lost_link_is_found_until_it_was_replaced(world: Any) -> None:
    refs = told(world, 2)
    world.ledger.settle_deliveries([bounce(refs[0])])
    assert world.ledger.lost_links(world.incident) == [refs[0]]
    world.ledger.issue(world.incident, [refs[0]])
    assert world.ledger.lost_links(world.incident) == [], "it is due again"
    assert world.stage(refs[0]) is Stage.TOKEN_ISSUED
    world.ledger.arm(world.incident, [refs[0]], ttl=timedelta(minutes=15))
    world.carry_out([refs[0]], "notify.in_app", generation=2, advance=Stage.NOTIFIED)
    assert world.ledger.lost_links(world.incident) == []
    # The email stays known as useless.
    assert Channel.EMAIL in world.ledger.unreachable(world.incident)[refs[0]]


def test_a_bounce_of_a_code_is_no_lost_link(world: Any) -> None:
    refs = told(world, 1)
    notice = notice_id(refs[0], "notify.sms", 1)
    world.ledger.settle_deliveries([Delivery(f"SM-{refs[0]}", BOUNCED, "e-1", notice)])
    assert world.ledger.lost_links(world.incident) == []
    assert world.ledger.unreachable(world.incident) == {refs[0]: {Channel.SMS: BOUNCED}}


def test_handing_over_revokes_the_link(world: Any) -> None:
    refs = told(world, 2)
    assert world.ledger.hand_over(world.incident, refs[:1], "nothing reaches them") == 1
    assert world.ledger.hand_over(world.incident, refs[:1], "again") == 0
    assert world.stage(refs[0]) is Stage.MANUAL
    assert world.account(refs[0]).stage_reason == "nothing reaches them"
    assert world.ledger.current_enrollments(world.incident, refs)[0].ref == refs[1]
    world.ledger.close_incident(world.incident)
    with pytest.raises(Refused):
        world.ledger.hand_over(world.incident, refs, "too late")


def test_notice_ids_are_read_back() -> None:
    act = read_notice_id("acc-abc234.notify_manual.in_app.12")
    assert act is not None
    assert (act.subject, act.step, act.generation) == ("acc-abc234", "notify_manual.in_app", 12)
    for wrong in ("", "acc-abc", "acc-abc.notify", "acc-a.notify.email.x", "x.notify.email.1"):
        assert read_notice_id(wrong) is None


def test_verdicts_are_untouched(world: Any) -> None:
    refs = told(world, 1)
    world.ledger.settle_deliveries([bounce(refs[0])])
    [record] = world.ledger.acts(world.incident, "notify.email")
    assert record.verdict is Verdict.DONE, "we did hand it over; what came of it stands beside"
