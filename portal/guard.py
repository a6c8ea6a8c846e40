"""What every request passes: size and time of its body, where it came from, headers on its answer.

Origin and Sec-Fetch-Site after the Fetch standard; headers after OWASP ASVS 5, chapter 3.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 16 * 1024
MAX_HEADERS = 16 * 1024
BODY_TIMEOUT_SECONDS = 10.0
_SAFE = frozenset({"GET", "HEAD"})

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; "
    "base-uri 'none'; object-src 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}
_HSTS = {"strict-transport-security": "max-age=63072000; includeSubDomains"}

log = logging.getLogger("portal")
ErrorPage = Callable[[Request, int], Response]


def from_our_own_page(request: Request, origin: str) -> bool:
    """Whether a browser says that another site made it send this.

    Our pages carry `no-referrer`, and for forms on such pages browsers send `Origin: null`. Then
    Sec-Fetch-Site decides; a browser too old for that one (and no browser at all) says nothing,
    and what is worth anything is guarded by the form token or the secret in the form.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    return request.headers.get("origin", "null") in ("null", origin)


class Guard:
    """`page` makes error pages; exceptions are logged by place and never by value. `bodies` are
    the paths that take more than a form's worth, with how much."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        origin: str,
        https: bool,
        page: ErrorPage,
        bodies: Mapping[str, int] | None = None,
    ) -> None:
        self._app = app
        self._bodies = bodies or {}
        self._origin = origin
        self._page = page
        headers = {**_HEADERS, **(_HSTS if https else {})}
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": self._complete(message["headers"])}
            await send(message)

        request = Request(scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            await self._page(request, 431)(scope, receive, send_guarded)
            return
        try:
            await self._pass(request, scope, receive, send_guarded)
        except Exception as error:
            log.error("a request failed: %s", _place(error))
            if not started:
                await self._page(request, 500)(scope, receive, send_guarded)

    async def _pass(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in _SAFE:
            await self._app(scope, receive, send)
            return
        if not from_our_own_page(request, self._origin):
            await self._page(request, 403)(scope, receive, send)
            return
        body = await _body(request, receive, self._bodies.get(scope["path"], MAX_BODY))
        if isinstance(body, int):
            response = self._page(request, body)
            # What was not read would be taken for the next request.
            response.headers["connection"] = "close"
            await response(scope, receive, send)
        elif body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _complete(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        if not any(name.lower() == b"cache-control" for name, _ in headers):
            headers = [*headers, (b"cache-control", b"no-store")]
        given = {name.lower() for name, _ in headers}
        return [*headers, *(item for item in self._headers if item[0] not in given)]


async def _body(request: Request, receive: Receive, most: int) -> bytes | int | None:
    """The whole body; the status to refuse it with; None where the client left."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length[:10]) > most:
        return 413
    parts = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts += message.get("body", b"")
                if len(parts) > most:
                    return 413
                if not message.get("more_body", False):
                    return bytes(parts)
    except TimeoutError:
        return 408


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}"
