"""What Twilio's Messages resource accepts: a form's fields to an order, or Twilio's error.

Codes follow Twilio's error dictionary. Parameters that the rehearsal does not act out (schedules,
media, link shortening) are refused, not ignored.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

MAX_BODY_CHARACTERS = 1_600
MAX_VALIDITY = timedelta(hours=10)
_E164 = re.compile(r"\+[1-9]\d{6,14}\Z")
_ACTED_OUT = frozenset(
    {"To", "From", "MessagingServiceSid", "Body", "StatusCallback", "ValidityPeriod"}
    | {"ContentRetention"}
)
# Parameters with one value that asks for what happens here anyway.
_FIXED = {
    "ShortenUrls": frozenset({"false"}),
    "AddressRetention": frozenset({"retain"}),
    "RiskCheck": frozenset({"enable", "disable"}),
    "SmartEncoded": frozenset({"true", "false"}),
    "ProvideFeedback": frozenset({"false"}),
}
_GSM7 = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM7_TWO = frozenset("^{}\\[~]|€\f")


class TwilioRefused(Exception):
    """Nothing was done. The text carries no number: a phone is personal data."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.body = {
            "code": code,
            "message": message,
            "more_info": f"https://www.twilio.com/docs/errors/{code}",
            "status": status,
        }


@dataclass(frozen=True, slots=True)
class Order:
    """A message to be sent: by `sender`, or by one of the messaging service's senders."""

    to: str
    body: str
    sender: str | None
    service_sid: str | None
    status_callback: str | None
    validity: timedelta
    discard_content: bool


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the account may do: its own senders, its messaging services with their pools, and the
    prefixes of the countries that it may text (empty: all)."""

    senders: Collection[str]
    services: Mapping[str, Collection[str]]
    prefixes: Collection[str] = ()


def check_message(form: Mapping[str, str], may: Permissions, opted_out: Collection[str]) -> Order:
    """Raises TwilioRefused."""
    for name, value in form.items():
        if name not in _ACTED_OUT and value not in _FIXED.get(name, ()):
            raise TwilioRefused(400, 20001, f"The parameter {name} is not valid here.")
    to = form.get("To", "")
    if not to:
        raise TwilioRefused(400, 21604, "A 'To' phone number is required.")
    if _E164.match(to) is None:
        raise TwilioRefused(400, 21211, "The 'To' number is not a valid phone number.")
    service_sid = form.get("MessagingServiceSid") or None
    sender = form.get("From") or None
    if service_sid is None and sender is None:
        raise TwilioRefused(400, 21603, "A 'From' phone number is required.")
    if service_sid is not None and service_sid not in may.services:
        raise TwilioRefused(400, 21701, "The Messaging Service does not exist.")
    own = may.senders if service_sid is None else may.services[service_sid]
    if sender is not None and sender not in own:
        raise TwilioRefused(400, 21606, "The 'From' number is not a sender of this account.")
    body = form.get("Body", "")
    if not body:
        raise TwilioRefused(400, 21602, "Message body is required.")
    if len(body) > MAX_BODY_CHARACTERS:
        reason = f"The concatenated message body exceeds the {MAX_BODY_CHARACTERS} character limit."
        raise TwilioRefused(400, 21617, reason)
    validity = _validity(form.get("ValidityPeriod"))
    callback = form.get("StatusCallback") or None
    if callback is not None and not _is_callback(callback):
        raise TwilioRefused(400, 21609, "The 'StatusCallback' URL is not a valid URL.")
    if form.get("ContentRetention", "retain") not in ("retain", "discard"):
        raise TwilioRefused(400, 20001, "The parameter ContentRetention is not valid here.")
    if may.prefixes and not to.startswith(tuple(may.prefixes)):
        reason = "Permission to send an SMS has not been enabled for the region of the 'To' number."
        raise TwilioRefused(400, 21408, reason)
    if to in opted_out:
        raise TwilioRefused(400, 21610, "Attempt to send to unsubscribed recipient.")
    return Order(
        to=to,
        body=body,
        sender=sender,
        service_sid=service_sid,
        status_callback=callback,
        validity=validity,
        discard_content=form.get("ContentRetention") == "discard",
    )


def segments(body: str) -> int:
    """SMS segments: 160 or 153 GSM-7 septets, 70 or 67 UCS-2 units each."""
    if all(character in _GSM7 or character in _GSM7_TWO for character in body):
        units = sum(2 if character in _GSM7_TWO else 1 for character in body)
        whole, part = 160, 153
    else:
        units, whole, part = len(body.encode("utf-16-be")) // 2, 70, 67
    return 1 if units <= whole else -(-units // part)


def _validity(given: str | None) -> timedelta:
    if given is None:
        return MAX_VALIDITY
    if not given.isdigit() or int(given) < 1:
        raise TwilioRefused(400, 90014, "Validity Period should be a positive integer.")
    if int(given) > MAX_VALIDITY.total_seconds():
        raise TwilioRefused(400, 90007, "Invalid validity period value: it is 1 to 36000.")
    return timedelta(seconds=int(given))


def _is_callback(url: str) -> bool:
    """http or https with a host; Twilio refuses an underscore in the host."""
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and "_" not in parts.netloc
