"""The mail client against the rehearsal's SendGrid; asserted is what lies in the mailboxes."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from clients.http import Wire
from clients.sendgrid import SendGridClient, split_batches
from recovery.errors import Misconfigured, RateLimited, Refused, Unknown
from recovery.messages import EmailCopy, EmailText
from rehearsal.world.faults import CloseAfter, CloseBefore, Status
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback

SENDER = "security@notices.example"
KEY = ApiKey("SG.right-key")
TEXT = EmailText(
    subject="-org-: your account",
    text="Hello -name-, go to https://x.example/enroll#t=-token- (-code-).",
    html='<p>Hello -name-: <a href="https://x.example/enroll#t=-token-">set up</a> (-code-)</p>',
)


def copy(number: int, to: str | None = None) -> EmailCopy:
    return EmailCopy(
        notice_id=f"acc-{number}.notify.email.1",
        to=to or f"person{number}@mail.example",
        values={"name": f"P{number}", "token": f"tok{number}", "code": "482", "org": "Acme"},
    )


@dataclass
class World:
    app: SendGridApp
    mailboxes: Mailboxes
    url: str
    pauses: list[float]

    def client(self, key: str = KEY.value, sender: str = SENDER, **more: bool) -> SendGridClient:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        wire = Wire(
            "SendGrid",
            self.url,
            headers={"Authorization": SecretStr(f"Bearer {key}")},
            credential="API key",
            jitter=random.Random(4),
            sleep=sleep,
        )
        return SendGridClient(wire, sender_email=sender, sender_name="Acme Security", **more)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    mailboxes = Mailboxes()
    app = SendGridApp(
        lambda: datetime.now(UTC),
        mailboxes,
        keys=[KEY, ApiKey("SG.no-search", frozenset({"mail.send"}))],
        verified_senders=["notices.example"],
        suppressed=["gone@mail.example"],
        bouncing=["full@mail.example"],
        delay_seconds=(0.0, 0.002),
    )
    async with Loopback(app) as server:
        yield World(app, mailboxes, server.url, [])


@pytest.fixture
async def email(world: World) -> AsyncIterator[SendGridClient]:
    async with world.client() as client:
        yield client


async def test_everybody_gets_a_letter_of_his_own(world: World, email: SendGridClient) -> None:
    receipt = await email.send(TEXT, [copy(1), copy(2)], category="enrollment")
    await world.app.settled()
    assert receipt
    for number in (1, 2):
        [letter] = world.mailboxes.of(f"person{number}@mail.example")
        assert letter.subject == "Acme: your account"
        assert letter.text is not None
        assert letter.text.startswith(f"Hello P{number}, go to https://x.example/")
        assert f"#t=tok{number} (482)" in letter.text
        assert letter.sender == SENDER
        assert letter.reference.startswith(receipt)
        assert letter.custom_args == {"notice_id": f"acc-{number}.notify.email.1"}
    assert {m.categories for m in world.app.messages} == {("enrollment",)}


async def test_the_link_stays_ours(world: World, email: SendGridClient) -> None:
    """The account has click tracking on; a rewritten link would hand the token to a stranger."""
    assert world.app.click_tracking
    await email.send(TEXT, [copy(1)], category="enrollment")
    await world.app.settled()
    [letter] = world.mailboxes.of("person1@mail.example")
    assert 'href="https://x.example/enroll#t=tok1"' in (letter.html or "")


async def test_a_thousand_in_one_request_and_no_more(world: World, email: SendGridClient) -> None:
    copies = [copy(n) for n in range(1001)]
    await email.send(TEXT, copies[:1000], category="enrollment")
    await world.app.settled()
    assert len(world.mailboxes.everything()) == 1000
    assert world.app.requests_accepted == 1
    for wrong in (copies, []):
        with pytest.raises(ValueError):
            await email.send(TEXT, wrong, category="enrollment")


async def test_a_shared_mailbox_is_split_over_requests(world: World, email: SendGridClient) -> None:
    shared = [copy(1), copy(2, "Team@Brand.example"), copy(3, "team@brand.example"), copy(4)]
    with pytest.raises(ValueError) as caught:
        await email.send(TEXT, shared, category="enrollment")
    assert "brand" not in str(caught.value)
    for batch in split_batches(shared, 1000):
        await email.send(TEXT, batch, category="enrollment")
    await world.app.settled()
    assert len(world.mailboxes.of("team@brand.example")) == 2
    assert world.app.requests_accepted == 2
    assert not world.mailboxes.received_twice()


async def test_an_address_is_sent_as_it_stands(world: World, email: SendGridClient) -> None:
    """The vendor's helper would take this for a name and another address; SendGrid refuses it."""
    strange = copy(1, "x<victim@mail.example>")
    with pytest.raises(Refused):
        await email.send(TEXT, [strange], category="enrollment")
    assert world.mailboxes.of("victim@mail.example") == ()


async def test_what_became_of_a_notice(world: World, email: SendGridClient) -> None:
    copies = [copy(1), copy(2, "gone@mail.example"), copy(3, "full@mail.example")]
    await email.send(TEXT, copies, category="enrollment")
    await world.app.settled()
    assert await email.found([*(c.notice_id for c in copies), "acc-9.notify.email.1"]) == {
        "acc-1.notify.email.1": "delivered",
        "acc-2.notify.email.1": "not_delivered",
        "acc-3.notify.email.1": "not_delivered",
    }
    with pytest.raises(ValueError):
        await email.found(['x" OR status="delivered'])


async def test_people_who_unsubscribed_are_reached_where_it_is_meant(world: World) -> None:
    async with world.client(bypass_unsubscribes=True) as email:
        copies = [copy(1, "gone@mail.example"), copy(2, "full@mail.example")]
        await email.send(TEXT, copies, category="enrollment")
    await world.app.settled()
    assert len(world.mailboxes.of("gone@mail.example")) == 1
    assert world.mailboxes.of("full@mail.example") == ()


@pytest.mark.parametrize(
    ("fault", "mailed"), [(CloseAfter(), 1), (CloseBefore(), 0), (Status(500), 0)]
)
async def test_a_lost_answer_is_never_repeated_and_can_be_looked_up(
    world: World,
    email: SendGridClient,
    fault: CloseAfter | CloseBefore | Status,
    mailed: int,
) -> None:
    world.app.faults.inject(fault, "mail/send", times=1)
    with pytest.raises(Unknown) as caught:
        await email.send(TEXT, [copy(1)], category="enrollment")
    assert "person1" not in str(caught.value)
    await world.app.settled()
    assert len(world.mailboxes.everything()) == mailed
    found = await email.found(["acc-1.notify.email.1"])
    assert found == ({"acc-1.notify.email.1": "delivered"} if mailed else {})
    assert world.pauses == []


async def test_a_refused_rate_is_asked_again(world: World, email: SendGridClient) -> None:
    world.app.faults.inject(Status(429, retry_after="2"), "mail/send", times=2)
    await email.send(TEXT, [copy(1)], category="enrollment")
    await world.app.settled()
    assert not world.mailboxes.received_twice()
    assert len(world.mailboxes.everything()) == 1
    assert len(world.pauses) == 2
    world.app.faults.inject(Status(429, retry_after="2"), "mail/send", times=None)
    with pytest.raises(RateLimited):
        await email.send(TEXT, [copy(2)], category="enrollment")


async def test_key_sender_and_scope_that_are_wrong(world: World) -> None:
    for client in (
        world.client(key="SG.wrong"),
        world.client(sender="someone@elsewhere.example"),
    ):
        async with client as email:
            with pytest.raises(Misconfigured):
                await email.send(TEXT, [copy(1)], category="enrollment")
    async with world.client(key="SG.no-search") as email:
        await email.send(TEXT, [copy(1)], category="enrollment")
        with pytest.raises(Misconfigured):
            await email.found(["acc-1.notify.email.1"])


async def test_one_bad_address_refuses_the_request(world: World, email: SendGridClient) -> None:
    with pytest.raises(Refused) as caught:
        await email.send(TEXT, [copy(1), copy(2, "nonsense")], category="enrollment")
    assert caught.value.code == "400"
    assert "nonsense" not in str(caught.value)
    await world.app.settled()
    assert world.mailboxes.everything() == ()


@given(
    st.lists(st.sampled_from(["a@x", "A@x", "b@x", "c@x", "d@x", "e@x", "f@x"]), max_size=60),
    st.integers(1, 9),
)
def test_batches_hold_everything_once(addresses: list[str], size: int) -> None:
    copies = [copy(n, to) for n, to in enumerate(addresses)]
    batches = split_batches(copies, size)
    assert sorted(c.notice_id for b in batches for c in b) == sorted(c.notice_id for c in copies)
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len({c.to.lower() for c in batch}) == len(batch)


@pytest.mark.parametrize("size", [0, 1001, -1])
def test_a_size_that_cannot_be(size: int) -> None:
    with pytest.raises(ValueError):
        split_batches([copy(1)], size)
