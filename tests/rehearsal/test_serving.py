"""Loopback serves many apps in one loop and stops in bounded time; faults do what they say;
several processes share one clock."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from rehearsal.world.asgi import MAX_BODY, Reply, Request, RoutedApp, Routes
from rehearsal.world.clock import WorldClock
from rehearsal.world.faults import CloseAfter, CloseBefore, Delay, Faults, InvalidJson, Status
from rehearsal.world.serving import Loopback

ROOT = Path(__file__).resolve().parents[2]


class Counting:
    """An app whose one route counts what was done, whether or not the answer arrives."""

    def __init__(self) -> None:
        self.done = 0
        self.faults = Faults()
        routes = Routes()
        routes.add("POST", "/things/{}/do", self._do)
        routes.add("GET", "/slow", self._slow)
        self.app = self.faults.around(RoutedApp(routes))

    async def _do(self, request: Request, taken: tuple[str, ...]) -> Reply:
        request.json()
        self.done += 1
        return Reply(200, {"thing": taken[0], "done": self.done})

    async def _slow(self, _request: Request, _: tuple[str, ...]) -> Reply:
        await asyncio.sleep(30)
        return Reply(204)


async def test_many_apps_in_one_loop_and_their_ports() -> None:
    apps = [Counting() for _ in range(5)]
    servers = [Loopback(one.app) for one in apps]
    assert len({server.url for server in servers}) == 5
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for server in servers:
        await server.start()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    async with aiohttp.ClientSession() as http:
        for server in servers:
            async with http.post(f"{server.url}/things/a/do") as answer:
                assert await answer.json() == {"thing": "a", "done": 1}
        await asyncio.gather(*(server.stop() for server in servers))
        with pytest.raises(aiohttp.ClientError):
            await http.post(f"{servers[0].url}/things/a/do")
    again = Loopback(apps[0].app, port=servers[0].port)
    assert again.url == servers[0].url
    async with (
        again,
        aiohttp.ClientSession() as http,
        http.post(f"{again.url}/things/a/do") as answer,
    ):
        assert (await answer.json())["done"] == 2
    await again.stop()


async def test_stop_is_bounded_by_the_grace() -> None:
    server = Loopback(Counting().app, grace=timedelta(seconds=1))
    await server.start()
    async with aiohttp.ClientSession() as http:
        hanging = asyncio.create_task(http.get(f"{server.url}/slow"))
        await asyncio.sleep(0.1)
        begun = time.monotonic()
        await server.stop()
        assert time.monotonic() - begun < 3
        hanging.cancel()
        await asyncio.wait({hanging})


async def test_a_taken_port_is_refused_at_once() -> None:
    first = Loopback(Counting().app)
    with pytest.raises(OSError, match="in use"):
        Loopback(Counting().app, port=first.port)
    await first.stop()


async def test_answers_come_without_nagles_wait() -> None:
    """40 ms an answer would make every rehearsal look like a slow platform."""
    async with Loopback(Counting().app) as server, aiohttp.ClientSession() as http:
        begun = time.monotonic()
        for _ in range(25):
            async with http.post(f"{server.url}/things/a/do", json={}) as answer:
                await answer.read()
        assert time.monotonic() - begun < 0.5


async def test_routing_refusals() -> None:
    async with Loopback(Counting().app) as server, aiohttp.ClientSession() as http:
        async with http.get(f"{server.url}/things/a/do") as answer:
            assert answer.status == 405
            assert answer.headers["Allow"] == "POST"
        for path in ("/", "/things", "/things/a", "/things//do", "/nothing"):
            async with http.post(f"{server.url}{path}") as answer:
                assert answer.status == 404
                assert (await answer.json())["error"] == "not_found"
        for body in (b"{", b"[]", b'"x"', b"\xff"):
            async with http.post(f"{server.url}/things/a/do", data=body) as answer:
                assert answer.status == 400
        async with http.post(f"{server.url}/things/a/do", data=b" " * (MAX_BODY + 1)) as answer:
            assert answer.status == 413


async def test_each_fault_and_what_it_left_behind() -> None:
    world = Counting()
    async with Loopback(world.app) as server, aiohttp.ClientSession() as http:
        url = f"{server.url}/things/a/do"

        world.faults.inject(Status(503, retry_after="7"), "^POST /things/[^/]+/do$", times=2)
        for _ in range(2):
            async with http.post(url) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
        assert world.done == 0

        world.faults.inject(Status(429), "/do")
        async with http.post(url) as answer:
            assert answer.status == 429
            assert "Retry-After" not in answer.headers
        assert world.done == 0

        cut = world.faults.inject(CloseBefore(), "/do")
        with pytest.raises(aiohttp.ClientError):
            await http.post(url, json={"a": 1})
        assert (world.done, cut.hits) == (0, 1)

        world.faults.inject(CloseAfter(), "/do")
        with pytest.raises(aiohttp.ClientError):
            await http.post(url, json={"a": 1})
        assert world.done == 1

        world.faults.inject(InvalidJson(), "/do")
        async with http.post(url) as answer:
            assert answer.status == 200
            with pytest.raises(json.JSONDecodeError):
                await answer.json()
        assert world.done == 2

        world.faults.inject(Delay(0.2), "/do")
        world.faults.inject(Status(500), "/do")
        begun = time.monotonic()
        async with http.post(url) as answer:
            assert answer.status == 500
        assert time.monotonic() - begun >= 0.2

        world.faults.inject(Status(500), "/do", times=None)
        for _ in range(3):
            async with http.post(url) as answer:
                assert answer.status == 500
        world.faults.clear()
        async with http.post(url) as answer:
            assert answer.status == 200
        assert world.done == 3


async def test_a_fault_strikes_only_what_it_names() -> None:
    world = Counting()
    world.faults.inject(Status(500), "^GET ")
    async with (
        Loopback(world.app) as server,
        aiohttp.ClientSession() as http,
        http.post(f"{server.url}/things/a/do") as answer,
    ):
        assert answer.status == 200


def test_the_clock_moves_forward_only() -> None:
    clock = WorldClock()
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=1)
    clock.advance(timedelta(hours=3))
    assert abs(clock.now() - datetime.now(UTC) - timedelta(hours=3)) < timedelta(seconds=1)
    assert abs(clock.timestamp() - time.time() - 3 * 3600) < 1
    with pytest.raises(ValueError, match="forward"):
        clock.advance(timedelta(seconds=-1))


def test_processes_share_one_clock_and_lose_no_advance(tmp_path: Path) -> None:
    path = tmp_path / "offset"
    clock = WorldClock(path)
    assert clock.offset == timedelta(0)
    script = (
        "import sys; from pathlib import Path; from datetime import timedelta\n"
        "from rehearsal.world.clock import WorldClock\n"
        "clock = WorldClock(Path(sys.argv[1]))\n"
        "for _ in range(50): clock.advance(timedelta(minutes=1))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT) for _ in range(2)
    ]
    for _ in range(20):
        clock.advance(timedelta(minutes=1))
    for child in running:
        assert child.wait(timeout=30) == 0
    assert clock.offset == timedelta(minutes=120)
    assert WorldClock(path).offset == timedelta(minutes=120)
    assert float(path.read_text()) == 7200.0
