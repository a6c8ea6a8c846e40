"""One process's HTTP server: uvicorn, with an end that breaks no request.

Told to end it says "not ready", goes on for as long as the proxy needs to notice, stops to accept,
answers what is under way, and asks for every connection that is still used to be closed by an
answer: one that is cut between two requests may cut the second (RFC 9112, 9.6).
"""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

HEADERS_AT_MOST = 16 * 1024
_CONNECTIONS = 1000
_GRACE_SECONDS = 10
_LINGER_SECONDS = 2.0
_LOOK_SECONDS = 0.02
_CLOSE = (b"connection", b"close")


class Leaving:
    """Whether this process was told to end: no new traffic, please."""

    def __init__(self) -> None:
        self.told = False


class Server(uvicorn.Server):
    """Ends when told to and lets the caller close its clients; uvicorn's own would raise the
    signal once more as soon as it has stopped serving."""

    def __init__(self, app: ASGIApp, leaving: Leaving, *, drain_seconds: float = 0.0) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="on",
                log_config=None,
                # Who opens which page when is nobody's business but the person's.
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=HEADERS_AT_MOST,
                limit_concurrency=_CONNECTIONS,
                timeout_keep_alive=5,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )
        self._leaving = leaving
        self._drain_seconds = drain_seconds

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._leave)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _leave(self) -> None:
        if self._leaving.told or not self._drain_seconds:
            self.should_exit = True
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(self._drain_seconds, self._exit)
        self._leaving.told = True

    def _exit(self) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leaving.told = True
        for server in self.servers:
            server.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, _CLOSE]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LINGER_SECONDS
        while state.connections and loop.time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
        await super().shutdown(sockets)
