"""Health probes: not healthy is a value, whatever the reason."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from clients.health import HealthReport, probe_health
from clients.http import Timeouts, Wire
from recovery.errors import Misconfigured
from rehearsal.world.serving import Loopback

OK = {"status": "ok", "client_id": "app-1", "secret_id": "sec-2", "requests": 40, "failures": 1}
ANSWERS = {
    "ok": Response(json.dumps(OK), media_type="application/json"),
    "ill": Response(json.dumps({**OK, "status": "no token"}), 503, media_type="application/json"),
    "quiet": Response(json.dumps({"status": "ok"}), media_type="application/json"),
    "odd": Response(json.dumps(OK | {"status": "starting"}), media_type="application/json"),
    "text": Response("fine", media_type="text/plain"),
    "moved": Response(status_code=302, headers={"location": "https://login.example"}),
    "gateway": Response("bad gateway", 502, media_type="text/plain"),
}


async def answer(request: Request) -> Response:
    return ANSWERS.get(request.path_params["name"]) or Response(status_code=404)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async with Loopback(Starlette(routes=[Route("/{name}/health", answer)])) as loopback:
        yield loopback.url


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async def sleep(_: float) -> None:
        return

    async with Wire(
        "the consumers", None, timeout=Timeouts(read=timedelta(seconds=2)), sleep=sleep
    ) as made:
        yield made


async def test_a_healthy_consumer_tells_its_secret(server: str, wire: Wire) -> None:
    assert await probe_health(wire, f"{server}/ok/health") == HealthReport(True, "sec-2", 40, 1)
    assert await probe_health(wire, f"{server}/quiet/health") == HealthReport(True)


async def test_an_ill_consumer_still_tells_its_secret(server: str, wire: Wire) -> None:
    assert await probe_health(wire, f"{server}/ill/health") == HealthReport(False, "sec-2", 40, 1)
    assert not (await probe_health(wire, f"{server}/odd/health")).ok


@pytest.mark.parametrize("name", ["text", "gateway", "nobody"])
async def test_an_answer_that_says_nothing(server: str, wire: Wire, name: str) -> None:
    assert await probe_health(wire, f"{server}/{name}/health") == HealthReport(ok=False)


async def test_nobody_there(wire: Wire) -> None:
    gone = Loopback(Starlette())
    url = gone.url
    await gone.stop()
    assert await probe_health(wire, f"{url}/health") == HealthReport(ok=False)


async def test_a_login_page_is_our_mistake(server: str, wire: Wire) -> None:
    with pytest.raises(Misconfigured):
        await probe_health(wire, f"{server}/moved/health")
