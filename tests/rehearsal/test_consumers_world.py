"""The apps that run on client secrets: honest about an outage, and unharmed by a rotation that
follows `next_step` through the real Vault, the platform and a Jenkins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest

from clients.http import Wire
from clients.jenkins import JenkinsClient
from recovery.errors import Refused, Unverified
from recovery.rotate import Evidence, Move, Proof, Step, StepKind, marker, next_step
from rehearsal.world.consumers import ConsumerFleet, ConsumerSpec, TroubleKind, consumers_app
from rehearsal.world.faults import Status
from rehearsal.world.jenkins_app import JenkinsState, jenkins_app
from rehearsal.world.platform_clients import SecretStatus
from rehearsal.world.serving import Loopback

INTERVAL = timedelta(milliseconds=40)
MARKER = marker("INC-2026-0142")
LIMIT = 40


def specs_of(rotation: Any) -> list[ConsumerSpec]:
    return [
        ConsumerSpec(c.name, client.id, rotation.bao.contents.consumer_token(client.id))
        for client in rotation.clients
        for c in client.consumers
    ]


def fleet_of(rotation: Any, *extra: ConsumerSpec) -> ConsumerFleet:
    return ConsumerFleet(
        [*specs_of(rotation), *extra],
        platform_url=rotation.platform_url,
        vault_url=rotation.bao.address,
        interval=INTERVAL,
        start_time=timedelta(milliseconds=20),
    )


async def some_traffic(fleet: ConsumerFleet, rounds: int = 3) -> None:
    """Returns when every consumer has made some more rounds, or fails after five seconds."""
    wanted = {consumer.name: consumer.requests + rounds for consumer in fleet}
    for _ in range(500):
        if all(fleet[name].requests >= count for name, count in wanted.items()):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the consumers have stopped")


async def health(url: str, name: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/consumers/{name}/health") as answer,
    ):
        return answer.status, await answer.json()


# The world alone.


async def test_traffic_flows_and_health_is_told(rotation: Any) -> None:
    async with fleet_of(rotation) as fleet, Loopback(consumers_app(fleet)) as loopback:
        await some_traffic(fleet)
        assert fleet.failures == 0
        client = rotation.clients[0]
        name = client.consumers[0].name
        status, facts = await health(loopback.url, name)
        assert status == 200
        assert facts["status"] == "ok"
        assert facts["client_id"] == client.id
        assert facts["secret_id"] == client.secret_id
        assert facts["requests"] >= 3
        assert facts["failures"] == 0
        assert (await health(loopback.url, "nobody"))[0] == 404
    assert rotation.state.secrets_of(client.id)[0].last_used_at is not None


async def test_a_secret_retired_too_early_is_an_outage(rotation: Any) -> None:
    client = rotation.clients[0]
    name = client.consumers[0].name
    async with fleet_of(rotation) as fleet, Loopback(consumers_app(fleet)) as loopback:
        await rotation.courier.create(client.id, f"apps/{client.id}", MARKER)
        await rotation.platform.deactivate_secret(client.id, client.secret_id)
        await some_traffic(fleet)
        assert fleet[name].refused > 0
        assert fleet[name].trouble[-1].kind is TroubleKind.REFUSED
        assert all(c.failures == 0 for c in fleet if c.client_id != client.id)
        status, facts = await health(loopback.url, name)
        assert (status, facts["status"]) == (503, "down")
        assert facts["failures"] > 0
        with pytest.raises(RuntimeError, match="did not come up"):
            await fleet.restart({"CONSUMER": name})
        await rotation.vault.promote(f"apps/{client.id}", cas=2)
        await fleet.restart({"CONSUMER": name})
        failures = fleet[name].failures
        await some_traffic(fleet)
        assert fleet[name].failures == failures
        assert (await health(loopback.url, name))[0] == 200


async def test_a_consumer_that_starts_without_vault_stays_down(rotation: Any) -> None:
    name = rotation.clients[0].consumers[0].name
    async with fleet_of(rotation) as fleet, Loopback(consumers_app(fleet)) as loopback:
        rotation.bao.server.seal()
        try:
            await some_traffic(fleet)
            assert fleet.failures == 0, "those that run don't need Vault"
            with pytest.raises(RuntimeError, match="503"):
                await fleet.restart({"CONSUMER": name})
        finally:
            await asyncio.to_thread(rotation.bao.server.unseal)
        await some_traffic(fleet)
        assert fleet[name].trouble[-1].kind is TroubleKind.NO_SECRET
        assert (await health(loopback.url, name))[0] == 503
        await fleet.restart({"CONSUMER": name})
        assert (await health(loopback.url, name))[0] == 200


async def test_trouble_of_the_platform_is_not_taken_for_a_bad_secret(rotation: Any) -> None:
    async with fleet_of(rotation) as fleet:
        rotation.state.faults.inject(Status(503), "POST /oauth/token", times=3)
        await some_traffic(fleet)
        kinds = {trouble.kind for consumer in fleet for trouble in consumer.trouble}
    assert kinds == {TroubleKind.OTHER}


async def test_a_fleet_does_not_start_on_secrets_that_do_not_work(rotation: Any) -> None:
    client = rotation.clients[0]
    rotation.bao.contents.put(f"apps/{client.id}", {"client_secret": "wrong", "secret_id": "s"})
    fleet = fleet_of(rotation)
    with pytest.raises(RuntimeError, match="did not come up"):
        async with fleet:
            raise AssertionError("it came up")


# Rotations through real servers.


@dataclass(slots=True)
class Rotator:
    """Does what a rotation's tasks do, one step at a time."""

    rotation: Any
    fleet: ConsumerFleet
    jenkins: JenkinsClient
    client: Any
    evidence: Evidence
    moves: list[Move]

    @property
    def path(self) -> str:
        return f"apps/{self.client.id}"

    async def look(self) -> tuple[Step, Any]:
        observed = await self.rotation.courier.observe(self.client.id, self.path)
        running = {}
        for consumer in self.client.consumers:
            one = self.fleet[consumer.name]
            running[consumer.name] = None if await one.ill() else one.secret_id
        self.evidence = replace(self.evidence, running=running)
        return next_step(observed, marker=MARKER, evidence=self.evidence), observed

    async def run(self) -> Step:
        for _ in range(LIMIT):
            step, observed = await self.look()
            if step.final:
                return step
            self.moves.append(step.move)
            try:
                await self.act(step, observed)
            except (Refused, Unverified):
                failed = self.evidence.failed | {step.secret_id or ""}
                self.evidence = replace(self.evidence, failed=failed)
        raise AssertionError(f"no end: {self.moves}")

    async def act(self, step: Step, observed: Any) -> None:
        platform, vault = self.rotation.platform, self.rotation.vault
        cas, client_id, sid = observed.labels.version, self.client.id, step.secret_id
        match step.move:
            case Move.CREATE_SECRET:
                await self.rotation.courier.create(client_id, self.path, MARKER)
            case Move.PROMOTE:
                await self.rotation.courier.probe_pending(client_id, self.path)
                await vault.promote(self.path, cas=cas)
            case Move.RESTART:
                for name in step.consumers:
                    await self.jenkins.run("restart-consumer", {"CONSUMER": name})
            case Move.PROVE:
                old = next(
                    s for s in observed.secrets if s.secret_id == observed.labels.previous_id
                )
                await self.rotation.courier.probe(client_id, self.path)
                await some_traffic(self.fleet)
                self.evidence = replace(self.evidence, proof=Proof(sid or "", old.last_used_at))
            case Move.DEACTIVATE:
                await platform.deactivate_secret(client_id, sid)
            case Move.ACTIVATE:
                await platform.activate_secret(client_id, sid)
            case Move.DELETE:
                await platform.delete_secret(client_id, sid)
            case Move.DROP_PENDING:
                await vault.drop_pending(self.path, cas=cas)
            case Move.DROP_PREVIOUS:
                await vault.drop_previous(self.path, cas=cas)
            case Move.ROLL_BACK:
                await vault.roll_back(self.path, cas=cas)
            case Move.WATCH:
                await some_traffic(self.fleet)
                unwanted = self.evidence.unwanted | {sid or ""}
                self.evidence = replace(self.evidence, unwanted=unwanted)
            case Move.NONE | Move.ROTATE_IN_PLACE:
                raise AssertionError("a final step has no move")


@asynccontextmanager
async def rotating(rotation: Any, fleet: ConsumerFleet, client: Any) -> AsyncIterator[Rotator]:
    state = JenkinsState(user="recovery", api_token="t", quiet_period=timedelta(milliseconds=5))
    state.add_job("restart-consumer", fleet.restart, {"CONSUMER": ""})
    try:
        async with Loopback(jenkins_app(state)) as loopback:
            wire = Wire("Jenkins", loopback.url, auth=("recovery", "t"))
            async with JenkinsClient(wire, poll=timedelta(milliseconds=10)) as jenkins:
                yield Rotator(rotation, fleet, jenkins, client, Evidence(), [])
    finally:
        await state.aclose()


async def test_a_rotation_of_everything_without_one_failed_request(rotation: Any) -> None:
    async with fleet_of(rotation) as fleet:
        await some_traffic(fleet)
        for client in rotation.clients:
            async with rotating(rotation, fleet, client) as rotator:
                assert (await rotator.run()).kind is StepKind.DONE
        await some_traffic(fleet)
        assert fleet.failures == 0
        for client in rotation.clients:
            (left,) = rotation.state.secrets_of(client.id)
            assert left.marker == MARKER
            assert left.id != client.secret_id
            assert {c.secret_id for c in fleet.of(client.id)} == {left.id}
            assert rotation.bao.contents.read(f"apps/{client.id}") == {
                "client_secret": left.value,
                "secret_id": left.id,
            }
    assert set(rotation.state.client_auth_failures().values()) == {0}


async def test_a_consumer_that_does_not_come_up_is_brought_back(rotation: Any) -> None:
    client = rotation.clients[0]
    async with fleet_of(rotation) as fleet:
        canary = fleet[client.consumers[0].name]
        async with rotating(rotation, fleet, client) as rotator:
            while (step := (await rotator.look())[0]).move is not Move.RESTART:
                await rotator.act(step, (await rotator.look())[1])
            canary.broken = True
            step, observed = await rotator.look()
            with pytest.raises(Refused, match="console"):
                await rotator.act(step, observed)
            canary.broken = False
            rotator.evidence = replace(rotator.evidence, failed=frozenset({step.secret_id or ""}))
            end = await rotator.run()
        await some_traffic(fleet)
        assert end.kind is StepKind.ASK
        assert "did not work" in end.reason
        assert all(c.failures == 0 for c in fleet if c is not canary)
        (left,) = rotation.state.secrets_of(client.id)
        assert left.id == client.secret_id
        assert {c.secret_id for c in fleet.of(client.id)} == {client.secret_id}


async def test_a_forgotten_consumer_keeps_the_old_secret_alive(rotation: Any) -> None:
    """Nobody listed it, so nobody restarts it; its traffic shows in the secret's last use."""
    client = rotation.clients[0]
    token = rotation.bao.contents.consumer_token(client.id)
    forgotten = ConsumerSpec("in-a-cupboard", client.id, token)
    async with fleet_of(rotation, forgotten) as fleet:
        async with rotating(rotation, fleet, client) as rotator:
            end = await rotator.run()
        await some_traffic(fleet)
        assert end.kind is StepKind.ASK
        assert end.secret_id == client.secret_id
        assert "still uses PREVIOUS" in end.reason
        assert fleet.failures == 0
        statuses = {s.id: s.status for s in rotation.state.secrets_of(client.id)}
        assert statuses[client.secret_id] is SecretStatus.ACTIVE
