"""The turnstile: counts, and holds one request before or after the server has acted."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from rehearsal.world.serving import Loopback
from rehearsal.world.turnstile import Turnstiles


class Shop:
    """A server that remembers what reached it."""

    def __init__(self) -> None:
        self.sold: list[str] = []

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        if scope["type"] != "http":
            return
        self.sold.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"sold"})


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Shop, Turnstiles, str]]:
    server, turnstiles = Shop(), Turnstiles(r"^shop POST ")
    async with Loopback(turnstiles.before("shop", server)) as loopback:
        yield server, turnstiles, loopback.url


async def post(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.post(url) as answer:
        return answer.status


async def test_it_counts_what_it_is_told_to(shop: tuple[Shop, Turnstiles, str]) -> None:
    server, turnstiles, url = shop
    async with aiohttp.ClientSession() as session, session.get(f"{url}/look"):
        pass
    assert await post(f"{url}/buy") == 200
    assert (turnstiles.passed, server.sold) == (1, ["/look", "/buy"])


@pytest.mark.parametrize(
    ("after", "lost", "sold_while_held", "sold_at_last", "status"),
    [(True, False, 1, 1, 200), (False, False, 0, 1, 200), (False, True, 0, 0, 503)],
    ids=["acted, not answered", "not there yet", "never gets there"],
)
async def test_it_holds_one_request_at_its_edge(
    shop: tuple[Shop, Turnstiles, str],
    after: bool,
    lost: bool,
    sold_while_held: int,
    sold_at_last: int,
    status: int,
) -> None:
    server, turnstiles, url = shop
    hold = turnstiles.hold("/buy$", after=after, skip=1)
    hold.lost = lost
    assert await post(f"{url}/buy") == 200
    held = asyncio.create_task(post(f"{url}/buy"))
    await asyncio.wait_for(hold.reached.wait(), 5)
    assert len(server.sold) == 1 + sold_while_held
    # Others pass by.
    assert await post(f"{url}/buy") == 200
    assert not held.done()
    hold.go.set()
    assert await held == status
    assert len(server.sold) == 2 + sold_at_last


async def test_what_is_forgotten_goes_on(shop: tuple[Shop, Turnstiles, str]) -> None:
    server, turnstiles, url = shop
    hold = turnstiles.hold("", after=False)
    held = asyncio.create_task(post(f"{url}/buy"))
    await asyncio.wait_for(hold.reached.wait(), 5)
    turnstiles.forget()
    assert await held == 200
    assert server.sold == ["/buy"]
