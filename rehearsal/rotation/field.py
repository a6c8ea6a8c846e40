"""Where rotations are rehearsed: platform, Jenkins, SIEM and consumers under constant traffic,
beside a real OpenBao; and what the world says afterwards."""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Self

import hvac.exceptions
import requests

from recovery.rotate import marker
from rehearsal.rotation.opening import INCIDENT, Door
from rehearsal.world.auth_log import AuthLog
from rehearsal.world.clock import WorldClock
from rehearsal.world.consumers import ConsumerFleet, ConsumerSpec, consumers_app
from rehearsal.world.jenkins_app import JenkinsState, jenkins_app
from rehearsal.world.openbao import OpenBao
from rehearsal.world.openbao_contents import VaultContents
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population, populate
from rehearsal.world.registry import RESTART_JOB
from rehearsal.world.serving import Loopback
from rehearsal.world.siem_app import Credential, SiemApp

CLIENTS = 14
INTERVAL = timedelta(milliseconds=400)
SAMPLE_SECONDS = 0.1
UNSEALED_WITHIN = 2000
"""So many samples long a sealed Vault is waited for before a secret counts as lost."""
SIEM_LAG = timedelta(milliseconds=30)


class Shop:
    """The CI job that restarts consumers, and what may go wrong in it."""

    def __init__(self, fleet: ConsumerFleet) -> None:
        self._fleet = fleet
        self.red: dict[str, int] = {}
        """Consumer -> how many of its builds still fail before they have done anything."""
        self.hung: set[str] = set()
        """Consumers whose next build hangs until it is let go, and restarts only then."""
        self.let_go = asyncio.Event()

    async def restart(self, parameters: Mapping[str, str]) -> None:
        name = parameters.get("CONSUMER", "")
        if self.red.get(name, 0) > 0:
            self.red[name] -= 1
            raise RuntimeError("the agent went away")
        if name in self.hung:
            self.hung.discard(name)
            await self.let_go.wait()
        await self._fleet.restart(parameters)


class Field:
    """One world made from a seed on a running OpenBao; everything in it is new. `async with`."""

    def __init__(
        self,
        bao: OpenBao,
        contents: VaultContents,
        folder: Path,
        *,
        seed: int,
        population: Population | None = None,
    ) -> None:
        self.bao = bao
        self.contents = contents
        self.population = population or populate(seed, accounts=20, members=5, clients=CLIENTS)
        for client in list(self.population.clients.values()):
            # One CI is enough here: what the others promise is held by their contract tests.
            consumers = tuple(replace(c, ci_job=RESTART_JOB) for c in client.consumers)
            self.population.clients[client.id] = replace(client, consumers=consumers)
        clock = WorldClock()
        self._keys = [secrets.token_urlsafe(24) for _ in range(4)]
        admin, siem_secret, self._jenkins_token, self._ledger_key = self._keys
        token = AdminToken(admin, per_second=10_000, concurrent=200)
        self.platform = PlatformState(
            self.population, clock, admin_tokens=[token], latency=timedelta(milliseconds=1)
        )
        self._siem_key = Credential("api_key", "recovery-reader", siem_secret)
        # Its template makes the index before the first event comes.
        first = {"@timestamp": clock.now().isoformat(), "event": {"action": "started"}}
        self.siem = SiemApp(clock.now, [first], credentials=[self._siem_key])
        self.platform.clients.listener = AuthLog(self.siem.append, clock.now, SIEM_LAG)
        self.jenkins = JenkinsState(
            user="recovery",
            api_token=self._jenkins_token,
            quiet_period=timedelta(milliseconds=5),
            executors=12,
        )
        self.ledger_url = f"sqlite:///{folder}/ledger.db"
        self.fleet: ConsumerFleet
        self.shop: Shop
        self.door: Door
        self.sampler: Sampler
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        enter = self._stack.enter_async_context
        specs = await asyncio.to_thread(self._fill_vault)
        platform = await enter(Loopback(platform_app(self.platform)))
        siem = await enter(Loopback(self.siem))
        jenkins = await enter(Loopback(jenkins_app(self.jenkins)))
        self._stack.push_async_callback(self.jenkins.aclose)
        self.fleet = ConsumerFleet(
            specs,
            platform_url=platform.url,
            vault_url=self.bao.address,
            interval=INTERVAL,
            start_time=timedelta(milliseconds=10),
            rolling=True,
        )
        self.shop = Shop(self.fleet)
        self._stack.callback(self.shop.let_go.set)
        consumers = await enter(Loopback(consumers_app(self.fleet)))
        self.platform.consumers_url = consumers.url
        self.jenkins.add_job(RESTART_JOB, self.shop.restart, {"CONSUMER": ""})
        await enter(self.fleet)
        self.sampler = await enter(Sampler(self))
        login = await asyncio.to_thread(self.contents.issue, "recovery-flows")
        self.door = Door(
            platform=platform.url,
            siem=siem.url,
            jenkins=jenkins.url,
            vault=self.bao.address,
            ledger=self.ledger_url,
            admin_token=self._keys[0],
            siem_key=self._siem_key.authorization.removeprefix("ApiKey "),
            jenkins_token=self._jenkins_token,
            role_id=login.role_id,
            secret_id=login.secret_id,
            ledger_key=self._ledger_key,
        )

    def _fill_vault(self) -> list[ConsumerSpec]:
        specs = []
        for client in self.population.clients.values():
            self.contents.remove_client(client.id)
            self.contents.put_client(
                client.id,
                client.secret_id,
                client.secret,
                owner=client.owner,
                consumers=[c.name for c in client.consumers],
                tries_both=[c.name for c in client.consumers if c.tries_both],
            )
            token = self.contents.consumer_token(client.id)
            specs += [
                ConsumerSpec(c.name, client.id, token, tries_both=c.tries_both)
                for c in client.consumers
            ]
        return specs

    async def some_traffic(self, rounds: int = 2) -> None:
        """Returns when every consumer has made some more rounds. RuntimeError after 20 s."""
        wanted = {consumer.name: consumer.requests + rounds for consumer in self.fleet}
        for _ in range(2000):
            if all(self.fleet[name].requests >= count for name, count in wanted.items()):
                return
            await asyncio.sleep(0.01)
        raise RuntimeError("the consumers have stopped")

    async def complaints(self) -> list[str]:
        """What is not as a finished rotation leaves it, in words; secrets by id alone."""
        found = [
            f"{c.name}: {c.failures} of {c.requests} requests failed ({c.trouble[-1].where})"
            for c in self.fleet
            if c.failures
        ]
        found += self.sampler.gaps
        for client_id, failures in self.platform.client_auth_failures().items():
            if failures:
                found.append(f"{client_id}: {failures} times a secret was tried that is dead")
        for seed in self.population.clients.values():
            found += await asyncio.to_thread(self.left_over, seed.id, seed.secret_id)
        return found

    def left_over(self, client_id: str, old_id: str) -> list[str]:
        """What of this client is not as after a rotation: in Vault, at the platform, in use."""
        held = self.platform.secrets_of(client_id)
        ids = [f"{s.id} {s.status.lower()}" for s in held]
        if len(held) != 1 or held[0].id == old_id or held[0].marker != marker(INCIDENT):
            return [f"{client_id}: the platform holds {', '.join(ids)}"]
        entry = self.contents.read(f"apps/{client_id}")
        entry.pop("note", None)
        if entry != {"client_secret": held[0].value, "secret_id": held[0].id}:
            labels = sorted(name for name in entry if name.endswith("secret_id"))
            return [f"{client_id}: Vault is not what the platform takes ({', '.join(labels)})"]
        return [
            f"{consumer.name}: runs on another secret"
            for consumer in self.fleet.of(client_id)
            if consumer.secret_id != held[0].id
        ]


class Sampler:
    """Tries the old secret and the one under CURRENT again and again: one of them has to be
    accepted at every moment. It asks the platform's book itself, where it leaves no trace."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self._task: asyncio.Task[None] | None = None
        self.samples = 0
        self.gaps: list[str] = []
        self._current: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._sample(), name="sampler")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _sample(self) -> None:
        while True:
            for seed in self._field.population.clients.values():
                if not await self._one_works(seed.id, seed.secret):
                    self.gaps.append(f"{seed.id}: neither the old nor the current secret worked")
                self.samples += 1
            await asyncio.sleep(SAMPLE_SECONDS)

    async def _one_works(self, client_id: str, old: str) -> bool:
        accepts = self._field.platform.clients.accepts
        # Twice: the label may have moved between the look at Vault and the one at the platform.
        looks = 0
        for _ in range(UNSEALED_WITHIN):
            if accepts(client_id, old) or accepts(client_id, self._current.get(client_id, old)):
                return True
            if looks == 2:
                return False
            looks += await asyncio.to_thread(self._look, client_id)
            await asyncio.sleep(SAMPLE_SECONDS)
        return False

    def _look(self, client_id: str) -> bool:
        """False where Vault is sealed: what stands under CURRENT can't be read then, and nobody
        moves it; it is judged by what is read once Vault answers again."""
        with suppress(hvac.exceptions.VaultError, requests.RequestException):
            entry = self._field.contents.read(f"apps/{client_id}")
            self._current[client_id] = entry["client_secret"]
            return True
        return False
