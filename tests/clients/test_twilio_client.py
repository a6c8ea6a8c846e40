"""The text message client against the rehearsal's Twilio; asserted is what the phones received."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import SecretStr

from clients.http import Timeouts, Wire
from clients.twilio import TwilioClient, body_hash
from recovery.accounts import Verdict
from recovery.errors import Incomplete, Misconfigured, RateLimited, RecoveryError, Unknown
from recovery.messages import SmsCopy
from rehearsal.world.faults import CloseAfter, CloseBefore, InvalidJson, Status
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.serving import Loopback
from rehearsal.world.twilio_app import TwilioApp

ACCOUNT, TOKEN, SERVICE, NUMBER = "AC0123", "auth-token", "MG0123", "+15550006"
ANN, STOPPED, AWAY = "+15550101", "+15550102", "+15550103"


def copy(to: str = ANN, number: int = 1, body: str = "Acme: your code is 482 193") -> SmsCopy:
    return SmsCopy(f"acc-{number}.notify.sms.1", to, body, timedelta(minutes=10))


@dataclass
class World:
    app: TwilioApp
    mailboxes: Mailboxes
    url: str
    pauses: list[float]

    def client(
        self, auth: tuple[str, str] = (ACCOUNT, TOKEN), account: str = ACCOUNT, **more: Any
    ) -> TwilioClient:
        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        wire = Wire(
            "Twilio",
            self.url,
            credential="auth token",
            timeout=Timeouts(read=timedelta(seconds=5)),
            jitter=random.Random(4),
            sleep=sleep,
        )
        sender = more if more else {"messaging_service_sid": SERVICE}
        return TwilioClient(account, (auth[0], SecretStr(auth[1])), wire, **sender)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    mailboxes = Mailboxes()
    app = TwilioApp(
        lambda: datetime.now(UTC),
        mailboxes,
        account_sid=ACCOUNT,
        auth_token=TOKEN,
        api_keys={"SK1": "key-secret"},
        senders=[NUMBER],
        services={SERVICE: [NUMBER]},
        opted_out=[STOPPED],
        unreachable=[AWAY],
        allowed_prefixes=["+1"],
        delay_seconds=(0.0, 0.002),
        per_second=10_000,
    )
    async with Loopback(app) as server:
        yield World(app, mailboxes, server.url, [])


@pytest.fixture
async def sms(world: World) -> AsyncIterator[TwilioClient]:
    async with world.client() as client:
        yield client


async def test_a_message_arrives_with_its_own_lifetime(world: World, sms: TwilioClient) -> None:
    verdict, sid = await sms.send(copy())
    await world.app.settled()
    assert verdict is Verdict.DONE
    [received] = world.mailboxes.of(ANN)
    assert (received.reference, received.text) == (sid, copy().body)
    [message] = world.app.messages
    assert message.order.validity == timedelta(minutes=10)
    assert message.order.service_sid == SERVICE


@pytest.mark.parametrize(
    ("asked", "given"),
    [(timedelta(days=2), timedelta(hours=10)), (timedelta(0), timedelta(seconds=1))],
)
async def test_a_lifetime_is_what_twilio_takes(
    world: World, sms: TwilioClient, asked: timedelta, given: timedelta
) -> None:
    await sms.send(SmsCopy("acc-1", ANN, "x", asked))
    assert world.app.messages[0].order.validity == given


async def test_api_key_and_a_number_of_ones_own(world: World) -> None:
    async with world.client(("SK1", "key-secret"), from_number=NUMBER) as sms:
        assert (await sms.send(copy()))[0] is Verdict.DONE
    assert world.app.messages[0].order.sender == NUMBER


async def test_a_delivery_report_names_the_notice(world: World) -> None:
    settings = {"from_number": NUMBER, "status_callback": "http://127.0.0.1:9/reports?v=1"}
    async with world.client(**settings) as sms:
        await sms.send(copy(number=7))
    callback = world.app.messages[0].order.status_callback
    assert callback == "http://127.0.0.1:9/reports?v=1&notice_id=acc-7.notify.sms.1"


@pytest.mark.parametrize(
    ("to", "code"), [("nonsense", "21211"), (STOPPED, "21610"), ("+4930123456", "21408")]
)
async def test_what_is_about_the_recipient_is_a_verdict(
    world: World, sms: TwilioClient, to: str, code: str
) -> None:
    assert await sms.send(copy(to)) == (Verdict.REFUSED, code)
    assert world.app.messages == []


async def test_a_body_that_is_too_long_is_refused(sms: TwilioClient) -> None:
    assert await sms.send(copy(body="x" * 1601)) == (Verdict.REFUSED, "21617")


async def test_what_is_about_us_stops_the_run(world: World) -> None:
    for client in (
        world.client(auth=(ACCOUNT, "wrong-token")),
        world.client(account="AC9999"),
        world.client(from_number="+15559999"),
        world.client(messaging_service_sid="MG9999"),
    ):
        async with client as sms:
            with pytest.raises(Misconfigured) as caught:
                await sms.send(copy())
        assert "wrong-token" not in str(caught.value)
        assert ANN not in str(caught.value)
        assert caught.value.subject == "acc-1.notify.sms.1"
    assert world.app.messages == []


@pytest.mark.parametrize(
    ("fault", "texted"),
    [(CloseAfter(), 1), (InvalidJson(), 1), (CloseBefore(), 0), (Status(500), 0)],
)
async def test_a_lost_answer_is_never_repeated_and_can_be_looked_up(
    world: World,
    sms: TwilioClient,
    fault: CloseAfter | InvalidJson | CloseBefore | Status,
    texted: int,
) -> None:
    before = datetime.now(UTC)
    world.app.faults.inject(fault, "POST .*Messages", times=1)
    with pytest.raises(Unknown) as caught:
        await sms.send(copy())
    assert caught.value.subject == "acc-1.notify.sms.1"
    await world.app.settled()
    assert len(world.mailboxes.of(ANN)) == texted
    hashes = [digest for _, digest in await sms.sent_since(ANN, before)]
    assert hashes == [body_hash(copy().body)] * texted
    assert world.pauses == []


async def test_a_429_was_never_processed_and_is_asked_again(
    world: World, sms: TwilioClient
) -> None:
    world.app.faults.inject(Status(429), "POST", times=2)
    assert (await sms.send(copy()))[0] is Verdict.DONE
    await world.app.settled()
    assert len(world.mailboxes.of(ANN)) == 1
    assert len(world.pauses) == 2
    world.app.faults.inject(Status(429, retry_after="5"), "POST", times=None)
    with pytest.raises(RateLimited) as limited:
        await sms.send(copy())
    assert limited.value.retry_after == timedelta(seconds=5)


async def test_the_list_is_of_one_phone_and_goes_over_pages(
    world: World, sms: TwilioClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.twilio._PAGE_SIZE", 3)
    start = datetime.now(UTC)
    sids = {(await sms.send(copy(number=n, body=f"code {n}")))[1] for n in range(7)}
    await sms.send(copy("+15550999"))
    await world.app.settled()
    listed = await sms.sent_since(ANN, start)
    assert {sid for sid, _ in listed} == sids
    assert {digest for _, digest in listed} == {body_hash(f"code {n}") for n in range(7)}
    assert await sms.sent_since(ANN, start + timedelta(hours=1)) == []
    in_another_zone = start.astimezone(timezone(timedelta(hours=9)))
    assert len(await sms.sent_since(ANN, in_another_zone)) == 7


async def test_a_list_that_is_too_long_is_incomplete(
    world: World, sms: TwilioClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.twilio._MOST_LISTED", 3)
    for number in range(4):
        await sms.send(copy(number=number))
    with pytest.raises(Incomplete):
        await sms.sent_since(ANN, datetime.now(UTC) - timedelta(minutes=1))


async def test_no_error_names_the_phone_or_the_body(world: World, sms: TwilioClient) -> None:
    for fault in (Status(500), Status(429), CloseBefore(), InvalidJson(), Status(403)):
        world.app.faults.inject(fault, "", times=None)
        for call in (sms.send(copy()), sms.sent_since(ANN, datetime.now(UTC))):
            with pytest.raises(RecoveryError) as caught:
                await call
            assert ANN[1:] not in f"{caught.value} {caught.value!r}"
            assert "482" not in str(caught.value)
        world.app.faults.clear()


async def test_a_phone_that_cannot_be_written_is_refused(world: World, sms: TwilioClient) -> None:
    assert await sms.send(copy("+1555\ud800")) == (Verdict.REFUSED, "malformed_text")


async def test_the_environment_does_not_move_the_client(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGE", "REGION", "ACCOUNT_SID", "AUTH_TOKEN"):
        monkeypatch.setenv(f"TWILIO_{name}", "elsewhere")
    async with world.client() as sms:
        assert (await sms.send(copy()))[0] is Verdict.DONE


def test_one_sender() -> None:
    wire = Wire("Twilio", "https://api.twilio.com")
    auth = (ACCOUNT, SecretStr(TOKEN))
    for sender in ({}, {"from_number": NUMBER, "messaging_service_sid": SERVICE}):
        with pytest.raises(ValueError):
            TwilioClient(ACCOUNT, auth, wire, **sender)
