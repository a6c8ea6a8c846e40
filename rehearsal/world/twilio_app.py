"""The text message server: Twilio's Messages resource, its list and its status callbacks.

A 201 is an acceptance, not a delivery: the message reaches the `Mailboxes` after a short seeded
delay, or is undelivered or failed. Nothing is idempotent; a 429 has done nothing.
"""

import asyncio
import base64
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rehearsal.world.chance import chance
from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.twilio_callbacks import StatusCallbacks
from rehearsal.world.twilio_listing import dates_asked, page_asked
from rehearsal.world.twilio_rules import (
    Order,
    Permissions,
    TwilioRefused,
    check_message,
    segments,
)
from rehearsal.world.wire_faults import FaultyWire, Rate, WireFaults

_API = "/2010-04-01/Accounts/{account}"
_QUEUE_TICK_SECONDS = 0.02
_OVERTAKEN_SECONDS = 0.15
_OVERTAKEN_SHARE = 0.05
_ERRORS = {
    30003: "Unreachable destination handset",
    30036: "Validity Period Expired",
}


@dataclass(slots=True)
class Sms:
    """A message and where it is. `created` and `sent` are the world's time."""

    sid: str
    order: Order
    created: datetime
    status: str
    updated: datetime
    sender: str | None = None
    sent: datetime | None = None
    error_code: int | None = None

    @property
    def is_final(self) -> bool:
        return self.status in ("delivered", "undelivered", "failed")


class TwilioApp:
    """ASGI application.

    `opted_out` phones have answered STOP (21610); those in `unreachable` end as undelivered.
    `queue_delay` is how long a message waits in Twilio's queue by the world's clock: one that
    outlives its validity period fails. The notice id of a message is taken from the query of its
    status callback, for `Mailboxes.counts`.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        mailboxes: Mailboxes,
        *,
        account_sid: str,
        auth_token: str,
        api_keys: Mapping[str, str] | None = None,
        senders: Iterable[str] = (),
        services: Mapping[str, Sequence[str]] | None = None,
        opted_out: Iterable[str] = (),
        unreachable: Iterable[str] = (),
        allowed_prefixes: Iterable[str] = (),
        seed: int = 0,
        per_second: float = 100.0,
        delay_seconds: tuple[float, float] = (0.005, 0.05),
        queue_delay: timedelta = timedelta(0),
    ) -> None:
        self.faults = WireFaults()
        self.callbacks = StatusCallbacks(auth_token)
        self.opted_out = set(opted_out)
        self.unreachable = set(unreachable)
        self.queue_delay = queue_delay
        self.messages: list[Sms] = []
        self._clock = clock
        self._mailboxes = mailboxes
        self._account_sid = account_sid
        self._credentials = {account_sid: auth_token, **(api_keys or {})}
        if services and not all(services.values()):
            raise ValueError("a messaging service needs a sender in its pool")
        self._may = Permissions(tuple(senders), dict(services or {}), tuple(allowed_prefixes))
        self._seed = seed
        self._rate = Rate(per_second)
        self._delay_seconds = delay_seconds
        self._by_sid: dict[str, Sms] = {}
        self._by_phone: defaultdict[str, list[Sms]] = defaultdict(list)
        self._carried: set[asyncio.Task[None]] = set()
        application = Starlette(
            routes=[
                Route(f"{_API}/Messages.json", self._create, methods=["POST"]),
                Route(f"{_API}/Messages.json", self._list, methods=["GET"]),
                Route(f"{_API}/Messages/{{sid}}.json", self._fetch, methods=["GET"]),
            ],
            exception_handlers={TwilioRefused: _refused, HTTPException: _not_routed},
            lifespan=self._lifespan,
        )
        self._asgi = FaultyWire(application, self.faults, _fault_body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asgi(scope, receive, send)

    async def settled(self) -> None:
        """Return when every message is at its end and every callback was posted or given up."""
        while self._carried:
            await asyncio.wait(set(self._carried))
        await self.callbacks.drained()

    async def aclose(self) -> None:
        carried = set(self._carried)
        for task in carried:
            task.cancel()
        if carried:
            await asyncio.wait(carried)
        await self.callbacks.aclose()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        await self.aclose()

    # ------------------------------------------------------------------ the wire

    async def _create(self, request: Request) -> Response:
        self._authenticate(request)
        if not self._rate.take():
            raise TwilioRefused(429, 20429, "Too Many Requests")
        form = dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        order = check_message(form, self._may, self.opted_out)
        now = self._clock()
        name = f"{self._seed}:{len(self.messages)}"
        sid = "SM" + hashlib.sha256(name.encode()).hexdigest()[:32]
        status = "queued" if order.service_sid is None else "accepted"
        message = Sms(sid, order, now, status, now, sender=order.sender)
        self.messages.append(message)
        self._by_sid[sid] = message
        self._by_phone[order.to].append(message)
        shown = self._shown(message)
        task = asyncio.ensure_future(self._carry(message))
        self._carried.add(task)
        task.add_done_callback(self._carried.discard)
        return _answer(201, shown)

    async def _list(self, request: Request) -> Response:
        """Newest first. What is not yet sent is listed by the date of its creation."""
        self._authenticate(request)
        query = request.query_params
        to, sender = query.get("To"), query.get("From")
        dates, page = dates_asked(query), page_asked(query)
        candidates = self.messages if to is None else self._by_phone.get(to, [])
        found = [
            message
            for message in reversed(candidates)
            if (sender is None or message.sender == sender)
            and dates.hold(message.sent or message.created)
        ]
        start = page.number * page.size
        if page.after_sid is not None:
            sids = [message.sid for message in found]
            if page.after_sid not in sids:
                raise TwilioRefused(400, 20006, "The PageToken is not valid.")
            start = sids.index(page.after_sid) + 1
        chosen = found[start : start + page.size]
        path = request.url.path
        filters = {k: v for k, v in query.items() if k not in ("Page", "PageToken", "PageSize")}
        first = {**filters, "PageSize": str(page.size), "Page": "0"}
        following = None
        if start + page.size < len(found):
            turn = {"Page": str(page.number + 1), "PageToken": f"PA{chosen[-1].sid}"}
            following = f"{path}?{urlencode({**first, **turn})}"
        return _answer(
            200,
            {
                "messages": [self._shown(message) for message in chosen],
                "first_page_uri": f"{path}?{urlencode(first)}",
                "next_page_uri": following,
                "previous_page_uri": None,
                "uri": f"{path}?{urlencode({**first, 'Page': str(page.number)})}",
                "page": page.number,
                "page_size": page.size,
                "start": start,
                "end": start + len(chosen) - 1 if chosen else start,
            },
        )

    async def _fetch(self, request: Request) -> Response:
        self._authenticate(request)
        message = self._by_sid.get(request.path_params["sid"])
        if message is None:
            raise TwilioRefused(404, 20404, "The requested resource was not found")
        return _answer(200, self._shown(message))

    def _authenticate(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode()
        for name, secret in self._credentials.items():
            pair = base64.b64encode(f"{name}:{secret}".encode())
            if hmac.compare_digest(b"Basic " + pair, given):
                break
        else:
            raise TwilioRefused(401, 20003, "Authenticate")
        if request.path_params["account"] != self._account_sid:
            raise TwilioRefused(404, 20404, "The requested resource was not found")

    # ------------------------------------------------------------------ from accepted to delivered

    async def _carry(self, message: Sms) -> None:
        order = message.order
        if message.sender is None and order.service_sid is not None:
            pool = list(self._may.services[order.service_sid])
            message.sender = pool[int(chance(self._seed, order.to, "pool") * len(pool))]
            self._turn(message, "queued")
        shortest, longest = self._delay_seconds
        share = chance(self._seed, message.sid, "delay")
        await asyncio.sleep(shortest + (longest - shortest) * share)
        leaves_at = message.created + self.queue_delay
        while (now := self._clock()) < leaves_at:
            if now - message.created >= order.validity:
                break
            await asyncio.sleep(_QUEUE_TICK_SECONDS)
        if self._clock() - message.created >= order.validity:
            self._turn(message, "failed", 30036)
            return
        message.status = "sending"
        message.sent = self._clock()
        overtaken = chance(self._seed, message.sid, "overtaken") < _OVERTAKEN_SHARE
        self._turn(message, "sent", after_seconds=_OVERTAKEN_SECONDS if overtaken else 0.0)
        if order.to in self.unreachable:
            self._turn(message, "undelivered", 30003)
            return
        query = urlsplit(order.status_callback).query if order.status_callback else ""
        self._mailboxes.deliver(
            Received(
                to=order.to,
                channel="sms",
                sender=message.sender or "",
                subject=None,
                text=order.body,
                html=None,
                reference=message.sid,
                at=self._clock(),
                custom_args=dict(parse_qsl(query)),
            )
        )
        self._turn(message, "delivered")

    def _turn(
        self,
        message: Sms,
        status: str,
        error_code: int | None = None,
        after_seconds: float = 0.0,
    ) -> None:
        message.status = status
        message.error_code = error_code
        message.updated = self._clock()
        if message.order.status_callback is None:
            return
        parameters = {
            "AccountSid": self._account_sid,
            "ApiVersion": "2010-04-01",
            "MessageSid": message.sid,
            "MessageStatus": status,
            "SmsSid": message.sid,
            "SmsStatus": status,
            "From": message.sender or "",
            "To": message.order.to,
        }
        if message.order.service_sid is not None:
            parameters["MessagingServiceSid"] = message.order.service_sid
        if error_code is not None:
            parameters["ErrorCode"] = str(error_code)
            parameters["ErrorMessage"] = _ERRORS[error_code]
        self.callbacks.post(message.order.status_callback, parameters, after_seconds)

    def _shown(self, message: Sms) -> dict[str, object]:
        order = message.order
        by_service = order.service_sid is not None
        resource = f"/2010-04-01/Accounts/{self._account_sid}/Messages/{message.sid}"
        code = message.error_code
        return {
            "account_sid": self._account_sid,
            "api_version": "2010-04-01",
            "body": "" if order.discard_content and message.is_final else order.body,
            "date_created": _rfc2822(message.created),
            "date_sent": _rfc2822(message.sent),
            "date_updated": _rfc2822(message.updated),
            "direction": "outbound-api",
            "error_code": code,
            "error_message": None if code is None else _ERRORS[code],
            "from": message.sender,
            "messaging_service_sid": order.service_sid,
            "num_media": "0",
            "num_segments": "0"
            if by_service and message.sent is None
            else str(segments(order.body)),
            "price": None,
            "price_unit": "USD",
            "sid": message.sid,
            "status": message.status,
            "subresource_uris": {"media": f"{resource}/Media.json"},
            "to": order.to,
            "uri": f"{resource}.json",
        }


def _rfc2822(moment: datetime | None) -> str | None:
    return None if moment is None else format_datetime(moment.replace(microsecond=0))


def _answer(status: int, body: object) -> Response:
    return Response(json.dumps(body), status_code=status, media_type="application/json")


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, TwilioRefused)
    answer = _answer(refusal.status, refusal.body)
    if refusal.status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="Twilio API"'
    return answer


async def _not_routed(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, HTTPException)
    code = 20004 if refusal.status_code == 405 else 20404
    return _answer(
        refusal.status_code, TwilioRefused(refusal.status_code, code, refusal.detail).body
    )


def _fault_body(status: int) -> bytes:
    code = {429: 20429, 401: 20003, 503: 20503}.get(status, 20500)
    return json.dumps(
        TwilioRefused(status, code, "The service cannot take this now.").body
    ).encode()
