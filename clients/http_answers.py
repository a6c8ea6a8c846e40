"""What an HTTP answer that was not hoped for means: which error of ours, and when to come back.

RFC 9110 section 10.2.3 (`Retry-After` in seconds or as a date), and the vendors' own headers.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

import httpx

from recovery.errors import Conflict, Misconfigured, NotFound, RecoveryError, Refused, Unknown

_CODE = re.compile(r"[a-z0-9_.-]{1,40}")
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?")
_RESETS = ("x-ratelimit-reset", "x-rate-limit-reset", "ratelimit-reset")
_A_DAY = 86_400.0
_MAX_ERROR_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Call:
    """What an error about a request says; travels with the answer."""

    system: str
    credential: str
    attempted: str
    subject: str
    repeatable: bool

    def unknown(self, got: str) -> Unknown:
        return Unknown(
            self.attempted,
            subject=self.subject,
            expected=f"an answer of {self.system}",
            got=got,
            advice="It may have been done. Ask the other side before doing it again.",
        )


def call_of(response: httpx.Response) -> Call:
    """The request behind an answer of `Wire.request`."""
    return cast(Call, response.extensions["call"])


def refusal(call: Call, response: httpx.Response) -> RecoveryError:
    """The error for an answer that asking again would not change (3xx and 4xx)."""
    status, code = response.status_code, error_code(response)
    got = f"HTTP {status} {code}".rstrip()
    if status in (401, 403):
        return Misconfigured(
            call.attempted,
            subject=call.subject,
            expected=f"{call.system} to accept the {call.credential}",
            got=got,
            advice=f"Check the {call.credential} of {call.system} and what it may do.",
        )
    if 400 <= status < 500:
        kind: type[Refused] = Refused
        if status == 404:
            kind = NotFound
        elif status in (409, 412):
            kind = Conflict
        return kind(call.attempted, subject=call.subject, code=code or str(status), got=got)
    return Misconfigured(
        call.attempted,
        subject=call.subject,
        expected=f"an answer of {call.system} itself",
        got=got,
        advice=f"Check the address of {call.system}: a login page or another host answered.",
    )


def named_wait(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds until the other side wants to be asked again; None where it names no time.

    Dates are read against the answer's own `Date`, so that a wrong clock here does no harm.
    """
    their_now = _date(headers.get("date", "")) or now
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    if (date := _date(text)) is not None:
        return max(0.0, (date - their_now).total_seconds())
    for name in _RESETS:
        reset = headers.get(name, "").strip()
        if _SECONDS.fullmatch(reset):
            number = float(reset)
            # An epoch with most vendors, seconds from now with some.
            return number if number < _A_DAY else max(0.0, number - their_now.timestamp())
    return None


def error_code(response: httpx.Response) -> str:
    """The body's error code where it looks like one; texts stay out, they may name a person."""
    if len(response.content) > _MAX_ERROR_BODY:
        return ""
    try:
        document = json.loads(response.content)
    except (ValueError, RecursionError):
        return ""
    for found in _candidates(document):
        if _CODE.fullmatch(found):
            return found
    return ""


def _candidates(document: Any) -> Iterator[str]:
    if not isinstance(document, dict):
        return
    for key in ("error", "code", "errorCode", "type"):
        match document.get(key):
            case str(text):
                yield text
            case int(number) if not isinstance(number, bool):
                yield str(number)
            case {"type": str(text)} | {"code": str(text)}:
                yield text
            case _:
                continue


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
