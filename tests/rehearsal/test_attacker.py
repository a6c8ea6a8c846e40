"""The attacker keeps what he stole alive as long as the platform lets him, and sees it die."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import pytest

from rehearsal.world.attacker import Attacker
from rehearsal.world.clock import WorldClock
from rehearsal.world.credentials import CredentialKind
from rehearsal.world.faults import Status
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.serving import Loopback

CONTAINMENT = (
    ("DELETE", "refresh-tokens"),
    ("DELETE", "sessions"),
    ("DELETE", "device-sessions"),
    ("DELETE", "grants"),
    ("DELETE", "recovery-tokens"),
    ("POST", "password-reset"),
)


@dataclass(frozen=True)
class Scene:
    population: Population
    state: PlatformState
    clock: WorldClock
    url: str

    async def contain(self, *, leaving_out: str = "") -> None:
        """As an administrator over HTTP."""
        headers = {"Authorization": "Bearer adm"}
        async with aiohttp.ClientSession(self.url, headers=headers) as http:
            for account_id in self.population.affected_ids:
                for method, path in CONTAINMENT:
                    if path == leaving_out:
                        continue
                    async with http.request(
                        method, f"/admin/accounts/{account_id}/{path}", json={"notify": False}
                    ) as answer:
                        assert answer.status in (200, 204)


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(5, accounts=25, members=5, clients=3)


@pytest.fixture
async def scene(population: Population) -> AsyncIterator[Scene]:
    clock = WorldClock()
    state = PlatformState(
        population,
        clock,
        admin_tokens=[AdminToken("adm", per_second=5000)],
        latency=timedelta(0),
    )
    async with Loopback(platform_app(state)) as server:
        yield Scene(population, state, clock, server.url)


async def test_everything_works_before_and_nothing_after_containment(scene: Scene) -> None:
    loot = scene.population.loot
    attacker = Attacker(scene.url, loot, scene.clock, rate_per_second=400)
    async with attacker:
        await asyncio.sleep(1.0)
        assert {kind for kind in CredentialKind if attacker.acceptances[kind]} == set(
            CredentialKind
        )
        gained = set(attacker.held()) - set(loot.items)
        assert {c.kind for c in gained} == {
            CredentialKind.ACCESS_TOKEN,
            CredentialKind.REFRESH_TOKEN,
            CredentialKind.SESSION,
        }
        await scene.contain()
        contained_at = scene.clock.now()
        await asyncio.sleep(0.6)
        last = attacker.last_accepted_at()
        assert last is not None
        assert last <= contained_at + timedelta(milliseconds=50), "an answer under way at most"
        assert await attacker.still_alive() == []
    assert scene.state.live_stolen(attacker.held()) == []
    assert attacker.last_accepted_at() == max(attacker.accepted().values())
    for kind in CredentialKind:
        assert attacker.last_accepted_at(kind) is not None, kind


@pytest.mark.parametrize(
    ("forgotten", "kinds"),
    [
        ("sessions", {CredentialKind.SESSION}),
        ("device-sessions", {CredentialKind.DEVICE_SESSION}),
        ("recovery-tokens", {CredentialKind.RECOVERY_TOKEN}),
        ("password-reset", {CredentialKind.PASSWORD}),
        ("refresh-tokens", {CredentialKind.REFRESH_TOKEN, CredentialKind.ACCESS_TOKEN}),
    ],
)
async def test_one_forgotten_kind_is_noticed(
    scene: Scene, forgotten: str, kinds: set[CredentialKind]
) -> None:
    attacker = Attacker(scene.url, scene.population.loot, scene.clock, rate_per_second=500)
    async with attacker:
        await asyncio.sleep(0.7)
    await scene.contain(leaving_out=forgotten)
    truth = set(scene.state.live_stolen(attacker.held()))
    alive = await attacker.still_alive()
    assert {c.kind for c in alive} == kinds
    assert set(alive) == truth, "what he finds over the wire is what is true"


async def test_access_tokens_alone_do_not_outlive_their_refresh_tokens(scene: Scene) -> None:
    """Whoever revokes access tokens only sees the attacker fetch new ones."""
    refresh = scene.population.loot.of(CredentialKind.REFRESH_TOKEN)
    attacker = Attacker(scene.url, refresh, scene.clock, rate_per_second=300)
    async with attacker:
        await asyncio.sleep(0.4)
        scene.clock.advance(timedelta(seconds=301))
        await asyncio.sleep(0.4)
        alive = await attacker.still_alive()
    kinds = {c.kind for c in alive}
    assert kinds == {CredentialKind.REFRESH_TOKEN, CredentialKind.ACCESS_TOKEN}


async def test_he_keeps_his_rate_and_stops_cleanly(scene: Scene) -> None:
    attacker = Attacker(scene.url, scene.population.loot, scene.clock, rate_per_second=100)
    await attacker.start()
    await asyncio.sleep(1.0)
    before = asyncio.all_tasks()
    begun = time.monotonic()
    await attacker.stop()
    assert time.monotonic() - begun < 1
    tried = attacker.attempts.total()
    assert 60 <= tried <= 110
    assert len(asyncio.all_tasks()) < len(before)
    await asyncio.sleep(0.1)
    assert attacker.attempts.total() == tried
    await attacker.stop()


async def test_he_ends_by_himself_after_his_longest_time(scene: Scene) -> None:
    attacker = Attacker(
        scene.url,
        scene.population.loot,
        scene.clock,
        rate_per_second=200,
        longest=timedelta(seconds=0.3),
    )
    async with attacker:
        await asyncio.sleep(0.8)
        tried = attacker.attempts.total()
        await asyncio.sleep(0.2)
        assert attacker.attempts.total() == tried <= 70


async def test_he_spaces_his_logins(scene: Scene) -> None:
    passwords = scene.population.loot.of(CredentialKind.PASSWORD)
    async with Attacker(scene.url, passwords, scene.clock, rate_per_second=300) as attacker:
        await asyncio.sleep(0.5)
    assert attacker.attempts[CredentialKind.PASSWORD] == len(passwords)
    assert attacker.unclear == 0


async def test_a_platform_that_is_down_proves_nothing(scene: Scene) -> None:
    some = scene.population.loot.of(CredentialKind.SESSION)[:2]
    attacker = Attacker(scene.url, some, scene.clock)
    scene.state.faults.inject(Status(503), "/api/me", times=3)
    assert set(await attacker.still_alive()) == set(some), "asked again until it answered"
    scene.state.faults.inject(Status(503), "/api/me", times=None)
    with pytest.raises(RuntimeError, match="no decision on 2 credentials"):
        await attacker.still_alive()
    gone = Attacker("http://127.0.0.1:9", some, scene.clock)
    with pytest.raises(RuntimeError, match="no decision"):
        await gone.still_alive()


async def test_a_dry_run_is_not_blurred_by_him(scene: Scene) -> None:
    before = scene.state.snapshot_digest()
    async with Attacker(
        scene.url, scene.population.loot, scene.clock, rate_per_second=500
    ) as attacker:
        await asyncio.sleep(0.6)
    assert attacker.acceptances.total() > 100
    assert scene.state.snapshot_digest() == before
