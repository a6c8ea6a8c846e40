"""Faults of the vendors' servers: the kinds of `faults.py`, answered in the vendor's own error
shape, and the two that only a search has. Also the vendor's own rate limit.

A fault is drawn once per HTTP request, before the server sees it. A rate refusal is no fault: the
vendor's server answers it itself.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rehearsal.world.faults import CloseAfter, CloseBefore, Delay, InvalidJson, Status
from rehearsal.world.serving import connection_of


@dataclass(frozen=True, slots=True)
class PartialShards:
    """A search answers HTTP 200 without the documents of `shards` shards, which it names."""

    shards: int = 1


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A search answers HTTP 200, timed_out, and the first half of what it would have found."""


WireFault: TypeAlias = (
    Status | CloseBefore | CloseAfter | Delay | InvalidJson | PartialShards | TimedOut
)
_DRAWN = "rehearsal.faults"


@dataclass(slots=True)
class Injected:
    """One switched-on fault; `hits` says how often it struck. `remaining` None means for ever."""

    kind: WireFault
    pattern: re.Pattern[str]
    remaining: int | None
    spared: int
    hits: int = 0


class WireFaults:
    """The faults switched on at one vendor's server."""

    def __init__(self) -> None:
        self._injected: list[Injected] = []

    def inject(
        self, kind: WireFault, path_regex: str = "", times: int | None = 1, *, spare: int = 0
    ) -> Injected:
        """Strikes the next `times` requests where `path_regex` is found in `METHOD /path`, after
        it has spared as many as `spare`."""
        fault = Injected(kind, re.compile(path_regex), times, spare)
        self._injected.append(fault)
        return fault

    def clear(self) -> None:
        self._injected.clear()

    def draw(self, method: str, path: str) -> tuple[WireFault, ...]:
        """The faults that strike this request; they are used up by it."""
        struck: list[WireFault] = []
        for fault in self._injected:
            search_only = isinstance(fault.kind, PartialShards | TimedOut)
            if search_only and not path.endswith("_search"):
                continue
            if fault.remaining == 0 or not fault.pattern.search(f"{method} {path}"):
                continue
            if fault.spared > 0:
                fault.spared -= 1
                continue
            fault.hits += 1
            if fault.remaining is not None:
                fault.remaining -= 1
            struck.append(fault.kind)
        return tuple(struck)


def drawn_faults(scope: Mapping[str, Any]) -> tuple[WireFault, ...]:
    """The faults of the request being served, for a server that acts some out itself."""
    drawn: tuple[WireFault, ...] = scope.get(_DRAWN, ())
    return drawn


class FaultyWire:
    """An ASGI application around a vendor's server, which acts out the faults of the transport.

    `refusal(status)` is the vendor's error body for that status; `headers` go on it.
    """

    def __init__(
        self,
        app: ASGIApp,
        faults: WireFaults,
        refusal: Callable[[int], bytes],
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        self._app = app
        self._faults = faults
        self._refusal = refusal
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        drawn = self._faults.draw(scope["method"], scope["path"])
        scope[_DRAWN] = drawn
        for kind in drawn:
            match kind:
                case Delay(seconds):
                    await asyncio.sleep(seconds)
                case Status(code, retry_after):
                    await _read_to_the_end(receive)
                    await self._refuse(code, retry_after, send)
                    return
                case CloseBefore():
                    await _read_to_the_end(receive)
                    await _cut(scope, receive, send)
                    return
                case CloseAfter():
                    await self._app(scope, receive, _nowhere)
                    await _cut(scope, receive, send)
                    return
                case InvalidJson():
                    await self._answer_half(scope, receive, send)
                    return
                case PartialShards() | TimedOut():
                    pass  # the search itself acts these out
        await self._app(scope, receive, send)

    async def _refuse(self, status: int, retry_after: str | None, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), *self._headers]
        if retry_after is not None:
            headers.append((b"retry-after", retry_after.encode()))
        await _answer(send, status, headers, self._refusal(status))

    async def _answer_half(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}
        body = bytearray()

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                body.extend(message.get("body", b""))

        await self._app(scope, receive, keep)
        headers = [(k, v) for k, v in start["headers"] if k.lower() != b"content-length"]
        await _answer(send, start["status"], headers, bytes(body[: len(body) // 2]) or b"{")


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def _read_to_the_end(receive: Receive) -> None:
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


async def _nowhere(message: Message) -> None:
    """Swallows an answer."""


async def _cut(scope: Scope, receive: Receive, send: Send) -> None:
    """Ends the connection without an answer.

    Where the server does not lend its connection, an answer shorter than its Content-Length makes
    it drop the connection: a client that reads the body meets the same error.
    """
    try:
        connection = connection_of(scope)
    except LookupError:
        length = (b"content-length", b"64")
        await send({"type": "http.response.start", "status": 500, "headers": [length]})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        return
    connection.abort()
    # Until the server has noticed, a return would count as a missing answer and be sent as 500.
    while (await receive())["type"] != "http.disconnect":
        pass


class Rate:
    """A token bucket on real time, refilled continuously; capacity is `burst` (one second's worth
    unless told). `take` says whether the call may be served; a refused call takes nothing."""

    def __init__(self, per_second: float, burst: float | None = None) -> None:
        self.per_second = per_second
        self.burst = burst if burst is not None else max(per_second, 1.0)
        self._tokens = self.burst
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    @property
    def remaining(self) -> int:
        return int(self._tokens)

    @property
    def seconds_to_full(self) -> float:
        return (self.burst - self._tokens) / self.per_second
