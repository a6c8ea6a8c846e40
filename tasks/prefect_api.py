"""Waiting for a Prefect server that is being started again. Prefect's own client retries only where
it has been connected before, so a call that opens a new one fails at once while the server is away.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import httpx
from prefect.client.orchestration import get_client

from recovery.errors import Unreachable

AWAY_FOR = timedelta(minutes=15)
"""So long a run waits for the server; then it ends, and a later run goes on."""
LOOK_EVERY = timedelta(seconds=1)
_BUSY = (429, 502, 503)

T = TypeVar("T")


async def server_answers(patience: timedelta = AWAY_FOR) -> None:
    """Returns as soon as the Prefect API answers. Unreachable where it does not in time."""
    give_up = time.monotonic() + patience.total_seconds()
    while True:
        async with get_client() as client:
            error = await client.api_healthcheck()
        if error is None:
            return
        if time.monotonic() > give_up:
            raise Unreachable(
                "Ask the Prefect server",
                expected="an answer",
                got=type(error).__name__,
                advice="Start the server, then start the run again: it goes on from here.",
            )
        await asyncio.sleep(LOOK_EVERY.total_seconds())


async def patiently(call: Callable[[], Awaitable[T]], patience: timedelta = AWAY_FOR) -> T:
    """What `call` returns. It is called again where the server was away or busy: so only for calls
    of which a second one does no harm."""
    give_up = time.monotonic() + patience.total_seconds()
    while True:
        try:
            return await call()
        except Exception as error:
            if not server_was_away(error) or time.monotonic() > give_up:
                raise
        await asyncio.sleep(LOOK_EVERY.total_seconds())
        await server_answers(patience)


def server_was_away(error: BaseException) -> bool:
    """True where the server could not be reached, or said that it is busy: the cause may lie deep,
    since Prefect wraps its client's errors."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return False
        if isinstance(seen, httpx.TransportError):
            return True
        if isinstance(seen, httpx.HTTPStatusError) and seen.response.status_code in _BUSY:
            return True
        seen = seen.__cause__ or seen.__context__
    return False
