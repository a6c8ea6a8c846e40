"""An outage on a real wire: requests wait for its end instead of failing one by one."""

import asyncio
import logging
from datetime import timedelta

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from clients.http import Wire
from recovery.breaker import BreakerRule
from recovery.errors import Outage, RecoveryError
from rehearsal.world.faults import CloseBefore, Faults, Status
from rehearsal.world.serving import Loopback
from tasks.breaker import Holding

RULE = BreakerRule(
    window=10,
    failures=6,
    probe=timedelta(milliseconds=100),
    longest=timedelta(seconds=20),
)


class OnlyBreaker:
    """A pace without a quota."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding

    async def __call__(self) -> None:
        await self._holding.admitted()

    def seen(self, answered: bool) -> None:
        self._holding.seen(answered)


async def test_nothing_fails_in_an_outage_that_ends(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    async def act(request: Request) -> JSONResponse:
        done.append(request.path_params["item"])
        return JSONResponse({})

    faults = Faults()
    app = faults.around(Starlette(routes=[Route("/{item}", act, methods=["POST"])]))
    gone = faults.inject(Status(503), "POST /", times=None)
    caplog.set_level(logging.WARNING, "recovery")
    async with Loopback(app) as server, Wire("it", server.url, pace=pace(RULE)) as wire:
        tasks = [asyncio.create_task(post(wire, n)) for n in range(40)]
        await asyncio.sleep(2.5)
        struck = gone.hits
        assert not any(task.done() for task in tasks)
        faults.clear()
        async with asyncio.timeout(30):
            assert await asyncio.gather(*tasks) == [None] * 40
    # 40 requests with four attempts each would have been 160.
    assert struck < 80
    assert sorted(map(int, done)) == list(range(40))
    said = [record.getMessage() for record in caplog.records]
    assert any("requests had no answer" in line for line in said)
    assert any("answers again after" in line for line in said)


async def test_an_outage_without_end_stops_the_run_and_names_the_next_step() -> None:
    faults = Faults()
    app = faults.around(Starlette())
    faults.inject(CloseBefore(), "POST /", times=None)
    short = BreakerRule(10, 3, timedelta(milliseconds=50), timedelta(seconds=1))
    async with Loopback(app) as server, Wire("it", server.url, pace=pace(short)) as wire:
        async with asyncio.timeout(30):
            outcomes = await asyncio.gather(
                *(post(wire, n) for n in range(5)), return_exceptions=True
            )
        assert all(isinstance(outcome, RecoveryError) for outcome in outcomes)
        with pytest.raises(Outage, match="Start the run again"):
            await post(wire, 6)


async def test_refusals_are_answers() -> None:
    async with Loopback(Starlette()) as server, Wire("it", server.url, pace=pace(RULE)) as wire:
        for number in range(30):
            with pytest.raises(RecoveryError) as caught:
                await post(wire, number)
            assert not isinstance(caught.value, Outage)


def pace(rule: BreakerRule) -> OnlyBreaker:
    return OnlyBreaker(Holding("it", rule))


async def post(wire: Wire, number: int) -> None:
    await wire.request("POST", f"/{number}", attempted="try", repeatable=True)
