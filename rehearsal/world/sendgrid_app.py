"""The mail server: SendGrid's v3 Mail Send, its search for sent messages and its event webhook.

Accepted mail reaches the `Mailboxes` after a short seeded delay, or is dropped (suppressed) or
bounces. Nothing is idempotent: the same request twice is two mails.
"""

import asyncio
import hashlib
import hmac
import html
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rehearsal.world.chance import chance
from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.sendgrid_events import EventWebhook
from rehearsal.world.sendgrid_rules import Json, Letter, Mail, MailRefused, check_mail
from rehearsal.world.wire_faults import FaultyWire, Rate, WireFaults

MAX_BODY_BYTES = 30 * 1024 * 1024
ALL_SCOPES = frozenset({"mail.send", "messages.read", "user.webhooks.event.settings.read"})
_SCHEDULE_TICK_SECONDS = 0.02
_HREF = re.compile(r"""(href\s*=\s*["'])(https?://[^"']+)(["'])""", re.IGNORECASE)
_LINK = re.compile(r"https?://[^\s<>\"']+")
_CONDITION = re.compile(
    r"""\s*(?:unique_args\[['"](?P<arg>[^'"]+)['"]\]|(?P<name>[a-z_]+))\s*"""
    r"""(?:=\s*"(?P<value>[^"]*)"|IN\s*\((?P<values>[^)]*)\))\s*"""
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    value: str = field(repr=False)
    scopes: frozenset[str] = ALL_SCOPES


@dataclass(slots=True)
class Message:
    """One recipient's copy of a letter, as the activity search shows it."""

    msg_id: str
    to: str
    letter: Letter
    categories: tuple[str, ...]
    accepted: datetime
    status: str = "processed"
    last_event: datetime | None = None
    events: list[str] = field(default_factory=list)


class SendGridApp:
    """ASGI application.

    `suppressed` (unsubscribed) and `bounces` are dropped; an address in `bouncing` refuses the
    mail and joins `bounces`. `click_tracking` is the account's setting: unless a request turns it
    off, links in HTML are rewritten to a tracking host.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        mailboxes: Mailboxes,
        *,
        keys: Sequence[ApiKey],
        verified_senders: Collection[str],
        suppressed: Iterable[str] = (),
        bouncing: Iterable[str] = (),
        webhook_url: str | None = None,
        seed: int = 0,
        per_second: float = 200.0,
        delay_seconds: tuple[float, float] = (0.005, 0.05),
        activity_lag: timedelta = timedelta(0),
        click_tracking: bool = True,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self.faults = WireFaults()
        self.webhook = EventWebhook(clock, webhook_url, seed=seed)
        self.suppressed = {address.lower() for address in suppressed}
        self.bouncing = {address.lower() for address in bouncing}
        self.bounces: set[str] = set()
        self.messages: list[Message] = []
        self.activity_lag = activity_lag
        self.click_tracking = click_tracking
        self.requests_accepted = 0
        self._clock = clock
        self._mailboxes = mailboxes
        self._keys = tuple(keys)
        self._verified = tuple(verified_senders)
        self._seed = seed
        self._rate = Rate(per_second)
        self._delay_seconds = delay_seconds
        self._max_body_bytes = max_body_bytes
        self._by_argument: defaultdict[tuple[str, str], list[Message]] = defaultdict(list)
        self._deliveries: set[asyncio.Task[None]] = set()
        application = Starlette(
            routes=[
                Route("/v3/mail/send", self._send, methods=["POST"]),
                Route("/v3/messages", self._search, methods=["GET"]),
                Route("/v3/user/webhooks/event/settings/signed", self._key, methods=["GET"]),
            ],
            exception_handlers={MailRefused: _refused, HTTPException: _not_routed},
            lifespan=self._lifespan,
        )
        self._asgi = FaultyWire(application, self.faults, _fault_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    async def settled(self) -> None:
        """Return when everything accepted is delivered and every event is posted or given up."""
        while self._deliveries:
            await asyncio.wait(set(self._deliveries))
        await self.webhook.drained()

    async def aclose(self) -> None:
        """Stop deliveries and webhook; mail that was not delivered stays undelivered."""
        deliveries = set(self._deliveries)
        for task in deliveries:
            task.cancel()
        if deliveries:
            await asyncio.wait(deliveries)
        await self.webhook.aclose()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.aclose()

    # ------------------------------------------------------------------ the wire

    async def _send(self, request: Request) -> Response:
        self._authorize(request, "mail.send")
        raw = await self._body(request)
        if not self._rate.take():
            answer = _answer(429, _errors("too many requests"))
            self._show_rate(answer)
            return answer
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise MailRefused("Content-Type should be application/json.", status=415)
        try:
            body = json.loads(raw)
        except ValueError:
            raise MailRefused("Bad Request") from None
        now = self._clock()
        mail = check_mail(body, self._verified, now)
        if mail.sandbox:
            return Response(status_code=200)
        self.requests_accepted += 1
        name = f"{self._seed}:{self.requests_accepted}"
        message_id = hashlib.sha256(name.encode()).hexdigest()[:22]
        self._accept(mail, message_id, now)
        answer = Response(status_code=202, headers={"X-Message-Id": message_id})
        self._show_rate(answer)
        return answer

    async def _search(self, request: Request) -> Response:
        self._authorize(request, "messages.read")
        limit = request.query_params.get("limit", "10")
        if not limit.isdigit() or not 1 <= int(limit) <= 1_000:
            raise MailRefused("limit must be > 0 and <= 1000", "limit")
        found = self._matching(request.query_params.get("query", ""))
        visible = self._clock() - self.activity_lag
        listed = [_shown(m) for m in found if m.accepted <= visible][-int(limit) :]
        return _answer(200, {"messages": listed[::-1]})

    async def _key(self, request: Request) -> Response:
        self._authorize(request, "user.webhooks.event.settings.read")
        return _answer(200, {"public_key": self.webhook.public_key})

    def _authorize(self, request: Request, scope: str) -> None:
        given = request.headers.get("authorization", "").encode()
        for key in self._keys:
            if hmac.compare_digest(f"Bearer {key.value}".encode(), given):
                if scope not in key.scopes:
                    raise MailRefused("access forbidden", status=403)
                return
        reason = "The provided authorization grant is invalid, expired, or revoked"
        raise MailRefused(reason, status=401)

    async def _body(self, request: Request) -> bytes:
        """The request's body, read to its end even where it is too large to be kept."""
        kept = bytearray()
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size <= self._max_body_bytes:
                kept.extend(chunk)
        if size > self._max_body_bytes:
            raise MailRefused("The message is larger than 30 MB.", status=413)
        return bytes(kept)

    def _show_rate(self, answer: Response) -> None:
        answer.headers["X-RateLimit-Limit"] = str(int(self._rate.burst))
        answer.headers["X-RateLimit-Remaining"] = str(self._rate.remaining)
        reset = self._clock() + timedelta(seconds=self._rate.seconds_to_full)
        answer.headers["X-RateLimit-Reset"] = str(int(reset.timestamp()) + 1)

    def _matching(self, query: str) -> Sequence[Message]:
        """`name="value"` and `unique_args['name']="value"`, or IN (...), joined by AND."""
        found: Sequence[Message] = self.messages
        for number, part in enumerate(re.split(r"\s+AND\s+", query) if query else ()):
            match = _CONDITION.fullmatch(part)
            if match is None:
                raise MailRefused("invalid query", "query")
            values = {match["value"]}
            if match["values"] is not None:
                values = set(re.findall(r'"([^"]*)"', match["values"]))
            if match["arg"] is not None and number == 0:
                listed = (self._by_argument.get((match["arg"], v), []) for v in values)
                found = sorted((m for ms in listed for m in ms), key=lambda m: m.accepted)
            elif match["arg"] is not None:
                found = [m for m in found if m.letter.custom_args.get(match["arg"]) in values]
            elif match["name"] in _SEARCHABLE:
                read = _SEARCHABLE[match["name"]]
                found = [m for m in found if read(m) in values]
            else:
                raise MailRefused(f"invalid query: unknown {match['name']}", "query")
        return found

    # ------------------------------------------------------------------ from accepted to delivered

    def _accept(self, mail: Mail, message_id: str, now: datetime) -> None:
        by_due: defaultdict[datetime | None, list[Message]] = defaultdict(list)
        number = 0
        for letter in mail.letters:
            for to in letter.recipients:
                msg_id = f"{message_id}.recvd-rehearsal-{number}"
                message = Message(msg_id, to, letter, mail.categories, now, last_event=now)
                number += 1
                self.messages.append(message)
                for item in letter.custom_args.items():
                    self._by_argument[item].append(message)
                by_due[letter.send_at].append(message)
        for due, messages in by_due.items():
            task = asyncio.ensure_future(self._deliver(mail, messages, due))
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def _deliver(self, mail: Mail, messages: Sequence[Message], due: datetime | None) -> None:
        while due is not None and self._clock() < due:
            await asyncio.sleep(_SCHEDULE_TICK_SECONDS)
        shortest, longest = self._delay_seconds
        waits = [
            (shortest + (longest - shortest) * chance(self._seed, m.msg_id, "delay"), n, m)
            for n, m in enumerate(messages)
        ]
        waited = 0.0
        for wait, _, message in sorted(waits):
            if wait > waited:
                await asyncio.sleep(wait - waited)
                waited = wait
            self._arrive(mail, message)

    def _arrive(self, mail: Mail, message: Message) -> None:
        address = message.to.lower()
        if (reason := self._suppression(address, mail.bypassed)) is not None:
            message.status = "not_delivered"
            self._happen(message, "dropped", reason=reason, status="5.0.0")
            return
        self._happen(message, "processed")
        if address in self.bouncing:
            self.bounces.add(address)
            message.status = "not_delivered"
            reason = "550 5.1.1 The email account that you tried to reach does not exist"
            self._happen(message, "bounce", type="bounce", reason=reason, status="5.1.1")
            return
        if chance(self._seed, message.msg_id, "deferred") < 0.03:
            self._happen(message, "deferred", response="450 4.7.1 try again later", attempt="1")
        letter = message.letter
        text, markup = self._tracked(letter, mail.click_tracking)
        self._mailboxes.deliver(
            Received(
                to=message.to,
                channel="email",
                sender=letter.sender,
                subject=letter.subject,
                text=text,
                html=markup,
                reference=message.msg_id,
                at=self._clock(),
                custom_args=letter.custom_args,
                headers=letter.headers,
            )
        )
        message.status = "delivered"
        self._happen(message, "delivered", response="250 2.0.0 OK")

    def _suppression(self, address: str, bypassed: Collection[str]) -> str | None:
        if address in self.suppressed and "unsubscribe" not in bypassed:
            return "Unsubscribed Address"
        if address in self.bounces and "bounce" not in bypassed:
            return "Bounced Address"
        return None

    def _tracked(
        self, letter: Letter, asked: tuple[bool, bool] | None
    ) -> tuple[str | None, str | None]:
        """Text and HTML as they arrive, links rewritten where click tracking is on."""
        in_html, in_text = asked if asked is not None else (self.click_tracking, False)
        text, markup = letter.text, letter.html
        if in_html and markup is not None:
            markup = _HREF.sub(lambda m: m[1] + _rewritten(html.unescape(m[2])) + m[3], markup)
        if in_text and text is not None:
            text = _LINK.sub(lambda m: _rewritten(m[0]), text)
        return text, markup

    def _happen(self, message: Message, event: str, **details: str) -> None:
        now = self._clock()
        message.last_event = now
        message.events.append(event)
        number = len(message.events)
        digest = hashlib.sha256(f"{self._seed}:{message.msg_id}:{number}".encode()).hexdigest()
        self.webhook.emit(
            [
                {
                    **message.letter.custom_args,
                    "email": message.to,
                    "timestamp": int(now.timestamp()),
                    "event": event,
                    "category": list(message.categories),
                    "sg_event_id": digest[:32],
                    "sg_message_id": message.msg_id,
                    "smtp-id": f"<{message.msg_id}@rehearsal>",
                    **details,
                }
            ]
        )


_SEARCHABLE: dict[str, Callable[[Message], str]] = {
    "msg_id": lambda message: message.msg_id,
    "to_email": lambda message: message.to,
    "from_email": lambda message: message.letter.sender,
    "subject": lambda message: message.letter.subject,
    "status": lambda message: message.status,
}


def _rewritten(link: str) -> str:
    return f"https://u1001.ct.sendgrid.example/ls/click?upn={quote(link, safe='')}"


def _shown(message: Message) -> dict[str, Json]:
    last = message.last_event or message.accepted
    return {
        "from_email": message.letter.sender,
        "msg_id": message.msg_id,
        "subject": message.letter.subject,
        "to_email": message.to,
        "status": message.status,
        "opens_count": 0,
        "clicks_count": 0,
        "last_event_time": last.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def _errors(message: str) -> dict[str, Json]:
    return {"errors": [{"message": message, "field": None, "help": None}]}


def _answer(status: int, body: Json) -> Response:
    return Response(json.dumps(body), status_code=status, media_type="application/json")


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, MailRefused)
    return _answer(refusal.status, refusal.body)


async def _not_routed(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    return _answer(refusal.status_code, _errors(refusal.detail.lower()))


def _fault_body(status: int) -> bytes:
    return json.dumps(_errors("the service cannot take this now")).encode()
