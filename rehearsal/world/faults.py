"""Faults that can be switched on while a server runs: what networks and overloaded servers do.

`Faults.around(app)` wraps any ASGI app served by `Loopback`. A fault is chosen before the app
sees the request, so a refused or cut request has changed nothing; a lost answer has.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import assert_never

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rehearsal.world.asgi import Reply, write_reply
from rehearsal.world.serving import connection_of


@dataclass(frozen=True, slots=True)
class Status:
    """Answers with this status and does nothing. `retry_after` is sent as it stands: delta
    seconds or an HTTP date."""

    code: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class CloseBefore:
    """Cuts the connection before the server did anything."""


@dataclass(frozen=True, slots=True)
class CloseAfter:
    """The server does its work, then the connection is cut: the answer is lost."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Waits, then lets the request go on to the next matching fault or the server."""

    seconds: float


@dataclass(frozen=True, slots=True)
class InvalidJson:
    """The server does its work and answers with half of its body."""


FaultKind = Status | CloseBefore | CloseAfter | Delay | InvalidJson


@dataclass(slots=True)
class Fault:
    """One switched-on fault; `hits` says how often it struck. `remaining` None means for ever."""

    kind: FaultKind
    pattern: re.Pattern[str]
    remaining: int | None
    hits: int = 0


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def inject(self, kind: FaultKind, path_regex: str, times: int | None = 1) -> Fault:
        """Strikes the next `times` requests where `path_regex` is found in `METHOD /path`.

        The earliest injected fault that matches strikes; only a Delay lets another one follow.
        """
        fault = Fault(kind, re.compile(path_regex), times)
        self._faults.append(fault)
        return fault

    def clear(self) -> None:
        self._faults.clear()

    def around(self, app: ASGIApp) -> ASGIApp:
        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if not self._faults or scope["type"] != "http":
                await app(scope, receive, send)
                return
            for kind in self._struck(f"{scope['method']} {scope['path']}"):
                if isinstance(kind, Delay):
                    await asyncio.sleep(kind.seconds)
                else:
                    await _strike(kind, app, scope, receive, send)
                    return
            await app(scope, receive, send)

        return faulty

    def _struck(self, request_line: str) -> list[FaultKind]:
        struck: list[FaultKind] = []
        for fault in self._faults:
            if fault.remaining == 0 or not fault.pattern.search(request_line):
                continue
            fault.hits += 1
            if fault.remaining is not None:
                fault.remaining -= 1
            struck.append(fault.kind)
            if not isinstance(fault.kind, Delay):
                break
        return struck


async def _strike(
    kind: Status | CloseBefore | CloseAfter | InvalidJson,
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    match kind:
        case Status(code, retry_after):
            headers = (("Retry-After", retry_after),) if retry_after is not None else ()
            body = {"error": "fault", "message": "Injected by the rehearsal."}
            await write_reply(send, Reply(code, body, headers))
        case CloseBefore():
            await _cut(scope, receive)
        case CloseAfter():
            await app(scope, receive, _nowhere)
            await _cut(scope, receive)
        case InvalidJson():
            await _answer_half(app, scope, receive, send)
        case _:
            assert_never(kind)


async def _nowhere(message: Message) -> None:
    """Swallows an answer."""


async def _cut(scope: Scope, receive: Receive) -> None:
    connection_of(scope).abort()
    # Until the server has noticed, a return would count as a missing answer and be sent as 500.
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer_half(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    start: Message = {}
    body = b""

    async def keep(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
        else:
            body += message.get("body", b"")

    await app(scope, receive, keep)
    half = body[: len(body) // 2] or b"{"
    headers = [(k, v) for k, v in start["headers"] if k != b"content-length"]
    if start["status"] == 204:
        half = b""
    else:
        headers.append((b"content-length", b"%d" % len(half)))
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": half})
