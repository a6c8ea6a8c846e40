"""A relay between our client and a real server, in which the network can fail."""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rehearsal.world.faults import Faults

_OWN = {"host", "content-length", "connection", "accept-encoding"}


class Relay:
    """Hands requests on to the server at `address`; faults strike in between."""

    def __init__(self, address: str, *, one_by_one: bool = False) -> None:
        self.faults = Faults()
        self.app = self.faults.around(self._relay)
        self._address = address
        self._lock = asyncio.Lock() if one_by_one else None

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        request = Request(scope, receive)
        body = await request.body()
        async with AsyncExitStack() as stack:
            if self._lock is not None:
                await stack.enter_async_context(self._lock)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            answer = await self.hand_on(session, request, body)
        await answer(scope, receive, send)

    def where(self, request: Request) -> str:
        return f"{request.url.path}?{request.url.query}".rstrip("?")

    async def hand_on(
        self, session: aiohttp.ClientSession, request: Request, body: bytes
    ) -> Response:
        return await self.ask(session, request, body, {})

    async def ask(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        body: bytes,
        changed: dict[str, str],
    ) -> Response:
        url = f"{self._address}{self.where(request)}"
        kept = {n: v for n, v in request.headers.items() if n not in _OWN}
        async with session.request(
            request.method, url, data=body, headers=kept | changed
        ) as answered:
            content = await answered.read()
            headers = {"content-type": answered.headers.get("content-type", "")}
            return Response(content, answered.status, headers)
