"""The one layer that builds HTTP clients and the one that repeats a request.

Decides for every request whether it was certainly not done (`Unreachable`, `RateLimited`), maybe
done (`Unknown`) or refused; RFC 9110 for what may be repeated, RFC 7009 for 503.
"""

import asyncio
import base64
import json as jsonlib
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NoReturn, Protocol, Self, TypeVar, cast, runtime_checkable
from urllib.parse import quote

import httpx
from pydantic import SecretStr, TypeAdapter, ValidationError

from clients.http_addresses import url_problem
from clients.http_answers import Call, call_of, named_wait, refusal
from clients.http_bearer import Bearer
from clients.http_transport import (
    MAX_BODY,
    NoAnswer,
    NoTrust,
    Timeouts,
    TooLarge,
    open_client,
    send_once,
    tls_context,
)
from recovery.accounts import Clock
from recovery.errors import (
    Incomplete,
    Misconfigured,
    RateLimited,
    RecoveryError,
    Refused,
    Unknown,
    Unreachable,
)

__all__ = ["Pace", "Sleep", "Timeouts", "Wire", "basic_authorization", "segment"]

Pace = Callable[[], Awaitable[None]]
"""Awaited before every attempt; returns when the quota has room for one more."""


@runtime_checkable
class Watching(Protocol):
    """A pace that also wants to know what became of every attempt."""

    def seen(self, answered: bool) -> None:
        """False for no answer and for a server's error; a refusal is an answer."""


Sleep = Callable[[float], Awaitable[None]]
Shape = TypeVar("Shape")

_FIRST_BACKOFF = 0.25
_LONGEST_BACKOFF = 8.0


def segment(value: str) -> str:
    """An opaque id as one path segment. Ids come from other systems' data: one that would climb
    out of its place in the path is refused."""
    if value in ("", ".", "..") or len(value) > 256:
        raise Refused(
            "Address an account or a client by its id",
            code="malformed_id",
            advice="This is no opaque id; look at where it came from.",
        )
    return quote(value, safe="")


def basic_authorization(user: str, secret: str | SecretStr) -> str:
    """The header's value for RFC 7617."""
    return f"Basic {base64.b64encode(f'{user}:{_revealed(secret)}'.encode()).decode()}"


class Wire:
    """HTTP to one outside system. Closed by `aclose()` or by leaving `async with`.

    `base_url` None means that every path is a whole URL (the health addresses of many hosts);
    such a wire carries no credentials. Plain http is taken for loopback only, unless
    `allow_cleartext` (there is an encrypted mesh below). Redirects, cookies, and proxies of the
    environment are never used: credentials go where the block says. `credential` names for
    errors what the operator has to look at. `bearer` gives a token that may change on the way.
    """

    def __init__(
        self,
        name: str,
        base_url: str | None,
        *,
        headers: Mapping[str, str | SecretStr] | None = None,
        auth: tuple[str, str | SecretStr] | None = None,
        bearer: Bearer | None = None,
        credential: str = "credential",
        timeout: Timeouts | None = None,
        ca_file: str | None = None,
        client_cert: tuple[str, str | None] | None = None,
        max_connections: int = 100,
        pace: Pace | None = None,
        attempts: int = 4,
        jitter: random.Random | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Clock | None = None,
        allow_cleartext: bool = False,
    ) -> None:
        if base_url is None and (headers or auth or bearer):
            raise ValueError("a wire to any host carries no credentials")
        self.name = name
        self._credential = credential
        self._timeout = timeout or Timeouts()
        self._pace = pace
        self._watcher = pace if isinstance(pace, Watching) else None
        self._bearer = bearer
        self._attempts = max(1, attempts)
        self._jitter = jitter or random.Random()
        self._sleep = sleep
        self._clock = clock or (lambda: datetime.now(UTC))
        self.base_url = self._checked_url(base_url, allow_cleartext)
        sent_always = {"User-Agent": "mass-reset-recovery", "Accept": "application/json, */*;q=0.1"}
        self._client = open_client(
            self.base_url,
            sent_always | self._checked_headers(headers or {}, auth),
            self._timeout,
            self._tls(ca_file, client_cert),
            max_connections,
        )
        _silence_libraries()

    def __repr__(self) -> str:
        return f"Wire({self.name!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        attempted: str,
        repeatable: bool,
        subject: str = "",
        params: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, str | Sequence[str]] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str | None] | None = None,
        ok: Collection[int] = (200,),
    ) -> httpx.Response:
        """An answer whose status is in `ok`, with its whole body read; anything else raises.

        `attempted` and `subject` go into errors and logs: no personal data. `repeatable` says
        that doing it twice is the same as doing it once; only then is it sent again after it may
        have arrived. A header of None leaves out one that the wire sends otherwise.
        """
        call = Call(self.name, self._credential, attempted, subject, repeatable)
        budget = self._timeout.waiting.total_seconds()
        maybe_done = False
        for attempt in range(1, self._attempts + 1):
            await self._paced(call, maybe_done)
            wait = self._backoff(attempt)

            def build(authorization: Mapping[str, str]) -> httpx.Request:
                own = {**authorization, **(headers or {})}
                return self._built(call, method, path, params, json, form, content, own)

            try:
                if self._bearer is None or "Authorization" in (headers or {}):
                    response = await self._once(call, build({}))
                else:
                    response = await self._borne(call, build, self._bearer, maybe_done)
            except NoAnswer as lost:
                self._seen(False)
                maybe_done = maybe_done or lost.sent
                failure = self._lost(call, lost.reason, maybe_done)
            else:
                self._seen(response.status_code < 500)
                if response.status_code in ok:
                    if response.is_success and _is_page(response):
                        # A proxy's or a login page: whoever looks at the status alone would take
                        # it for the act.
                        _unusable(call, "a web page")
                    return response
                failure = self._transient(call, response, maybe_done)
                maybe_done = isinstance(failure, Unknown)
                if isinstance(failure, RateLimited):
                    named = failure.retry_after.total_seconds()
                    # Spread, or many workers told the same time would come back in one moment.
                    wait = named + self._jitter.uniform(0.0, 0.1 + named / 10)
            budget -= wait
            if attempt == self._attempts or budget < 0 or (maybe_done and not repeatable):
                raise failure
            await self._sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def json(self, response: httpx.Response) -> Any:
        """The body as JSON. `Incomplete` where it is none; `Unknown` where the request had its
        effect and can't be repeated, as the answer to a creation."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not kind.endswith("+json"):
            _unusable(call_of(response), "another content type" if kind else "no content type")
        try:
            document = jsonlib.loads(response.content)
            if b"\\ud" in response.content.lower():
                # Half a surrogate pair, as from a name cut between two of them, fits no database.
                text = jsonlib.dumps(document, ensure_ascii=False)
                document = jsonlib.loads(text.encode("utf-8", "replace"))
            return document
        except (ValueError, RecursionError):
            _unusable(call_of(response), "something that is no JSON")

    def read(self, response: httpx.Response, shape: type[Shape]) -> Shape:
        """The body as a pydantic model or another annotated type; errors as in `json`."""
        document = self.json(response)
        try:
            return cast(Shape, _adapter(cast(Hashable, shape)).validate_python(document))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            _unusable(
                call_of(response), f"another shape ({first['type']} at {where[:80] or 'top'})"
            )

    def _built(
        self,
        call: Call,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        json: Any,
        form: Mapping[str, str | Sequence[str]] | None,
        content: bytes | None,
        headers: Mapping[str, str | None],
    ) -> httpx.Request:
        own = self._checked_headers({k: v for k, v in headers.items() if v is not None}, None)
        if json is not None:
            # ASCII, so that half a surrogate pair in somebody's name does no harm.
            content = jsonlib.dumps(json, allow_nan=False, separators=(",", ":")).encode()
            own = {"Content-Type": "application/json"} | own
        try:
            request = self._client.build_request(
                method, path, params=params, data=form, content=content, headers=own
            )
        except UnicodeError:
            # Not passed on: the exception holds the whole text, with whatever is secret in it.
            raise Refused(
                call.attempted, subject=call.subject, code="malformed_text", got="half a character"
            ) from None
        for name, value in headers.items():
            if value is None:
                request.headers.pop(name, None)
        return request

    async def _borne(
        self,
        call: Call,
        build: Callable[[Mapping[str, str]], httpx.Request],
        bearer: Bearer,
        maybe_done: bool,
    ) -> httpx.Response:
        """One attempt with the bearer's token; a second one where that was refused and there is
        another, for a 401 has done nothing."""
        token = await bearer.bearer()
        response = await self._once(call, build(_authorization(token)))
        if response.status_code != 401 or not await bearer.refused(token):
            return response
        await self._paced(call, maybe_done)
        return await self._once(call, build(_authorization(await bearer.bearer())))

    async def _once(self, call: Call, request: httpx.Request) -> httpx.Response:
        try:
            response = await send_once(self._client, request, self._timeout.attempt)
        except TooLarge:
            _unusable(call, f"more than {MAX_BODY // 1024 // 1024} MB")
        except NoTrust as problem:
            raise Misconfigured(
                call.attempted,
                subject=call.subject,
                expected=f"a TLS connection that {self.name} and we both trust",
                got=str(problem),
                advice="Check the address, the CA file and the client certificate of the block.",
            ) from None
        response.extensions["call"] = call
        return response

    async def _paced(self, call: Call, maybe_done: bool) -> None:
        if self._pace is None:
            return
        try:
            await self._pace()
        except Exception:
            if maybe_done:
                raise call.unknown("no room in the quota for asking again") from None
            raise

    def _seen(self, answered: bool) -> None:
        if self._watcher is not None:
            self._watcher.seen(answered)

    def _backoff(self, attempt: int) -> float:
        longest: float = min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2 ** (attempt - 1))
        return longest * self._jitter.uniform(0.5, 1.0)

    def _lost(self, call: Call, reason: str, maybe_done: bool) -> RecoveryError:
        if maybe_done:
            return call.unknown(reason)
        return Unreachable(
            call.attempted,
            subject=call.subject,
            expected=f"a connection to {self.name}",
            got=reason,
            advice="Nothing was sent. Check the address and the network, then run again.",
        )

    def _transient(self, call: Call, response: httpx.Response, maybe_done: bool) -> RecoveryError:
        """What the answer means where asking again may help; final answers are raised."""
        status = response.status_code
        named = named_wait(response.headers, self._clock())
        asked_to_wait = status == 503 and "retry-after" in response.headers and named is not None
        if (status == 429 or asked_to_wait) and not maybe_done:
            return RateLimited(
                call.attempted,
                subject=call.subject,
                retry_after=timedelta(seconds=1.0 if named is None else named),
                advice=f"{self.name} did nothing. Lower its quota in the runbook if this goes on.",
            )
        accepted = 200 <= status < 300 and not call.repeatable
        if status >= 500 or status in (408, 429) or accepted:
            return call.unknown(f"HTTP {status}")
        raise refusal(call, response)

    def _checked_headers(
        self, headers: Mapping[str, str | SecretStr], auth: tuple[str, str | SecretStr] | None
    ) -> dict[str, str]:
        plain = {name: _revealed(value) for name, value in headers.items()}
        if auth is not None:
            plain["Authorization"] = basic_authorization(*auth)
        for name, value in plain.items():
            if not value.isascii() or not value.isprintable() or value != value.strip():
                raise Misconfigured(
                    f"Set up the connection to {self.name}",
                    expected=f"a {self._credential} of visible ASCII characters",
                    got=f"a blank at an end, a line break or another sign in {name}",
                    advice=f"Paste the {self._credential} again.",
                )
        return plain

    def _checked_url(self, base_url: str | None, allow_cleartext: bool) -> str:
        if base_url is None:
            return ""
        problem = url_problem(base_url, allow_cleartext)
        if problem:
            raise Misconfigured(
                f"Set up the connection to {self.name}",
                expected="an address such as https://host.example",
                got=problem,
                advice=f"Correct the address in the block for {self.name}.",
            )
        return base_url.rstrip("/")

    def _tls(
        self, ca_file: str | None, client_cert: tuple[str, str | None] | None
    ) -> ssl.SSLContext:
        if self.base_url.startswith("http:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; the public CAs cost 20 ms
        try:
            return tls_context(ca_file, client_cert)
        except OSError as error:
            raise Misconfigured(
                f"Set up the TLS connection to {self.name}",
                expected="readable PEM files for the CA and the client certificate",
                got=type(error).__name__,
                advice=f"Check the TLS fields in the block for {self.name}.",
            ) from None


def _is_page(response: httpx.Response) -> bool:
    kind = response.headers.get("content-type", "")
    # Some servers call everything a web page, JSON too.
    return kind.startswith("text/html") and response.content.lstrip()[:1] == b"<"


def _unusable(call: Call, got: str) -> NoReturn:
    """An answer that came and can't be read."""
    if not call.repeatable:
        raise call.unknown(got) from None
    raise Incomplete(
        call.attempted,
        subject=call.subject,
        expected=f"a whole JSON answer of {call.system}",
        got=got,
        advice=f"Check that the address is that of {call.system}, in a version we know.",
    ) from None


def _authorization(token: SecretStr) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.get_secret_value()}"}


def _revealed(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


@lru_cache(maxsize=64)
def _adapter(shape: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, shape))


def _silence_libraries() -> None:
    """These log URLs at INFO, and payloads with the Authorization header at DEBUG."""
    for name in ("httpx", "httpcore", "python_http_client", "twilio", "twilio.http_client"):
        logger = logging.getLogger(name)
        if logger.level < logging.WARNING:
            logger.setLevel(logging.WARNING)


class OnWire:
    """A client of one outside system, closed together with its wire."""

    _wire: Wire

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._wire.aclose()
