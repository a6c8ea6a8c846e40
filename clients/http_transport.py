"""One attempt at one request: httpx on aiohttp's transport, and whether a byte had left us.

httpx's own transport slows down under concurrency (docs/decisions). What httpx raises on this one
can't tell "certainly not sent" from "maybe done", so aiohttp's tracing tells it.
"""

import asyncio
import contextvars
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

MAX_BODY = 32 * 1024 * 1024
_KEEP_ALIVE = 3.0  # below the 5 s after which many servers hang up, or POSTs would meet a dead line


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds for one request: `attempt` holds for each try, `waiting` for all pauses together."""

    connect: timedelta = timedelta(seconds=5)
    read: timedelta = timedelta(seconds=30)
    attempt: timedelta = timedelta(seconds=60)
    waiting: timedelta = timedelta(seconds=60)


class NoAnswer(Exception):
    """`sent` means that the other side may have acted. `reason` quotes nothing that was sent."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class NoTrust(Exception):
    """TLS failed for a reason that trying again does not mend."""


class TooLarge(Exception):
    """The body went past `MAX_BODY` after decompression; the rest was not read."""


@dataclass(slots=True)
class _Progress:
    sent: bool = False


_progress: contextvars.ContextVar[_Progress] = contextvars.ContextVar("request_progress")


def open_client(
    base_url: str,
    headers: dict[str, str],
    timeouts: Timeouts,
    context: ssl.SSLContext,
    max_connections: int,
) -> httpx.AsyncClient:
    """Follows no redirect, keeps no cookie and uses no proxy or netrc of the environment:
    credentials go where the caller says. Connects on first use, in the loop of that moment."""
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(
            None,
            connect=timeouts.connect.total_seconds(),
            read=timeouts.read.total_seconds(),
        ),
        transport=AiohttpTransport(
            verify=context, client=lambda: _session(context, max_connections)
        ),
    )


def tls_context(ca_file: str | None, client_cert: tuple[str, str | None] | None) -> ssl.SSLContext:
    """Trusts `ca_file` alone, or the public authorities. OSError for unusable files."""
    context = ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
    if client_cert:
        # Without a password OpenSSL would ask for one on the terminal and wait for ever.
        context.load_cert_chain(*client_cert, password="")
    return context


async def send_once(
    client: httpx.AsyncClient, request: httpx.Request, limit: timedelta
) -> httpx.Response:
    """The answer with its whole body, whatever its status; NoAnswer, NoTrust or TooLarge."""
    progress = _Progress()
    token = _progress.set(progress)
    try:
        async with asyncio.timeout(limit.total_seconds()):
            answer = await client.send(request, stream=True)
            try:
                body = await _body(answer)
            finally:
                await answer.aclose()
    except TimeoutError:
        reason = f"no whole answer within {limit.total_seconds():g} s"
        raise NoAnswer(reason, sent=progress.sent) from None
    except (httpx.RequestError, aiohttp.ClientError, OSError) as error:
        if problem := _distrust(error):
            raise NoTrust(problem) from None
        raise NoAnswer(_reason(error), sent=progress.sent) from None
    finally:
        _progress.reset(token)
    return httpx.Response(
        answer.status_code,
        headers=[
            (name, value)
            for name, value in answer.headers.multi_items()
            # The body stands here decoded and whole.
            if name not in ("content-encoding", "content-length", "transfer-encoding")
        ],
        content=body,
    )


def _session(context: ssl.SSLContext, max_connections: int) -> aiohttp.ClientSession:
    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(_note_sent)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            ssl=context, limit=max_connections, keepalive_timeout=_KEEP_ALIVE
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        trace_configs=[tracing],
        middlewares=[_never_again],
    )


async def _note_sent(*_: object) -> None:
    """aiohttp calls this right before the first byte leaves."""
    _progress.get(_Progress()).sent = True


class _Broken(aiohttp.ClientError):
    pass


async def _never_again(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp would send a GET, PUT or DELETE again by itself over a fresh connection; only
    `Wire.request` decides that, and it paces what it repeats."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise _Broken from error


async def _body(answer: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.aiter_bytes():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__ or link.__context__


def _distrust(error: BaseException) -> str:
    for link in _chain(error):
        if isinstance(link, aiohttp.ClientConnectorCertificateError):
            link = link.certificate_error
        if isinstance(link, ssl.SSLCertVerificationError):
            return link.verify_message or "a certificate that does not verify"
        # TLS 1.3 servers say so only after the request; often a bare reset is all that is seen.
        # (aiohttp's own subclass of SSLError lacks the attribute `reason`.)
        if "CERTIFICATE_REQUIRED" in str(getattr(link, "reason", "")):
            return "a demand for a client certificate"
    return ""


def _reason(error: BaseException) -> str:
    """By the exceptions' types, never their texts."""
    links = list(_chain(error))
    for link in links:
        match link:
            case aiohttp.ClientConnectorDNSError():
                return "an unknown host name"
            case ConnectionRefusedError():
                return "a refused connection"
            case aiohttp.ConnectionTimeoutError():
                return "a connection that did not come about in time"
            case aiohttp.SocketTimeoutError():
                return "silence"
            case aiohttp.ServerDisconnectedError() | ConnectionResetError():
                return "a closed connection"
            case aiohttp.ClientPayloadError():
                return "a cut answer"
            case ssl.SSLError():
                return "a failed TLS handshake"
            case _:
                continue
    return type(links[-1]).__name__
