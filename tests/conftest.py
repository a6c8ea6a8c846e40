"""Real servers that several tests share; each is started by the first test that asks for it."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import pytest
from hypothesis import settings
from pydantic import SecretStr

from clients.courier import SecretCourier
from clients.http import Wire
from clients.oauth import OAuthClient
from clients.platform import PlatformClient
from clients.vault import VaultClient
from rehearsal.world.clock import WorldClock
from rehearsal.world.openbao import OpenBao
from rehearsal.world.openbao_contents import VaultContents
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import populate
from rehearsal.world.registry import ClientSeed
from rehearsal.world.serving import Loopback

APPROVERS = ("maya", "jonas", "legal", "pr")
ADMIN_TOKEN = "admin-token-of-the-tests"


@dataclass(frozen=True, slots=True)
class Bao:
    """A running OpenBao with the rehearsal's policies, roles and approvers in it."""

    server: OpenBao
    contents: VaultContents

    @property
    def address(self) -> str:
        return self.server.address


# The same examples every time, so that a red run is about a change. To search for new ones:
# pytest --hypothesis-profile=search
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def bao() -> Iterator[Bao]:
    """One for the whole session: use paths of your own, and unseal what you seal."""
    with OpenBao() as server:
        contents = VaultContents(server)
        try:
            contents.set_up(APPROVERS)
            yield Bao(server, contents)
        finally:
            contents.close()


@dataclass(frozen=True, slots=True)
class LeasedPlatform:
    """A platform whose admin credentials the session's Vault leases."""

    state: PlatformState
    address: str
    bao: Bao


@pytest.fixture
async def leased_platform(bao: Bao) -> AsyncIterator[LeasedPlatform]:
    """A new platform in each test; what was leased from the one before is revoked first."""
    state = PlatformState(
        populate(Random().getrandbits(32), accounts=20, members=5, clients=3),
        WorldClock(),
        latency=timedelta(milliseconds=1),
    )
    password = secrets.token_urlsafe(18)
    state.broker.open_for("vault", password, per_second=5000, concurrent=100)
    async with Loopback(platform_app(state)) as loopback:
        connect = bao.contents.lease_platform
        await asyncio.to_thread(connect, loopback.url, "vault", password)
        yield LeasedPlatform(state, loopback.url, bao)
        await asyncio.to_thread(bao.contents.end_leases)


@dataclass(frozen=True, slots=True)
class RotationWorld:
    """A platform with three clients whose secrets stand in Vault, and our clients for both."""

    state: PlatformState
    platform_url: str
    bao: Bao
    vault: VaultClient
    platform: PlatformClient
    oauth: OAuthClient
    courier: SecretCourier

    @property
    def clients(self) -> list[ClientSeed]:
        return list(self.state.population.clients.values())


@pytest.fixture
async def rotation(bao: Bao) -> AsyncIterator[RotationWorld]:
    """Everything is new in each test; in the Vault of the session its clients are begun anew."""
    population = populate(Random().getrandbits(32), accounts=20, members=5, clients=3)
    admin = AdminToken(ADMIN_TOKEN, per_second=10_000, concurrent=100)
    state = PlatformState(
        population, WorldClock(), admin_tokens=[admin], latency=timedelta(milliseconds=1)
    )
    for client in population.clients.values():
        names = [consumer.name for consumer in client.consumers]
        bao.contents.remove_client(client.id)
        bao.contents.put_client(
            client.id, client.secret_id, client.secret, owner=client.owner, consumers=names
        )
    login = bao.contents.issue("recovery-flows")
    async with AsyncExitStack() as stack:
        loopback = await stack.enter_async_context(Loopback(platform_app(state)))
        vault = await stack.enter_async_context(
            VaultClient(bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id))
        )
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        platform = await stack.enter_async_context(
            PlatformClient(Wire("the platform", loopback.url, headers=headers))
        )
        oauth = await stack.enter_async_context(OAuthClient(Wire("OAuth", loopback.url)))
        courier = SecretCourier(platform, vault, oauth)
        yield RotationWorld(state, loopback.url, bao, vault, platform, oauth, courier)
