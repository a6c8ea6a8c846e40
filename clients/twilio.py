"""Hands text messages to Twilio (API 2010-04-01, Message resource), one person each.

Twilio's own resource model on our wire: their client takes no base address and logs URLs, which
hold phone numbers when messages are listed.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr
from twilio.base import values
from twilio.base.exceptions import TwilioException
from twilio.http import AsyncHttpClient
from twilio.http.response import Response
from twilio.rest import Client

from clients.http import OnWire, Wire, basic_authorization
from recovery.accounts import Verdict
from recovery.errors import Incomplete, Misconfigured, RateLimited, RecoveryError, Refused, Unknown
from recovery.messages import SmsCopy

_LONGEST_VALIDITY = timedelta(hours=10)
_SKEW = timedelta(minutes=5)
_MOST_LISTED = 1_000
_PAGE_SIZE = 1_000
_QUEUE_FULL = "21611"
_QUEUE_PAUSE = timedelta(minutes=1)
# About our sender or account, not about the recipient: every further message would fail as well.
_OURS = frozenset(
    {"20001", "20404", "21212", "21603", "21606", "21608", "21609", "21660", "21701", "21703"}
)


def body_hash(body: str) -> str:
    """SHA-256 (hex), to compare a message that was listed with the one that was composed."""
    return hashlib.sha256(body.encode()).hexdigest()


class TwilioClient(OnWire):
    """Sends from one messaging service or one number. Closing it closes the wire.

    `auth` is (account SID, auth token) or (API key SID, its secret). `status_callback` gets our
    notice id in its query, so that a delivery report can be told apart without the phone number.
    """

    def __init__(
        self,
        account_sid: str,
        auth: tuple[str, SecretStr],
        wire: Wire,
        *,
        messaging_service_sid: str | None = None,
        from_number: str | None = None,
        status_callback: str | None = None,
    ) -> None:
        if (messaging_service_sid is None) == (from_number is None):
            raise ValueError("give either messaging_service_sid or from_number")
        self._wire = wire
        self._service = messaging_service_sid or values.unset
        self._number = from_number or values.unset
        self._status_callback = status_callback
        self._messages = Client(
            auth[0],
            "unused: the wire authenticates",
            account_sid,
            http_client=_WireHttp(wire, basic_authorization(*auth)),
        ).messages

    async def send(self, copy: SmsCopy) -> tuple[Verdict, str]:
        """(DONE, message SID) or (REFUSED, Twilio's code) for what is about this recipient: no
        valid number, opted out (21610), not reachable from here.

        DONE is acceptance, not delivery. Never repeated after it may have arrived: Unknown, and
        then `sent_since` tells. Misconfigured where the sender or the account is refused.
        """
        attempted = "Send a text message"
        try:
            message = await self._messages.create_async(
                to=copy.to,
                body=copy.body,
                messaging_service_sid=self._service,
                from_=self._number,
                # A message that comes after its code has expired only frightens.
                validity_period=_seconds(copy.validity),
                shorten_urls=False,
                status_callback=self._callback(copy.notice_id),
            )
        except Refused as error:
            return Verdict.REFUSED, _about_the_recipient(error, copy.notice_id)
        except RecoveryError as error:
            error.subject = copy.notice_id
            raise
        if not message.sid:
            raise Unknown(attempted, subject=copy.notice_id, got="an answer without a message SID")
        return Verdict.DONE, str(message.sid)

    async def sent_since(self, to: str, since: datetime) -> list[tuple[str, str]]:
        """(SID, `body_hash`) of what was sent to this phone since then, and a few minutes before:
        Twilio's clock is another one. Incomplete where there is more than can be listed."""
        after = since.astimezone(UTC) - _SKEW
        try:
            found = await self._messages.list_async(
                to=to, date_sent_after=after, limit=_MOST_LISTED + 1, page_size=_PAGE_SIZE
            )
        except TwilioException:
            found = None
        if found is None or len(found) > _MOST_LISTED:
            raise Incomplete(
                "List sent text messages",
                expected=f"at most {_MOST_LISTED} messages to one phone",
                got="more" if found else "an answer of another shape",
            ) from None
        return [(str(message.sid), body_hash(message.body or "")) for message in found]

    def _callback(self, notice_id: str) -> object:
        if self._status_callback is None:
            return values.unset
        parts = urlsplit(self._status_callback)
        query = [*parse_qsl(parts.query), ("notice_id", notice_id)]
        return urlunsplit(parts._replace(query=urlencode(query)))


class _WireHttp(AsyncHttpClient):  # type: ignore[misc]
    """The package's transport on our wire: it brings path and fields, we bring host,
    authentication, retries and errors."""

    def __init__(self, wire: Wire, authorization: str) -> None:
        # Not the parent's: it keeps the last request with its headers.
        self.is_async = True
        self.timeout = None
        self._wire = wire
        self._authorization = authorization

    async def request(
        self,
        method: str,
        uri: str,
        params: dict[str, object] | None = None,
        data: dict[str, object] | None = None,
        headers: dict[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,
        allow_redirects: bool = False,
    ) -> Response:
        parts = urlsplit(uri)
        query = dict(parse_qsl(parts.query)) | _texts(params)
        listing = method == "GET"
        response = await self._wire.request(
            method,
            parts.path,
            attempted="List sent text messages" if listing else "Send a text message",
            params=query or None,
            form=None if listing else _texts(data),
            headers={"Authorization": self._authorization},
            ok=(200, 201),
            repeatable=listing,
        )
        self._wire.json(response)
        return Response(response.status_code, response.text)


def _texts(fields: dict[str, Any] | None) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in (fields or {}).items()
        if value is not None and value is not values.unset
    }


def _about_the_recipient(error: Refused, notice_id: str) -> str:
    """Twilio's code; raises where the refusal is not about the recipient."""
    if error.code == _QUEUE_FULL:
        raise RateLimited(
            error.attempted,
            subject=notice_id,
            retry_after=_QUEUE_PAUSE,
            advice="The sender's queue is full: use a messaging service with more senders.",
        ) from None
    if error.code in _OURS:
        raise Misconfigured(
            error.attempted,
            subject=notice_id,
            expected="Twilio to accept our account, sender and callback",
            got=error.got,
            advice="Check the sender in the block for Twilio against its error of this number.",
        ) from None
    return error.code


def _seconds(validity: timedelta) -> int:
    return int(max(timedelta(seconds=1), min(validity, _LONGEST_VALIDITY)).total_seconds())
