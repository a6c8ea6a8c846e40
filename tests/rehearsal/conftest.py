"""The platform that several tests of the world share; each test gets a fresh one."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from rehearsal.world.clock import WorldClock
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken, Scope
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.serving import Loopback
from tests.rehearsal.platform_world import ADMIN, BIND, World


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(7, accounts=24, members=12, clients=4)


@pytest.fixture
async def world(population: Population) -> AsyncIterator[World]:
    clock = WorldClock()
    tokens = [
        AdminToken(ADMIN, per_second=2000, concurrent=50),
        AdminToken(BIND, scopes=frozenset({Scope.BIND})),
    ]
    state = PlatformState(
        population, clock, admin_tokens=tokens, consumers_url="http://127.0.0.1:9/"
    )
    async with Loopback(platform_app(state)) as server, aiohttp.ClientSession() as http:
        yield World(population, state, clock, server.url, http)
