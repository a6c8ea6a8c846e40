"""Serves one ASGI app on loopback inside the running event loop; many of them fit one process.

uvicorn does the HTTP. An app finds its TCP connection in the scope (`connection_of`), so that a
fault can cut it as a real network would.
"""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Self

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_CONNECTION = "rehearsal.connection"
_START_LIMIT = timedelta(seconds=10)
_KEEP_ALIVE = timedelta(seconds=75)


def connection_of(scope: Scope) -> asyncio.Transport:
    """The TCP connection a request came in by. LookupError under a server that is not ours."""
    connection = scope.get("extensions", {}).get(_CONNECTION)
    if not isinstance(connection, asyncio.Transport):
        raise LookupError("this request did not come through Loopback")
    return connection


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        app = self.app

        async def with_connection(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[_CONNECTION] = transport
            await app(scope, receive, send)

        self.app = with_connection


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the process's signal handlers alone: they belong to whoever started us."""
        yield


class Loopback:
    """One app on 127.0.0.1. The port is bound at construction, so `url` is known at once.

    `port=0` takes a free one; a fixed port lets a server come back where it was. Connections
    made before `start` wait in the backlog. `stop` is idempotent and bounded: requests in
    flight get `grace` (whole seconds), then they are cancelled. `dated=False` leaves the header
    Date to the app.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        port: int = 0,
        grace: timedelta = timedelta(seconds=2),
        dated: bool = True,
    ) -> None:
        # proto must be given: asyncio sets TCP_NODELAY only on sockets that say IPPROTO_TCP,
        # and without it every answer waits 40 ms for Nagle and the delayed ACK.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(("127.0.0.1", port))
            self._socket.listen(2048)
            self._socket.setblocking(False)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._grace = grace
        self._server = _Server(
            uvicorn.Config(
                app,
                http=_Protocol,
                ws="none",
                lifespan="auto",
                log_config=None,
                access_log=False,
                date_header=dated,
                timeout_keep_alive=int(_KEEP_ALIVE.total_seconds()),
                timeout_graceful_shutdown=max(1, round(grace.total_seconds())),
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when the app answers. RuntimeError when its start-up failed or took 10 s."""
        if self._task is not None:
            raise RuntimeError("a Loopback starts once; make a new one with the same port")
        self._task = asyncio.create_task(
            self._server.serve(sockets=[self._socket]), name=f"loopback-{self.port}"
        )
        deadline = asyncio.get_running_loop().time() + _START_LIMIT.total_seconds()
        while not self._server.started:
            if self._task.done() or asyncio.get_running_loop().time() > deadline:
                await self.stop()
                raise RuntimeError(f"the app for port {self.port} did not start")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        if self._task is None:
            self._socket.close()
            return
        self._server.should_exit = True
        limit = self._grace.total_seconds() + 3
        done, _ = await asyncio.wait({self._task}, timeout=limit)
        if not done:
            self._server.force_exit = True
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=limit)
        self._socket.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
