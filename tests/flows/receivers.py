"""Loopback servers that stand for the other ends of notifications, and what they received."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from rehearsal.world.asgi import Receive, Scope, Send


@dataclass(slots=True)
class Receiver:
    """Answers every POST with 202 and keeps its JSON."""

    received: list[tuple[str, Any]] = field(default_factory=list)
    """(path, body) in the order of arrival."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.received.append((scope["path"], json.loads(body) if body else None))
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def texts(self, path: str, count: int, *, seconds: float) -> list[str]:
        """The texts that came to `path`, as soon as there are `count`; fewer after `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            found = [json.dumps(body) for where, body in self.received if where == path]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.2)
        return [json.dumps(body) for where, body in self.received if where == path]
