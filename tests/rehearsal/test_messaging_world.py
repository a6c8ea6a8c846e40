"""The mail and text message servers keep the vendors' rules, and the vendors' own packages agree:
SendGrid's helpers build the mail and verify the events, Twilio's client sends and validates."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import pytest_asyncio
from sendgrid.helpers.eventwebhook import EventWebhook
from sendgrid.helpers.mail import (
    Category,
    ClickTracking,
    CustomArg,
    From,
    HtmlContent,
    Mail,
    Personalization,
    PlainTextContent,
    Subject,
    Substitution,
    To,
    TrackingSettings,
)
from starlette.types import Receive, Scope, Send
from twilio.base.exceptions import TwilioRestException
from twilio.http import HttpClient
from twilio.http.response import Response as TwilioResponse
from twilio.request_validator import RequestValidator
from twilio.rest import Client

from rehearsal.world.faults import CloseAfter, CloseBefore, InvalidJson, Status
from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.sendgrid_app import ApiKey, SendGridApp
from rehearsal.world.serving import Loopback
from rehearsal.world.twilio_app import TwilioApp
from rehearsal.world.twilio_rules import segments

START = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
SENDER = "security@platform.example"
ACCOUNT = "AC" + "0" * 32
TOKEN = "auth-token-of-the-account"
SERVICE = "MG" + "1" * 32
NUMBER, OTHER_NUMBER = "+12125550100", "+12125550101"
PHONE = "+12125550142"


class Hands:
    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


@dataclass
class Post:
    url_path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Listener:
    """A webhook receiver that keeps what it is sent; the first `refusals` posts get a 500."""

    refusals: int = 0
    posts: list[Post] = field(default_factory=list)
    accepted: list[Post] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {k.decode().lower(): v.decode() for k, v in scope["headers"]}
        query = scope["query_string"].decode()
        post = Post(f"{scope['path']}?{query}" if query else scope["path"], headers, body)
        self.posts.append(post)
        status = 500 if len(self.posts) <= self.refusals else 204
        if status == 204:
            self.accepted.append(post)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def events(self) -> list[dict[str, Any]]:
        return [event for post in self.accepted for event in json.loads(post.body)]


# ================================================================ mail


@dataclass
class PostOffice:
    app: SendGridApp
    http: httpx.AsyncClient
    boxes: Mailboxes
    clock: Hands
    listener: Listener

    async def send(self, body: Mapping[str, Any] | Mail, **headers: str) -> httpx.Response:
        payload = body.get() if isinstance(body, Mail) else body
        return await self.http.post("/v3/mail/send", json=payload, headers=headers)

    async def search(self, query: str, limit: int = 100) -> list[dict[str, Any]]:
        answer = await self.http.get("/v3/messages", params={"limit": limit, "query": query})
        assert answer.status_code == 200, answer.text
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages


@asynccontextmanager
async def mail_server(
    *, refusals: int = 0, listening: bool = True, key: str = "SG.good", **options: Any
) -> AsyncIterator[PostOffice]:
    clock, boxes, listener = Hands(), Mailboxes(), Listener(refusals)
    keys = [ApiKey("SG.good"), ApiKey("SG.reader", frozenset({"messages.read"}))]
    async with AsyncExitStack() as stack:
        hook = await stack.enter_async_context(Loopback(listener))
        app = SendGridApp(
            clock.now,
            boxes,
            keys=keys,
            verified_senders=[SENDER, "brand.example"],
            webhook_url=f"{hook.url}/events" if listening else None,
            **options,
        )
        server = await stack.enter_async_context(Loopback(app))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx.AsyncClient(base_url=server.url, headers=headers, timeout=20)
        http = await stack.enter_async_context(client)
        yield PostOffice(app, http, boxes, clock, listener)


def letter(to: str, notice: str | None = None, **more: Any) -> dict[str, Any]:
    args = {"custom_args": {"notice_id": notice}} if notice is not None else {}
    return {"to": [{"email": to}], **args, **more}


def mail(*personalizations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "personalizations": list(personalizations) or [letter("ana@x.example", "n-1")],
        "from": {"email": SENDER},
        "subject": "Please enroll again",
        "content": [{"type": "text/plain", "value": "Hello -name-"}],
        **more,
    }


def helper_mail(*people: tuple[str, str, str]) -> Mail:
    """One personalization each (address, name, notice), built by SendGrid's own package."""
    built = Mail()
    built.from_email = From(SENDER, "Platform security")
    built.subject = Subject("Hello -name-")
    built.add_content(PlainTextContent("Dear -name-, open -link-"))
    built.add_content(
        HtmlContent('<p>Dear -name-, <a href="https://id.example/#-link-">go</a></p>')
    )
    built.category = Category("recovery")
    tracking = TrackingSettings()
    tracking.click_tracking = ClickTracking(enable=False, enable_text=False)
    built.tracking_settings = tracking
    for address, name, notice in people:
        personalization = Personalization()
        personalization.add_to(To(address))
        personalization.add_substitution(Substitution("-name-", name))
        personalization.add_substitution(Substitution("-link-", f"t.{notice}"))
        personalization.add_custom_arg(CustomArg("notice_id", notice))
        built.add_personalization(personalization)
    return built


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict_office() -> AsyncIterator[PostOffice]:
    async with mail_server(listening=False) as office:
        yield office


async def test_mail_of_the_helpers_arrives_personalized() -> None:
    async with mail_server() as office:
        people = [(f"p{n}@x.example", f"Person {n}", f"n-{n}") for n in range(40)]
        answer = await office.send(helper_mail(*people))
        assert (answer.status_code, answer.content) == (202, b"")
        message_id = answer.headers["X-Message-Id"]
        assert int(answer.headers["X-RateLimit-Remaining"]) < 200
        await office.app.settled()
        for address, name, notice in people:
            (received,) = office.boxes.of(address.upper())
            assert received.subject == f"Hello {name}"
            assert received.text == f"Dear {name}, open t.{notice}"
            assert received.html is not None
            assert f'href="https://id.example/#t.{notice}"' in received.html
            assert received.custom_args == {"notice_id": notice}
            assert received.reference.startswith(message_id)
            assert received.channel == "email"
            assert received.sender == SENDER
        assert office.boxes.received_twice() == {}


async def test_events_are_signed_and_complete() -> None:
    async with mail_server() as office:
        people = [(f"p{n}@x.example", "P", f"n-{n}") for n in range(120)]
        await office.send(helper_mail(*people))
        await office.app.settled()
        shown = await office.http.get("/v3/user/webhooks/event/settings/signed")
        verifier = EventWebhook(shown.json()["public_key"])
        for post in office.listener.accepted:
            text, headers = post.body.decode(), post.headers
            signature = headers["x-twilio-email-event-webhook-signature"]
            timestamp = headers["x-twilio-email-event-webhook-timestamp"]
            assert timestamp == str(int(START.timestamp()))
            assert verifier.verify_signature(text, signature, timestamp)
            assert not verifier.verify_signature(text + " ", signature, timestamp)
            assert not verifier.verify_signature(text, signature, str(int(timestamp) + 1))
        events = office.listener.events()
        unique = {event["sg_event_id"]: event for event in events}
        assert len(unique) < len(events)  # some come twice
        by_kind = Counter(event["event"] for event in unique.values())
        assert by_kind["processed"] == by_kind["delivered"] == 120
        assert {event["notice_id"] for event in unique.values()} == {f"n-{n}" for n in range(120)}
        assert {event["category"][0] for event in unique.values()} == {"recovery"}
        firsts: dict[str, str] = {}
        for event in events:
            firsts.setdefault(event["notice_id"], event["event"])
        assert set(firsts.values()) > {"processed"}  # some come out of order


async def test_webhook_is_tried_again_until_it_accepts() -> None:
    async with mail_server(refusals=2) as office:
        await office.send(mail())
        await office.app.settled()
        assert len(office.listener.posts) >= 3
        assert {event["event"] for event in office.listener.events()} >= {"processed", "delivered"}
        assert office.app.webhook.undelivered == []


async def test_suppressed_is_dropped_and_a_bounce_suppresses() -> None:
    async with mail_server(suppressed=["No@x.example"], bouncing=["gone@x.example"]) as office:
        await office.send(mail(letter("no@x.example", "n-1"), letter("gone@x.example", "n-2")))
        await office.app.settled()
        await office.send(mail(letter("gone@x.example", "n-3"), letter("yes@x.example", "n-4")))
        await office.app.settled()
        kinds: dict[str, set[str]] = {}
        for event in office.listener.events():
            kinds.setdefault(event["notice_id"], set()).add(event["event"])
        assert kinds["n-1"] == {"dropped"}
        assert kinds["n-2"] == {"processed", "bounce"}
        assert kinds["n-3"] == {"dropped"}
        assert {"processed", "delivered"} <= kinds["n-4"]
        assert [received.to for received in office.boxes.everything()] == ["yes@x.example"]
        bypass = {"mail_settings": {"bypass_list_management": {"enable": True}}}
        await office.send(mail(letter("no@x.example", "n-5"), **bypass))
        await office.app.settled()
        assert len(office.boxes.of("no@x.example")) == 1


MANY = [letter(f"p{n}@x.example") for n in range(1_001)]
CROWD = [{"email": f"p{n}@x.example"} for n in range(1_001)]
TWICE = {"to": [{"email": "b@x.example"}], "cc": [{"email": "A@x.example"}]}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (mail(*MANY), 400, "personalizations"),
        (mail({"to": CROWD}), 400, "personalizations"),
        (mail(letter("a@x.example"), letter("A@X.example")), 400, "personalizations.1.to"),
        (mail(letter("a@x.example"), TWICE), 400, "personalizations.1.cc"),
        (mail(letter("a.x.example")), 400, "personalizations.0.to.0.email"),
        (mail({"to": []}), 400, "personalizations.0.to"),
        (mail() | {"personalizations": []}, 400, "personalizations"),
        (mail(**{"from": {"email": "intern@platform.example"}}), 403, "from"),
        (mail() | {"from": None}, 400, "from.email"),
        (mail(subject=""), 400, "subject"),
        (mail(content=[]), 400, "content"),
        (mail(content=[{"type": "text/plain", "value": ""}]), 400, "content.0.value"),
        (
            mail(
                content=[
                    {"type": "text/html", "value": "<p>a</p>"},
                    {"type": "text/plain", "value": "a"},
                ]
            ),
            400,
            "content",
        ),
        (mail(custom_args={"incident": 7}), 400, "custom_args"),
        (mail(custom_args={"a": "x" * 10_000}), 400, "personalizations.0.custom_args"),
        (
            mail(letter("a@x.example", substitutions={"-a-": "x" * 10_000})),
            400,
            "personalizations.0.substitutions",
        ),
        (
            mail(letter("a@x.example", dynamic_template_data={"code": "1"})),
            400,
            "personalizations.0.dynamic_template_data",
        ),
        (mail(template_id="d-123"), 400, "template_id"),
        (mail(categories=[f"c{n}" for n in range(11)]), 400, "categories"),
        (mail(categories=["c" * 256]), 400, "categories"),
        (mail(categories=["c", "c"]), 400, "categories"),
        (mail(send_at=int((START + timedelta(hours=73)).timestamp())), 400, "send_at"),
        (mail(batch_id="b-1"), 400, "batch_id"),
        (mail(headers={"Subject": "other"}), 400, "headers"),
        (mail(attachment=[]), 400, "attachment"),
        (
            mail(
                mail_settings={
                    "bypass_list_management": {"enable": True},
                    "bypass_bounce_management": {"enable": True},
                }
            ),
            400,
            "mail_settings.bypass_list_management",
        ),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refused_request_sends_nothing(
    strict_office: PostOffice, body: dict[str, Any], status: int, field: str
) -> None:
    answer = await strict_office.send(body)
    assert answer.status_code == status
    (error,) = answer.json()["errors"]
    assert error["field"] == field
    assert error["message"]
    assert set(error) == {"message", "field", "help"}
    await strict_office.app.settled()
    assert strict_office.app.messages == []
    assert strict_office.boxes.everything() == ()


async def test_limits_are_reachable() -> None:
    async with mail_server(listening=False) as office:
        assert (await office.send(mail(*MANY[:1_000]))).status_code == 202
        many = mail(letter("a@x.example", substitutions={"-name-": "x" * 9_900}))
        assert (await office.send(many)).status_code == 202
        brand = mail(**{"from": {"email": "any@brand.example"}}, categories=["c" * 255])
        assert (await office.send(brand)).status_code == 202
        await office.app.settled()
        assert len(office.boxes.everything()) == 1_002


async def test_keys_sizes_and_media_types() -> None:
    async with mail_server(key="") as office:
        assert (await office.send(mail())).status_code == 401
        assert (await office.send(mail(), Authorization="Bearer SG.bad")).status_code == 401
        reader = {"Authorization": "Bearer SG.reader"}
        assert (await office.send(mail(), **reader)).status_code == 403
        assert (await office.http.get("/v3/messages", headers=reader)).status_code == 200
    async with mail_server() as office:
        big = mail(content=[{"type": "text/plain", "value": "x" * (30 * 1024 * 1024)}])
        assert (await office.send(big)).status_code == 413
        plain = {"Content-Type": "text/plain"}
        answer = await office.http.post("/v3/mail/send", content="{}", headers=plain)
        assert answer.status_code == 415
        typed = {"Content-Type": "application/json"}
        answer = await office.http.post("/v3/mail/send", content="{", headers=typed)
        assert answer.status_code == 400
        assert (await office.http.get("/v3/nothing")).status_code == 404
        assert office.boxes.everything() == ()


async def test_sandbox_validates_only() -> None:
    sandbox = {"mail_settings": {"sandbox_mode": {"enable": True}}}
    async with mail_server() as office:
        assert (await office.send(mail(**sandbox))).status_code == 200
        assert (await office.send(mail(subject="", **sandbox))).status_code == 400
        await office.app.settled()
        assert (office.app.messages, office.listener.posts) == ([], [])


async def test_rate_refuses_and_does_nothing() -> None:
    async with mail_server(per_second=5, listening=False) as office:
        answers = [await office.send(mail(letter(f"p{n}@x.example"))) for n in range(9)]
        codes = Counter(answer.status_code for answer in answers)
        assert codes[202] >= 5
        assert codes[429] >= 2
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.headers["X-RateLimit-Limit"] == "5"
        assert int(limited.headers["X-RateLimit-Reset"]) >= int(START.timestamp())
        assert limited.json()["errors"][0]["message"] == "too many requests"
        await office.app.settled()
        assert len(office.boxes.everything()) == codes[202]


async def test_click_tracking_rewrites_links_unless_turned_off() -> None:
    content = [{"type": "text/html", "value": '<a href="https://id.example/enroll#t">enroll</a>'}]
    off = {"tracking_settings": {"click_tracking": {"enable": False, "enable_text": False}}}
    async with mail_server(listening=False) as office:
        await office.send(mail(letter("on@x.example"), content=content))
        await office.send(mail(letter("off@x.example"), content=content, **off))
        await office.app.settled()
        (tracked,), (plain,) = office.boxes.of("on@x.example"), office.boxes.of("off@x.example")
        assert "https://id.example/enroll" not in (tracked.html or "")
        assert 'href="https://id.example/enroll#t"' in (plain.html or "")


async def test_scheduled_mail_waits_for_the_clock() -> None:
    due = START + timedelta(minutes=15)
    async with mail_server(listening=False) as office:
        await office.send(mail(send_at=int(due.timestamp())))
        await asyncio.sleep(0.15)
        assert office.boxes.everything() == ()
        office.clock.at = due
        await office.app.settled()
        assert [received.at for received in office.boxes.everything()] == [due]


async def test_search_finds_what_was_accepted() -> None:
    async with mail_server(listening=False, activity_lag=timedelta(minutes=1)) as office:
        people = [(f"p{n}@x.example", "P", f"n-{n}") for n in range(5)]
        await office.send(helper_mail(*people))
        await office.app.settled()
        by_notice = "unique_args['notice_id']=\"n-3\""
        assert await office.search(by_notice) == []  # the activity feed lags
        office.clock.at += timedelta(minutes=1)
        (found,) = await office.search(by_notice)
        assert (found["to_email"], found["status"]) == ("p3@x.example", "delivered")
        assert found["msg_id"] == office.boxes.of("p3@x.example")[0].reference
        assert found["last_event_time"].endswith("Z")
        several = 'unique_args[\'notice_id\'] IN ("n-1","n-2","n-9")'
        assert len(await office.search(several)) == 2
        assert len(await office.search(f'{several} AND to_email="p1@x.example"')) == 1
        assert len(await office.search('status="delivered"', limit=3)) == 3
        for query in ("notice_id", 'nonsense="1"'):
            answer = await office.http.get("/v3/messages", params={"query": query})
            assert answer.status_code == 400
        assert (await office.http.get("/v3/messages?limit=1001")).status_code == 400


async def test_faults_of_the_mail_server() -> None:
    async with mail_server(listening=False) as office:
        office.app.faults.inject(Status(503), "POST /v3/mail/send")
        refused = await office.send(mail())
        assert refused.status_code == 503
        assert refused.json()["errors"][0]["message"]
        office.app.faults.inject(CloseBefore())
        with pytest.raises(httpx.RemoteProtocolError):
            await office.send(mail())
        assert office.app.messages == []
        office.app.faults.inject(CloseAfter(), "POST /v3/mail/send")
        with pytest.raises(httpx.RemoteProtocolError):
            await office.send(mail())
        await office.app.settled()
        assert len(office.boxes.of("ana@x.example")) == 1  # accepted, and nobody was told
        (found,) = await office.search("unique_args['notice_id']=\"n-1\"")
        assert found["status"] == "delivered"
        await office.send(mail())  # a blind retry
        await office.app.settled()
        assert office.boxes.received_twice() == {("ana@x.example", "n-1"): 2}
        office.app.faults.inject(InvalidJson())
        garbled = await office.http.get("/v3/messages")
        with pytest.raises(json.JSONDecodeError):
            garbled.json()


# ================================================================ text messages


class Rewritten(HttpClient):  # type: ignore[misc]
    """What Twilio's package sends, sent to the rehearsal's server instead of its host."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=20)

    def request(
        self,
        method: str,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Any = None,
        auth: Any = None,
        timeout: Any = None,
        allow_redirects: bool = False,
    ) -> TwilioResponse:
        path = url.removeprefix("https://api.twilio.com")
        params = {k: v for k, v in (params or {}).items() if v is not None}
        answer = self._http.request(
            method, path, params=params or None, data=data, headers=headers, auth=auth
        )
        return TwilioResponse(answer.status_code, answer.text, answer.headers)

    def close(self) -> None:
        self._http.close()


@dataclass
class Exchange:
    app: TwilioApp
    sdk: Client
    http: httpx.AsyncClient
    boxes: Mailboxes
    clock: Hands
    listener: Listener
    callback: str

    async def send(self, **fields: Any) -> Any:
        """By Twilio's own client, in a thread: it is synchronous."""
        given = {"to": PHONE, "body": "Your code is 123456", "messaging_service_sid": SERVICE}
        given = {k: v for k, v in {**given, **fields}.items() if v is not None}
        return await asyncio.to_thread(lambda: self.sdk.messages.create(**given))

    async def refused(self, **fields: Any) -> TwilioRestException:
        with pytest.raises(TwilioRestException) as caught:
            await self.send(**fields)
        return caught.value

    async def call(self, function: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(function)


@asynccontextmanager
async def text_server(
    user: str = ACCOUNT, password: str = TOKEN, **options: Any
) -> AsyncIterator[Exchange]:
    clock, boxes, listener = Hands(), Mailboxes(), Listener()
    async with AsyncExitStack() as stack:
        hook = await stack.enter_async_context(Loopback(listener))
        app = TwilioApp(
            clock.now,
            boxes,
            account_sid=ACCOUNT,
            auth_token=TOKEN,
            api_keys={"SK" + "2" * 32: "key-secret"},
            senders=[NUMBER],
            services={SERVICE: [NUMBER, OTHER_NUMBER]},
            **options,
        )
        server = await stack.enter_async_context(Loopback(app))
        rewritten = Rewritten(server.url)
        stack.callback(rewritten.close)
        sdk = Client(user, password, ACCOUNT, http_client=rewritten)
        client = httpx.AsyncClient(base_url=server.url, auth=(user, password), timeout=20)
        http = await stack.enter_async_context(client)
        callback = f"{hook.url}/twilio?notice_id=n-1"
        yield Exchange(app, sdk, http, boxes, clock, listener, callback)


MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict_exchange() -> AsyncIterator[Exchange]:
    async with text_server(opted_out=["+12125550199"], allowed_prefixes=["+1"]) as exchange:
        yield exchange


async def test_a_text_arrives_and_its_callbacks_are_signed() -> None:
    async with text_server() as exchange:
        sent = await exchange.send(status_callback=exchange.callback, validity_period=600)
        assert sent.sid.startswith("SM")
        assert (sent.status, sent.to, sent.error_code) == ("accepted", PHONE, None)
        assert sent.date_created == START
        await exchange.app.settled()
        (received,) = exchange.boxes.of(PHONE)
        assert received.text == "Your code is 123456"
        assert received.channel == "sms"
        assert received.sender in (NUMBER, OTHER_NUMBER)
        assert (received.reference, received.notice_id) == (sent.sid, "n-1")
        validator = RequestValidator(TOKEN)
        statuses = []
        for post in exchange.listener.posts:
            parameters = dict(parse_qsl(post.body.decode(), keep_blank_values=True))
            signature = post.headers["x-twilio-signature"]
            assert validator.validate(exchange.callback, parameters, signature)
            assert not validator.validate(exchange.callback + "2", parameters, signature)
            assert parameters["MessageSid"] == sent.sid
            statuses.append(parameters["MessageStatus"])
        assert sorted(statuses) == ["delivered", "queued", "sent"]
        fetched = await exchange.call(lambda: exchange.sdk.messages(sent.sid).fetch())
        assert (fetched.status, fetched.from_) == ("delivered", received.sender)
        assert fetched.date_sent == START


async def test_a_sender_of_the_account_queues() -> None:
    async with text_server() as exchange:
        sent = await exchange.send(from_=NUMBER, messaging_service_sid=None)
        assert (sent.status, sent.from_, sent.num_segments) == ("queued", NUMBER, "1")
        raw = (await exchange.http.get(MESSAGES)).json()["messages"][0]
        assert raw["date_created"] == "Wed, 04 Mar 2026 10:00:00 +0000"
        assert raw["uri"] == f"/2010-04-01/Accounts/{ACCOUNT}/Messages/{sent.sid}.json"


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"to": "12125550142"}, 21211),
        ({"to": "+0125550142"}, 21211),
        ({"to": "+12"}, 21211),
        ({"to": ""}, 21604),
        ({"messaging_service_sid": None}, 21603),
        ({"messaging_service_sid": "MG" + "9" * 32}, 21701),
        ({"messaging_service_sid": None, "from_": OTHER_NUMBER}, 21606),
        ({"body": ""}, 21602),
        ({"body": "x" * 1_601}, 21617),
        ({"validity_period": 0}, 90014),
        ({"validity_period": 36_001}, 90007),
        ({"status_callback": "ftp://hook.example/x"}, 21609),
        ({"status_callback": "https://a_b.example/x"}, 21609),
        ({"to": "+447700900123"}, 21408),
        ({"to": "+12125550199"}, 21610),
        ({"shorten_urls": True}, 20001),
    ],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_a_refused_text_is_not_sent(
    strict_exchange: Exchange, fields: dict[str, Any], code: int
) -> None:
    refusal = await strict_exchange.refused(**fields)
    assert (refusal.status, refusal.code) == (400, code)
    await strict_exchange.app.settled()
    assert strict_exchange.app.messages == []
    assert strict_exchange.boxes.everything() == ()


async def test_the_error_has_twilios_shape() -> None:
    async with text_server() as exchange:
        answer = await exchange.http.post(MESSAGES, data={"To": "nobody", "From": NUMBER})
        assert answer.json() == {
            "code": 21211,
            "message": "The 'To' number is not a valid phone number.",
            "more_info": "https://www.twilio.com/docs/errors/21211",
            "status": 400,
        }


async def test_who_may_text() -> None:
    async with text_server("SK" + "2" * 32, "key-secret") as exchange:
        assert (await exchange.send()).status == "accepted"
        other = MESSAGES.replace("0" * 32, "3" * 32)
        answer = await exchange.http.get(other)
        assert (answer.status_code, answer.json()["code"]) == (404, 20404)
    async with text_server(password="wrong") as exchange:
        refusal = await exchange.refused()
        assert (refusal.status, refusal.code) == (401, 20003)
        assert exchange.app.messages == []


async def test_too_fast_is_refused_and_not_processed() -> None:
    async with text_server(per_second=4) as exchange:
        form = {"To": PHONE, "From": NUMBER, "Body": "hello"}
        answers = [await exchange.http.post(MESSAGES, data=form) for _ in range(8)]
        codes = Counter(answer.status_code for answer in answers)
        assert codes[201] >= 4
        assert codes[429] >= 2
        limited = next(answer for answer in answers if answer.status_code == 429)
        assert limited.json()["code"] == 20429
        await asyncio.sleep(0.3)
        assert (await exchange.http.post(MESSAGES, data=form)).status_code == 201
        await exchange.app.settled()
        assert len(exchange.boxes.of(PHONE)) == codes[201] + 1


async def test_listing_filters_by_phone_and_date_and_pages() -> None:
    async with text_server() as exchange:
        for day in range(3):
            exchange.clock.at = START + timedelta(days=day)
            for n in range(4):
                await exchange.send(to=PHONE if n % 2 else "+12125550143", body=f"{day}-{n}")
            await exchange.app.settled()
        sdk = exchange.sdk.messages

        async def bodies(**asked: Any) -> list[str]:
            found = await exchange.call(lambda: sdk.list(**asked))
            return [message.body for message in found]

        everything = await bodies()
        assert everything == [f"{day}-{n}" for day in (2, 1, 0) for n in (3, 2, 1, 0)]
        assert await bodies(page_size=5) == everything
        assert await bodies(to=PHONE) == ["2-3", "2-1", "1-3", "1-1", "0-3", "0-1"]
        after = START + timedelta(days=1)
        assert await bodies(to=PHONE, date_sent_after=after) == ["2-3", "2-1", "1-3", "1-1"]
        late = START + timedelta(days=1, seconds=1)
        assert await bodies(to=PHONE, date_sent_after=late) == ["2-3", "2-1"]
        assert await bodies(to=PHONE, date_sent_before=START) == ["0-3", "0-1"]
        assert await bodies(to=PHONE, date_sent=after.date()) == ["1-3", "1-1"]
        answer = await exchange.http.get(f"{MESSAGES}?To=%2B12125550142&DateSent>=2026-03-06")
        assert [message["body"] for message in answer.json()["messages"]] == ["2-3", "2-1"]
        page = (await exchange.http.get(f"{MESSAGES}?PageSize=5")).json()
        assert (page["page_size"], page["start"], page["end"]) == (5, 0, 4)
        await exchange.send(body="new")  # a page's token is not moved by what comes in
        following = (await exchange.http.get(page["next_page_uri"])).json()
        assert [message["body"] for message in following["messages"]] == everything[5:10]
        for bad in ("PageSize=1001", "DateSent>=soon", "PageToken=PAnone"):
            assert (await exchange.http.get(f"{MESSAGES}?{bad}")).status_code == 400


async def test_unreachable_expired_and_discarded() -> None:
    async with text_server(unreachable=[PHONE]) as exchange:
        lost = await exchange.send(status_callback=exchange.callback)
        await exchange.app.settled()
        fetched = await exchange.call(lambda: exchange.sdk.messages(lost.sid).fetch())
        assert (fetched.status, fetched.error_code) == ("undelivered", 30003)
        codes = {}
        for post in exchange.listener.posts:
            parameters = dict(parse_qsl(post.body.decode()))
            codes[parameters["MessageStatus"]] = parameters.get("ErrorCode")
        assert codes == {"queued": None, "sent": None, "undelivered": "30003"}
        assert exchange.boxes.everything() == ()
        exchange.app.queue_delay = timedelta(minutes=20)
        stale = await exchange.send(to="+12125550143", validity_period=600)
        waiting = await exchange.send(to="+12125550144", content_retention="discard")
        exchange.clock.at += timedelta(minutes=21)
        await exchange.app.settled()
        stale = await exchange.call(lambda: exchange.sdk.messages(stale.sid).fetch())
        assert (stale.status, stale.error_code) == ("failed", 30036)
        waiting = await exchange.call(lambda: exchange.sdk.messages(waiting.sid).fetch())
        assert (waiting.status, waiting.body) == ("delivered", "")
        assert [received.to for received in exchange.boxes.everything()] == ["+12125550144"]
        assert exchange.boxes.of("+12125550144")[0].text == "Your code is 123456"


async def test_faults_of_the_text_server() -> None:
    async with text_server() as exchange:
        exchange.app.faults.inject(Status(503), "POST")
        assert (await exchange.refused()).status == 503
        form = {"To": PHONE, "MessagingServiceSid": SERVICE, "Body": "hello"}
        exchange.app.faults.inject(CloseBefore(), "POST")
        with pytest.raises(httpx.RemoteProtocolError):
            await exchange.http.post(MESSAGES, data=form)
        assert exchange.app.messages == []
        exchange.app.faults.inject(CloseAfter(), "POST")
        with pytest.raises(httpx.RemoteProtocolError):
            await exchange.http.post(MESSAGES, data=form)
        listed = await exchange.call(
            lambda: exchange.sdk.messages.list(to=PHONE, date_sent_after=START)
        )
        assert [message.body for message in listed] == ["hello"]
        await exchange.app.settled()
        assert len(exchange.boxes.of(PHONE)) == 1
        exchange.app.faults.inject(InvalidJson(), "POST")
        with pytest.raises(json.JSONDecodeError):
            (await exchange.http.post(MESSAGES, data=form)).json()


def test_segments_follow_the_alphabet() -> None:
    assert [segments("a" * n) for n in (1, 160, 161, 306, 307)] == [1, 1, 2, 2, 3]
    assert [segments("я" * n) for n in (70, 71, 134, 135)] == [1, 2, 2, 3]
    assert segments("€" * 80) == 1
    assert segments("€" * 81) == 2


# ================================================================ mailboxes


def received(to: str, notice: str, text: str = "hello") -> Received:
    args = {"notice_id": notice} if notice else {}
    return Received(to, "email", SENDER, "s", text, None, "ref", START, args)


async def test_mailboxes_tell_listeners_and_count() -> None:
    boxes = Mailboxes()
    empty = boxes.digest()
    seen: list[str] = []

    async def slow(message: Received) -> None:
        await asyncio.sleep(0.02)
        seen.append(message.to)

    stop = boxes.on_delivery(slow)
    boxes.deliver(received("a@x.example", "n-1"))
    boxes.deliver(received("A@x.example", "n-1"))
    boxes.deliver(received("a@x.example", "n-2"))
    boxes.deliver(received("b@x.example", "", "same"))
    assert seen == []
    await boxes.settled()
    assert sorted(seen) == ["A@x.example", "a@x.example", "a@x.example", "b@x.example"]
    stop()
    before = boxes.digest()
    assert before != empty
    boxes.deliver(received("b@x.example", "", "same"))
    boxes.deliver(received("b@x.example", "", "other"))
    await boxes.settled()
    assert len(seen) == 4
    assert boxes.digest() != before
    twice = boxes.received_twice()
    assert twice[("a@x.example", "n-1")] == 2
    assert len(twice) == 2
    assert boxes.counts()[("a@x.example", "n-2")] == 1


async def test_a_failing_listener_is_heard_of() -> None:
    boxes = Mailboxes()

    async def failing(message: Received) -> None:
        raise LookupError("no such person")

    boxes.on_delivery(failing)
    boxes.deliver(received("a@x.example", "n-1"))
    with pytest.raises(LookupError):
        await boxes.settled()
    assert len(boxes.of("a@x.example")) == 1


async def test_ten_thousand_mails_are_accepted_and_delivered_in_seconds() -> None:
    async with mail_server(listening=False) as office:
        began = time.monotonic()
        for request in range(10):
            names = (f"p{request}-{n}" for n in range(1_000))
            body = mail(*(letter(f"{name}@x.example", name) for name in names))
            assert (await office.send(body)).status_code == 202
        await office.app.settled()
        assert len(office.boxes.everything()) == 10_000
        assert office.boxes.received_twice() == {}
        assert time.monotonic() - began < 10
