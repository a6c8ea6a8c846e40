"""One portal world per test; the population is made once."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rehearsal.world.population import Population, populate
from tests.ledger.conftest import PostgreSQL, postgresql
from tests.portal.world import PortalWorld

__all__ = ["PostgreSQL", "postgresql"]

MakeWorld = Callable[..., Awaitable[PortalWorld]]


@pytest.fixture(scope="session")
def population() -> Population:
    return populate(7, accounts=40, members=5)


def clean(population: Population) -> list[str]:
    dirt = population.dirt
    bad = {
        *dirt.malformed_email,
        *dirt.malformed_phone,
        *dirt.no_email,
        *dirt.no_phone,
        *dirt.shared_mailbox,
        *dirt.opted_out,
    }
    return [one for one in population.affected_ids if one not in bad]


@pytest.fixture
def clean_ids(population: Population) -> list[str]:
    """Affected accounts with a good address and a good number of their own."""
    return clean(population)


@pytest.fixture
async def make_world(population: Population, tmp_path: Path) -> AsyncIterator[MakeWorld]:
    async with AsyncExitStack() as stack:

        async def make(**overrides: Any) -> PortalWorld:
            return await stack.enter_async_context(PortalWorld(population, tmp_path, overrides))

        yield make


@pytest.fixture
async def world(make_world: MakeWorld, clean_ids: list[str]) -> PortalWorld:
    world = await make_world()
    world.contain(clean_ids[:4])
    return world


@pytest.fixture
def person(clean_ids: list[str]) -> str:
    """The account most tests are about."""
    return clean_ids[0]


@pytest.fixture
def other(clean_ids: list[str]) -> str:
    return clean_ids[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    population: Population, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PortalWorld]:
    """One for a module whose tests leave each other alone."""
    world = PortalWorld(population, tmp_path_factory.mktemp("shared"))
    async with world:
        world.contain(clean(population)[:4])
        yield world
