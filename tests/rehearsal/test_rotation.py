"""Rotations of 14 clients under constant traffic, judged by the world: undisturbed, with each kind
of fault, and where the platform holds one secret. The long form: `python -m rehearsal.rotation`."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from recovery.app_clients import Lift
from recovery.rotate import Move, StepKind
from rehearsal.rotation.faults import STEPS, Kind, Plan, draw
from rehearsal.rotation.field import CLIENTS, Field
from rehearsal.rotation.opening import INCIDENT, opened
from rehearsal.rotation.trial import trial
from rehearsal.rotation.turn import turn
from rehearsal.world.consumers import TroubleKind
from rehearsal.world.faults import CloseAfter
from rehearsal.world.population import Population, populate
from rehearsal.world.registry import ClientSeed
from tasks import rotate as tasks

SEED = 7


def test_a_seed_draws_one_fault_and_every_fault_at_every_step_can_be_drawn() -> None:
    clients = populate(SEED, accounts=20, members=5, clients=CLIENTS).clients
    assert draw(Random(3), clients) == draw(Random(3), clients)
    drawn = {
        (plan.kind, plan.move, plan.moment)
        for plan in (draw(Random(seed), clients) for seed in range(2000))
    }
    assert drawn == {(kind, *step) for kind, steps in STEPS.items() for step in steps}


async def test_an_undisturbed_rotation_fails_no_request(bao: Any, tmp_path: Path) -> None:
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED) as field:
        async with opened(field.door) as case:
            results = await turn(case)
            assert [r.state for r in results] == [StepKind.DONE] * CLIENTS
            rows = await tasks.inventory.fn(case)
            assert {r.plan for r in rows} == {"rotate"}
            case.ledger.verify_audit()
            assert case.ledger.unsettled(INCIDENT) == []
        await field.some_traffic()
        assert await field.complaints() == []
        assert field.fleet.requests > 100
        assert field.sampler.samples > CLIENTS
        # The consumers' traffic is in the SIEM, and nobody was refused.
        assert field.siem.searchable > field.fleet.requests


@pytest.mark.long
@pytest.mark.parametrize("kind", Kind)
async def test_a_fault_is_recovered_by_one_more_run(bao: Any, kind: Kind) -> None:
    """Zero failed requests, old or new valid at every moment, no orphan, nothing left open."""
    verdict = await trial(bao.server, bao.contents, SEED + list(Kind).index(kind), kind)
    assert verdict.complaints == (), f"{verdict.plan}: {verdict.first}"
    assert verdict.requests > 100


async def test_a_process_killed_between_platform_and_vault(bao: Any) -> None:
    """The one moment at which a secret exists that nobody has: found by its marker."""
    client_id = sorted(populate(SEED, accounts=20, members=5, clients=CLIENTS).clients)[0]
    plan = Plan(Kind.KILLED, client_id, Move.CREATE_SECRET, "middle", 0)
    verdict = await trial(bao.server, bao.contents, SEED, plan)
    assert verdict.complaints == ()
    assert verdict.first == "child ended with -9"


# Clients that need a word of a person.


def peopled(change: Callable[[ClientSeed], ClientSeed], count: int = 3) -> Population:
    """A few clients, the first of them changed."""
    population = populate(SEED, accounts=20, members=5, clients=count)
    first = next(iter(population.clients.values()))
    population.clients[first.id] = change(first)
    return population


def one_secret(prepared: bool) -> Callable[[ClientSeed], ClientSeed]:
    def change(seed: ClientSeed) -> ClientSeed:
        consumers = tuple(replace(c, tries_both=prepared) for c in seed.consumers)
        return replace(seed, max_secrets=1, consumers=consumers)

    return change


async def approved_turn(field: Field, lift: Lift) -> tuple[str, dict[str, int]]:
    """The first run leaves the client alone; after the approval the second one rotates it."""
    async with opened(field.door) as case:
        await turn(case)
        (client,) = await tasks.waiting_for(case, lift)
        seed = field.population.clients[client.client_id]
        assert [s.id for s in field.platform.secrets_of(seed.id)] == [seed.secret_id]
        rows = {r.client_id: r.plan for r in await tasks.inventory.fn(case)}
        assert f"approval {lift}" in rows[seed.id]
        await tasks.approve(case, [client], yes=True)
        assert await tasks.waiting_for(case, lift) == []
        assert [list(wave) for wave in await tasks.lifted_waves(case)] == [[seed.id]]
        results = await turn(case)
        assert {r.state for r in results} == {StepKind.DONE}
        return seed.id, await tasks.gaps(case)


async def test_prepared_consumers_feel_no_gap_where_a_secret_is_replaced(
    bao: Any, tmp_path: Path
) -> None:
    population = peopled(one_secret(prepared=True))
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        _, gaps = await approved_turn(field, Lift.GAP)
        await field.some_traffic()
        assert [(c.name, *c.trouble) for c in field.fleet if c.failures] == []
        assert gaps == {}
        assert field.left_over(*_ids(field)) == []


async def test_the_gap_of_others_is_measured_and_told(bao: Any, tmp_path: Path) -> None:
    population = peopled(one_secret(prepared=False))
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        client_id, gaps = await approved_turn(field, Lift.GAP)
        await field.some_traffic()
        assert set(gaps) == {client_id}
        hit = field.fleet.of(client_id)
        troubles = [t for consumer in hit for t in consumer.trouble]
        assert {t.kind for t in troubles} <= {TroubleKind.REFUSED}
        felt = max((t.at for t in troubles), default=0) - min((t.at for t in troubles), default=0)
        assert felt * 1000 <= gaps[client_id]
        assert all(c.failures == 0 for c in field.fleet if c.client_id != client_id)
        before = field.fleet.failures
        await field.some_traffic()
        assert field.fleet.failures == before
        assert field.left_over(*_ids(field)) == []


async def test_a_lost_answer_in_place_is_rotated_once_more(bao: Any, tmp_path: Path) -> None:
    """Nobody has the value, so nobody loses anything; who is prepared waits it out."""
    population = peopled(one_secret(prepared=True))
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        lost = field.platform.faults.inject(CloseAfter(), "POST .*/rotate-secret$")
        await approved_turn(field, Lift.GAP)
        assert lost.hits == 1
        await field.some_traffic()
        assert [(c.name, *c.trouble) for c in field.fleet if c.failures] == []


async def test_a_client_that_nobody_is_known_to_use(bao: Any, tmp_path: Path) -> None:
    population = peopled(lambda seed: replace(seed, consumers=()))
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        await approved_turn(field, Lift.UNKNOWN)
        assert field.left_over(*_ids(field)) == []


async def test_a_rejection_leaves_the_client_to_a_person(bao: Any, tmp_path: Path) -> None:
    population = peopled(lambda seed: replace(seed, consumers=()))
    async with (
        Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field,
        opened(field.door) as case,
    ):
        await turn(case)
        clients = await tasks.waiting_for(case, Lift.UNKNOWN)
        await tasks.approve(case, clients, yes=False)
        assert await tasks.waiting_for(case, Lift.UNKNOWN) == []
        assert await tasks.lifted_waves(case) == []


async def test_a_platform_that_can_only_delete(bao: Any, tmp_path: Path) -> None:
    population = peopled(lambda seed: replace(seed, deactivates=False))
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        async with opened(field.door) as case:
            assert {r.state for r in await turn(case)} == {StepKind.DONE}
        await field.some_traffic()
        assert await field.complaints() == []


async def test_who_is_refused_after_the_deactivation_gets_the_old_secret_back(
    bao: Any, tmp_path: Path
) -> None:
    """Somebody in a cupboard comes only when the old secret is off; the SIEM shows him."""
    population = peopled(lambda seed: seed)
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        client_id, old_id = _ids(field)
        old = field.population.clients[client_id].secret
        stop = asyncio.Event()

        async def cupboard() -> None:
            book = field.platform.clients
            while not stop.is_set():
                if not book.accepts(client_id, old):
                    book.authenticate(client_id, old)
                await asyncio.sleep(0.03)

        visitor = asyncio.create_task(cupboard())
        try:
            async with opened(field.door) as case:
                results = {r.client_id: r for r in await turn(case)}
        finally:
            stop.set()
            await visitor
        assert results[client_id].state is StepKind.ASK
        assert "still uses PREVIOUS" in results[client_id].reason
        held = {s.id: s.status.value for s in field.platform.secrets_of(client_id)}
        assert held[old_id] == "ACTIVE"
        assert [(c.name, *c.trouble) for c in field.fleet if c.failures] == []


async def test_refusals_in_the_siem_roll_a_new_secret_back(bao: Any, tmp_path: Path) -> None:
    """A consumer that the platform does not list fails from the promotion on."""
    population = peopled(lambda seed: seed)
    async with Field(bao.server, bao.contents, tmp_path, seed=SEED, population=population) as field:
        client_id, old_id = _ids(field)
        stop = asyncio.Event()

        async def broken() -> None:
            while not stop.is_set():
                if len(field.platform.secrets_of(client_id)) > 1:
                    field.platform.clients.authenticate(client_id, "mistyped")
                await asyncio.sleep(0.02)

        visitor = asyncio.create_task(broken())
        try:
            async with opened(field.door) as case:
                results = {r.client_id: r for r in await turn(case)}
        finally:
            stop.set()
            await visitor
        assert results[client_id].state is StepKind.ASK
        assert [s.id for s in field.platform.secrets_of(client_id)] == [old_id]
        assert {c.secret_id for c in field.fleet.of(client_id)} == {old_id}
        assert [(c.name, *c.trouble) for c in field.fleet if c.failures] == []


def _ids(field: Field) -> tuple[str, str]:
    first = next(iter(field.population.clients.values()))
    return first.id, first.secret_id
