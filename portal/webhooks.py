"""What the providers say later: delivered, bounced, dropped, opted out, settled in the ledger.

SendGrid posts batches, out of order and more than once, and repeats what was not answered 2xx;
Twilio one change of status at a time. Anything but these four outcomes is heard and forgotten.
"""

import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from portal.door import Door, in_thread
from portal.signatures import SendGridSignature, TwilioSignature
from recovery.errors import Unverified
from recovery.incident import Delivery, DeliveryEvent

SENDGRID_PATH = "/hooks/sendgrid"
TWILIO_PATH = "/hooks/twilio/status"
LARGEST_BODY = 4 * 1024 * 1024
"""SendGrid gathers up to a thousand events, each of one or two kilobytes."""

_MOST_EVENTS = 2_000
_LONGEST_ID = 256
_OPTED_OUT_CODE = "21610"
_SENDGRID = {
    "delivered": DeliveryEvent.DELIVERED,
    "bounce": DeliveryEvent.BOUNCED,
    "dropped": DeliveryEvent.DROPPED,
    "unsubscribe": DeliveryEvent.OPTED_OUT,
    "group_unsubscribe": DeliveryEvent.OPTED_OUT,
    "spamreport": DeliveryEvent.OPTED_OUT,
}
_TWILIO = {
    "delivered": DeliveryEvent.DELIVERED,
    "read": DeliveryEvent.DELIVERED,
    "undelivered": DeliveryEvent.BOUNCED,
    "failed": DeliveryEvent.DROPPED,
}
# What follows the id that the sender was given: the server that took the message over.
_SERVER = re.compile(r"\.(?:recvd|filter).*$")

log = logging.getLogger("portal")


class Webhooks:
    def __init__(self, door: Door) -> None:
        self._door = door
        given = door.settings.webhooks
        self._sendgrid = (
            SendGridSignature(given.sendgrid_key, given.freshness) if given.sendgrid_key else None
        )
        self._twilio = TwilioSignature(
            door.settings.public_url + TWILIO_PATH,
            given.twilio_auth_token,
            given.twilio_shared_keys,
        )

    async def sendgrid(self, request: Request) -> Response:
        if self._sendgrid is None:
            return PlainTextResponse("not set up\n", 404)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            # They send none, and what would be unpacked was not yet proven to be theirs.
            return PlainTextResponse("send it as it is\n", 415)
        body = await request.body()
        try:
            self._sendgrid.check(request.headers, body, now=self._door.clock())
        except Unverified as error:
            return _forged(error)
        try:
            events = json.loads(body)
        except (ValueError, RecursionError):
            events = None
        if not isinstance(events, list) or len(events) > _MOST_EVENTS:
            return PlainTextResponse("a list of events is expected\n", 400)
        return await self._settle(list(_of_sendgrid(events)))

    async def twilio(self, request: Request) -> Response:
        try:
            pairs = parse_qsl(
                (await request.body()).decode(), keep_blank_values=True, max_num_fields=100
            )
        except ValueError:
            return PlainTextResponse("a form is expected\n", 400)
        parameters = dict(pairs)
        try:
            self._twilio.check(request.headers, request.url.query, parameters)
        except Unverified as error:
            return _forged(error)
        notice = request.query_params.get("notice_id", "")[:_LONGEST_ID]
        return await self._settle(list(_of_twilio(parameters, notice)))

    async def _settle(self, deliveries: Sequence[Delivery]) -> Response:
        """204 once it is in the ledger, or was there already; trouble is a 503, and they repeat."""
        if deliveries:
            ledger = self._door.ledger
            new = await in_thread(lambda: ledger.settle_deliveries(deliveries))
            self._door.metrics.webhook_events(deliveries, new)
        return Response(status_code=204)


def _forged(error: Unverified) -> Response:
    log.warning("a webhook of %s was not believed: %s", error.subject, error.got)
    return PlainTextResponse("the signature does not fit\n", 403)


def _of_sendgrid(events: Sequence[Any]) -> Iterator[Delivery]:
    """Only what is about a notice of ours: one account may send other mail as well."""
    for event in events:
        if not isinstance(event, dict):
            continue
        kind = _SENDGRID.get(str(event.get("event")))
        notice, dedupe = event.get("notice_id"), event.get("sg_event_id")
        message = event.get("sg_message_id", "")
        if kind is not None and _is_id(notice) and _is_id(dedupe) and isinstance(message, str):
            receipt = _SERVER.sub("", message)[:_LONGEST_ID]
            yield Delivery(receipt, kind, f"sendgrid:{dedupe}", str(notice))


def _of_twilio(parameters: dict[str, str], notice: str) -> Iterator[Delivery]:
    """`notice` stands in the address that we gave them, which they sign as well."""
    kind = _TWILIO.get(parameters.get("MessageStatus", ""))
    sid = parameters.get("MessageSid", "")
    if kind is None or not _is_id(sid):
        return
    if parameters.get("ErrorCode") == _OPTED_OUT_CODE:
        kind = DeliveryEvent.OPTED_OUT
    yield Delivery(sid, kind, f"twilio:{sid}:{kind.value}", notice)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID
