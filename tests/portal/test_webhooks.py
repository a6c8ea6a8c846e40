"""Webhooks: what the providers' own servers post is settled, what anybody else posts is not."""

import base64
import gzip
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr
from twilio.request_validator import HMAC_SHA1, HMAC_SHA256, RequestValidator

from clients.http import Wire
from clients.sendgrid import SendGridClient
from clients.twilio import TwilioClient
from portal.signatures import SENDGRID_SIGNATURE, SENDGRID_TIMESTAMP
from recovery.accounts import Act, Channel, Outcome, Verdict
from recovery.incident import DeliveryEvent
from recovery.messages import EmailCopy, EmailText, SmsCopy, notice_id
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback
from rehearsal.world.twilio_callbacks import sign
from tests.portal.conftest import MakeWorld, clean
from tests.portal.world import ACCOUNT_SID, INCIDENT, SENDER, PortalWorld

TOKEN, SHARED = "auth-token", "shared-secret-of-the-tests"
TEXT = EmailText("Subject", "Text -p:code-", "<p>-p:code-</p>")
KEY = ec.generate_private_key(ec.SECP256R1())


def public_key(key: ec.EllipticCurvePrivateKey = KEY) -> str:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def hooks(**changed: Any) -> dict[str, Any]:
    return {"sendgrid_key": public_key(), "twilio_auth_token": TOKEN, **changed}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listening(
    population: Any, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PortalWorld]:
    given = hooks(twilio_shared_keys={"key-1": SHARED})
    folder = tmp_path_factory.mktemp("hooks")
    async with PortalWorld(population, folder, {"webhooks": given}) as world:
        world.contain(clean(population)[:4])
        yield world


# ---------------------------------------------------------------------- the providers themselves


async def test_sendgrids_own_events_settle(make_world: MakeWorld, clean_ids: list[str]) -> None:
    """Out of order, twice, in batches: as its server posts them."""
    async with AsyncExitStack() as stack:
        clock: list[Any] = []
        mailboxes = Mailboxes()
        mail = SendGridApp(
            lambda: clock[0].now(),
            mailboxes,
            keys=[ApiKey("sg-key")],
            verified_senders=["security@example.com"],
            delay_seconds=(0.0, 0.01),
        )
        mail.webhook._twice = 0.5
        world = await make_world(webhooks=hooks(sendgrid_key=mail.webhook.public_key))
        clock.append(world.clock)
        mail.webhook.url = f"{world.url}/hooks/sendgrid"
        people = clean_ids[:4]
        world.contain(people)
        addresses = {i: world.population.accounts[i].email or "" for i in people}
        mail.bouncing.add(addresses[people[0]].lower())
        mail.suppressed.add(addresses[people[1]].lower())
        server = await stack.enter_async_context(Loopback(mail))
        wire = Wire("SendGrid", server.url, headers={"Authorization": SecretStr("Bearer sg-key")})
        client = await stack.enter_async_context(
            SendGridClient(wire, sender_email="security@example.com", sender_name="Security")
        )
        acts = [Act(world.refs[i], "notify.email") for i in people]
        world.ledger.intend(INCIDENT, acts)
        copies = [
            EmailCopy(notice_id(world.refs[i], "notify.email", 1), addresses[i], {"p:code": "1"})
            for i in people
        ]
        receipt = await client.send(TEXT, copies, category="recovery-link")
        world.ledger.settle(INCIDENT, [Outcome(a, Verdict.DONE, receipt=receipt) for a in acts])
        await mail.settled()
        assert mail.webhook.undelivered == []
        assert world.ledger.deliveries(INCIDENT) == {"bounced": 1, "delivered": 2, "dropped": 1}
        assert world.ledger.unreachable(INCIDENT) == {
            world.refs[people[0]]: {Channel.EMAIL: DeliveryEvent.BOUNCED},
            world.refs[people[1]]: {Channel.EMAIL: DeliveryEvent.DROPPED},
        }
        assert len(mailboxes.everything()) == 2
        assert world.ledger.verify_audit()


async def test_twilios_own_callbacks_settle(make_world: MakeWorld, clean_ids: list[str]) -> None:
    world = await make_world(webhooks=hooks())
    people = clean_ids[:2]
    world.contain(people)
    phones = [world.population.accounts[i].phone or "" for i in people]
    world.twilio.unreachable.add(phones[0])
    wire = Wire("Twilio", world.sms_server.url)
    async with TwilioClient(
        ACCOUNT_SID,
        (ACCOUNT_SID, SecretStr(TOKEN)),
        wire,
        messaging_service_sid=None,
        from_number=SENDER,
        status_callback=f"{world.url}/hooks/twilio/status",
    ) as client:
        for account_id, phone in zip(people, phones, strict=True):
            act = Act(world.refs[account_id], "notify.sms")
            world.ledger.intend(INCIDENT, [act])
            notice = notice_id(act.subject, act.step, 1)
            verdict, sid = await client.send(SmsCopy(notice, phone, "x", timedelta(hours=1)))
            world.ledger.settle(INCIDENT, [Outcome(act, verdict, receipt=sid)])
    await world.twilio.settled()
    await world.twilio.callbacks.drained()
    assert world.ledger.deliveries(INCIDENT) == {"bounced": 1, "delivered": 1}
    bounced = {Channel.SMS: DeliveryEvent.BOUNCED}
    assert world.ledger.unreachable(INCIDENT) == {world.refs[people[0]]: bounced}


# ---------------------------------------------------------------------- SendGrid, by hand


@dataclass
class Post:
    """A signed batch that each attack bends in one place."""

    world: PortalWorld
    body: bytes
    timestamp: str
    key: ec.EllipticCurvePrivateKey = KEY
    signature: str | None = None
    headers: Mapping[str, str] | None = None

    async def status(self) -> int:
        made = self.key.sign(self.timestamp.encode() + self.body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            SENDGRID_TIMESTAMP: self.timestamp,
            SENDGRID_SIGNATURE: self.signature or base64.b64encode(made).decode(),
            **(self.headers or {}),
        }
        url = f"{self.world.url}/hooks/sendgrid"
        async with self.world.http.post(url, data=self.body, headers=headers) as answer:
            return answer.status


def event(world: PortalWorld, person: str, number: str, **changed: Any) -> dict[str, Any]:
    return {
        "event": "bounce",
        "email": "somebody@example.com",
        "sg_event_id": f"ev-{number}",
        "sg_message_id": "m-1.recvd-1",
        "notice_id": notice_id(world.refs[person], "notify.email", 1),
        **changed,
    }


def post(world: PortalWorld, person: str, number: str, **changed: Any) -> Post:
    body = json.dumps([event(world, person, number)]).encode()
    given = {"body": body, "timestamp": str(int(world.clock.timestamp())), **changed}
    return Post(world, **given)


def settled(world: PortalWorld) -> int:
    return sum(entry.event == "delivery" for entry in world.ledger.audit())


@pytest.mark.asyncio(loop_scope="module")
async def test_the_signed_batch_itself_is_taken_once(listening: PortalWorld, person: str) -> None:
    listening.issue(person)
    before = settled(listening)
    assert await post(listening, person, "good").status() == 204
    assert await post(listening, person, "good").status() == 204, "they repeat what they like"
    assert settled(listening) == before + 1
    late = int(listening.clock.timestamp()) - 590
    assert await post(listening, person, "late", timestamp=str(late)).status() == 204


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("name", "changed", "status"),
    [
        ("another key", {"key": ec.generate_private_key(ec.SECP256R1())}, 403),
        ("another signature", {"signature": base64.b64encode(b"x" * 70).decode()}, 403),
        ("no base64", {"signature": "%%%"}, 403),
        ("no signature", {"headers": {SENDGRID_SIGNATURE: ""}}, 403),
        ("no timestamp", {"headers": {SENDGRID_TIMESTAMP: ""}}, 403),
        ("another timestamp", {"headers": {SENDGRID_TIMESTAMP: "1"}}, 403),
        ("a timestamp in words", {"timestamp": "now"}, 403),
        ("stale", {"timestamp": "-601"}, 403),
        ("from the future", {"timestamp": "+601"}, 403),
        ("packed", {"headers": {"Content-Encoding": "gzip"}}, 415),
        ("no JSON", {"body": b"[{"}, 400),
        ("no list", {"body": b"{}"}, 400),
        ("deep", {"body": b"[" * 100_000 + b"]" * 100_000}, 400),
        ("too much", {"body": b"[" + b" " * (4 * 1024 * 1024) + b"]"}, 413),
    ],
)
async def test_forged_and_stale_events(
    listening: PortalWorld, person: str, name: str, changed: dict[str, Any], status: int
) -> None:
    if changed.get("timestamp", "")[:1] in ("+", "-"):
        moved = int(listening.clock.timestamp()) + int(changed["timestamp"])
        changed = {"timestamp": str(moved)}
    before = settled(listening)
    assert await post(listening, person, name, **changed).status() == status
    assert settled(listening) == before


@pytest.mark.asyncio(loop_scope="module")
async def test_the_raw_body_is_what_was_signed(listening: PortalWorld, person: str) -> None:
    """The same JSON in other bytes has another signature."""
    good = post(listening, person, "raw")
    made = KEY.sign(good.timestamp.encode() + good.body, ec.ECDSA(hashes.SHA256()))
    good.signature = base64.b64encode(made).decode()
    good.body = json.dumps(json.loads(good.body), separators=(",", ":")).encode()
    assert await good.status() == 403
    packed = post(listening, person, "packed")
    packed.body, packed.headers = gzip.compress(packed.body), {"Content-Encoding": "gzip"}
    assert await packed.status() == 415


@pytest.mark.asyncio(loop_scope="module")
async def test_what_is_not_ours_is_heard_and_forgotten(listening: PortalWorld, person: str) -> None:
    events: list[Any] = [
        event(listening, person, "o", event="open"),
        event(listening, person, "p", event="processed"),
        event(listening, person, "n", notice_id=None),
        event(listening, person, "i", sg_event_id=5),
        event(listening, person, "m", sg_message_id=["x"]),
        "text",
        None,
        {},
    ]
    before = settled(listening)
    body = json.dumps(events).encode()
    assert await post(listening, person, "others", body=body).status() == 204
    assert settled(listening) == before


# ---------------------------------------------------------------------- Twilio, by hand


def form(sid: str, **changed: str) -> dict[str, str]:
    return {"MessageSid": sid, "MessageStatus": "undelivered", "To": "+15005550001", **changed}


async def call(
    world: PortalWorld, form: Mapping[str, str], headers: Mapping[str, str], query: str = ""
) -> int:
    url = f"{world.url}/hooks/twilio/status{query}"
    async with world.http.post(url, data=dict(form), headers=dict(headers)) as answer:
        return answer.status


@pytest.mark.asyncio(loop_scope="module")
async def test_both_kinds_of_signature(listening: PortalWorld) -> None:
    """SHA-1 under the auth token, SHA-256 under a shared key that a header names."""
    url = f"{listening.url}/hooks/twilio/status"
    first, second = form("SM-sha1"), form("SM-sha256", ErrorCode="21610")
    old = {"X-Twilio-Signature": sign(TOKEN, url, first)}
    new = {
        "X-Twilio-Signature": RequestValidator(SHARED).compute_signature(url, second, HMAC_SHA256),
        "X-Twilio-Webhooks-Signature-Settings": "key=key-1,algorithm=HMAC_SHA256",
    }
    before = settled(listening)
    assert await call(listening, first, old) == 204
    assert await call(listening, first, old) == 204
    assert await call(listening, second, new) == 204
    assert settled(listening) == before + 2


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("secret", "algorithm", "settings", "query", "changed"),
    [
        ("another", HMAC_SHA1, "", "", {}),
        (TOKEN, HMAC_SHA1, "", "", {"MessageStatus": "delivered"}),
        (TOKEN, HMAC_SHA1, "", "?notice_id=acc-a.notify.email.1", {}),
        (SHARED, HMAC_SHA1, "key=key-1,algorithm=HMAC_SHA1", "", {}),
        (SHARED, HMAC_SHA1, "key=key-1", "", {}),
        (SHARED, HMAC_SHA256, "key=key-2,algorithm=HMAC_SHA256", "", {}),
        (TOKEN, HMAC_SHA256, "algorithm=HMAC_SHA256", "", {}),
        (TOKEN, HMAC_SHA256, "", "", {}),
        ("", HMAC_SHA1, "", "", {}),
    ],
)
async def test_forged_callbacks(
    listening: PortalWorld,
    secret: str,
    algorithm: str,
    settings: str,
    query: str,
    changed: dict[str, str],
) -> None:
    url = f"{listening.url}/hooks/twilio/status"
    signed = form("SM-forged")
    signature = RequestValidator(secret).compute_signature(url, signed, algorithm)
    headers = {"X-Twilio-Signature": signature}
    if settings:
        headers["X-Twilio-Webhooks-Signature-Settings"] = settings
    before = settled(listening)
    assert await call(listening, {**signed, **changed}, headers, query) == 403
    assert await call(listening, signed, {}) == 403
    assert settled(listening) == before


async def test_the_public_address_was_signed_whatever_the_proxy_says(
    make_world: MakeWorld,
) -> None:
    """Behind a proxy the request comes by another scheme, host and port than Twilio called."""
    world = await make_world(webhooks=hooks(), trusted_proxies=["127.0.0.0/8"])
    sent = form("SM-proxied")
    url = f"{world.url}/hooks/twilio/status"
    good = {"X-Twilio-Signature": sign(TOKEN, url, sent), "Host": "inner.local:8080"}
    assert await call(world, sent, {**good, "X-Forwarded-Proto": "http"}) == 204
    inner = sign(TOKEN, "http://inner.local:8080/hooks/twilio/status", sent)
    assert await call(world, sent, {**good, "X-Twilio-Signature": inner}) == 403


async def test_without_keys_nobody_is_believed(world: PortalWorld) -> None:
    sent = form("SM-x")
    url = f"{world.url}/hooks/twilio/status"
    for secret in ("", "auth-token"):
        assert await call(world, sent, {"X-Twilio-Signature": sign(secret, url, sent)}) == 403
    async with world.http.post(f"{world.url}/hooks/sendgrid", data=b"[]") as answer:
        assert answer.status == 404
