"""Stands before a server and counts who comes in; on demand it holds one request still, before the
server sees it or after the server has acted and before the answer goes out.

This is where a process can be killed at one exact moment: its request is on the way, or done and
not answered.
"""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_HOLD = 120.0
"""Seconds after which a forgotten request goes on by itself."""


@dataclass(slots=True)
class Hold:
    """One request to be held. `reached` is set when it stands still, `go` lets it on."""

    pattern: re.Pattern[str]
    after: bool
    """After the server has acted; otherwise before it sees the request."""
    skip: int = 0
    lost: bool = False
    """A request held before the server never gets there."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    seen: str = ""


class Turnstiles:
    """The turnstiles of one world's servers; they share one count and one hold at a time."""

    def __init__(self, counted: str) -> None:
        self._counted = re.compile(counted)
        self._hold: Hold | None = None
        self.passed = 0
        """Counted requests that have come in, over all servers."""
        self.by_path: Counter[str] = Counter()

    def hold(self, pattern: str, *, after: bool, skip: int = 0) -> Hold:
        """The next counted request where `pattern` is found in `server METHOD /path`, after `skip`
        others. It replaces a hold that was not reached."""
        self._hold = Hold(re.compile(pattern), after, skip)
        return self._hold

    def forget(self) -> None:
        """No request is held any more; one that stands goes on."""
        if self._hold is not None:
            self._hold.go.set()
            self._hold = None

    def before(self, name: str, app: ASGIApp) -> ASGIApp:
        """The server behind a turnstile."""

        async def pass_through(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            said = f"{name} {scope['method']} {scope['path']}"
            if not self._counted.search(said):
                await app(scope, receive, send)
                return
            self.passed += 1
            self.by_path[said] += 1
            hold = self._struck(said)
            if hold is None:
                await app(scope, receive, send)
            elif hold.after:
                await _act_and_wait(app, scope, receive, send, hold)
            else:
                await _wait(hold)
                await (_drop(send) if hold.lost else app(scope, receive, send))

        return pass_through

    def _struck(self, said: str) -> Hold | None:
        hold = self._hold
        if hold is None or hold.reached.is_set() or not hold.pattern.search(said):
            return None
        if hold.skip > 0:
            hold.skip -= 1
            return None
        hold.seen = said
        return hold


async def _act_and_wait(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, hold: Hold
) -> None:
    answer: list[Message] = []

    async def keep(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, keep)
    await _wait(hold)
    for message in answer:
        await send(message)


async def _wait(hold: Hold) -> None:
    hold.reached.set()
    try:
        await asyncio.wait_for(hold.go.wait(), LONGEST_HOLD)
    except TimeoutError:
        return


async def _drop(send: Send) -> None:
    headers = [(b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
