"""The secret's way from the platform to Vault, against the rehearsal's platform and a real
OpenBao: what is left behind when either of them fails half way."""

import asyncio
import logging
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from clients.courier import SecretCourier
from clients.vault import VaultClient
from recovery.errors import (
    Conflict,
    Misconfigured,
    NotFound,
    Unknown,
    Unreachable,
    Unverified,
)
from recovery.rotate import Evidence, Move, SecretLabels, marker, next_step
from rehearsal.world.faults import CloseAfter, Delay, Status
from rehearsal.world.platform_clients import SecretStatus

MARKER = marker("INC-2026-0142")


@pytest.fixture
def client(rotation: Any) -> Any:
    return rotation.clients[0]


@pytest.fixture
def path(client: Any) -> str:
    return f"apps/{client.id}"


def next_move(observed: Any) -> tuple[Move, str | None]:
    step = next_step(observed, marker=MARKER, evidence=Evidence())
    return step.move, step.secret_id


async def test_a_new_secret_stands_under_pending_and_works(
    rotation: Any, client: Any, path: str
) -> None:
    new = await rotation.courier.create(client.id, path, MARKER)
    observed = await rotation.courier.observe(client.id, path)
    assert observed.labels == SecretLabels(2, client.secret_id, new, None)
    assert {s.secret_id: (s.active, s.marker) for s in observed.secrets} == {
        client.secret_id: (True, None),
        new: (True, MARKER),
    }
    await rotation.courier.probe_pending(client.id, path)
    await rotation.courier.probe(client.id, path)
    assert rotation.state.client_auth_failures()[client.id] == 0
    assert next_move(observed) == (Move.PROMOTE, new)


async def test_the_value_is_nowhere_but_in_vault(
    rotation: Any, client: Any, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    new = await rotation.courier.create(client.id, path, MARKER)
    observed = await rotation.courier.observe(client.id, path)
    value = next(s.value for s in rotation.state.secrets_of(client.id) if s.id == new)
    stored = rotation.bao.contents.read(path)
    assert stored["pending_client_secret"] == value
    assert value not in repr(observed)
    assert value not in caplog.text
    assert client.secret not in caplog.text


async def test_a_sealed_vault_costs_nothing(rotation: Any, client: Any, path: str) -> None:
    await rotation.vault.check()
    rotation.bao.server.seal()
    try:
        with pytest.raises(Unreachable, match="unseal it"):
            await rotation.courier.create(client.id, path, MARKER)
    finally:
        await asyncio.to_thread(rotation.bao.server.unseal)
    assert [s.id for s in rotation.state.secrets_of(client.id)] == [client.secret_id]


async def test_who_loses_the_race_for_vault_takes_his_secret_away(
    rotation: Any, client: Any, path: str
) -> None:
    rotation.state.faults.inject(Delay(0.3), "POST /admin/clients/.*/secrets$")
    creating = asyncio.create_task(rotation.courier.create(client.id, path, MARKER))
    await asyncio.sleep(0.15)
    rotation.bao.contents.put(
        path, {"client_secret": client.secret, "secret_id": client.secret_id, "note": "edited"}
    )
    with pytest.raises(Conflict):
        await creating
    assert [s.id for s in rotation.state.secrets_of(client.id)] == [client.secret_id]
    assert rotation.state.all_effects()["secrets.create"] == 1
    assert await rotation.vault.observe(path) == SecretLabels(2, client.secret_id)


async def reader_only(rotation: Any, client: Any) -> SecretCourier:
    token = SecretStr(rotation.bao.contents.consumer_token(client.id))
    vault = VaultClient(rotation.bao.address, token=token)
    return SecretCourier(rotation.platform, vault, rotation.oauth)


async def test_vault_without_the_right_to_write(rotation: Any, client: Any, path: str) -> None:
    courier = await reader_only(rotation, client)
    with pytest.raises(Misconfigured, match="policy"):
        await courier.create(client.id, path, MARKER)
    assert [s.id for s in rotation.state.secrets_of(client.id)] == [client.secret_id]


async def test_what_could_not_be_taken_away_is_found_later(
    rotation: Any, client: Any, path: str
) -> None:
    courier = await reader_only(rotation, client)
    rotation.state.faults.inject(Status(403), "deactivate", times=None)
    with pytest.raises(Misconfigured, match="policy"):
        await courier.create(client.id, path, MARKER)
    rotation.state.faults.clear()
    observed = await rotation.courier.observe(client.id, path)
    orphan = next(s.secret_id for s in observed.secrets if s.marker == MARKER)
    assert next_move(observed) == (Move.DEACTIVATE, orphan)


async def test_a_lost_answer_is_unknown_and_its_secret_is_found_by_the_marker(
    rotation: Any, client: Any, path: str
) -> None:
    lost = rotation.state.faults.inject(CloseAfter(), "POST /admin/clients/.*/secrets$")
    with pytest.raises(Unknown):
        await rotation.courier.create(client.id, path, MARKER)
    assert lost.hits == 1
    assert rotation.state.all_effects()["secrets.create"] == 1, "never created twice"
    observed = await rotation.courier.observe(client.id, path)
    orphan = next(s.secret_id for s in observed.secrets if s.marker == MARKER)
    assert next_move(observed) == (Move.DEACTIVATE, orphan)
    await rotation.platform.deactivate_secret(client.id, orphan)
    observed = await rotation.courier.observe(client.id, path)
    assert next_move(observed) == (Move.DELETE, orphan)
    await rotation.platform.delete_secret(client.id, orphan)
    observed = await rotation.courier.observe(client.id, path)
    assert next_move(observed) == (Move.CREATE_SECRET, None)


async def test_a_cancelled_caller_does_not_stop_it_half_way(
    rotation: Any, client: Any, path: str
) -> None:
    rotation.state.faults.inject(Delay(0.1), "POST /admin/clients/.*/secrets$")
    creating = asyncio.create_task(rotation.courier.create(client.id, path, MARKER))
    await asyncio.sleep(0.05)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    for _ in range(200):
        labels = await rotation.vault.observe(path)
        if labels.pending_id is not None:
            break
        await asyncio.sleep(0.02)
    assert labels.pending_id in {s.id for s in rotation.state.secrets_of(client.id)}


async def test_an_unfinished_rotation_is_not_overwritten(
    rotation: Any, client: Any, path: str
) -> None:
    await rotation.courier.create(client.id, path, MARKER)
    before = rotation.state.secrets_of(client.id)
    with pytest.raises(Conflict, match="unfinished rotation"):
        await rotation.courier.create(client.id, path, MARKER)
    await rotation.vault.promote(path, cas=2)
    with pytest.raises(Conflict, match="unfinished rotation"):
        await rotation.courier.create(client.id, path, MARKER)
    assert rotation.state.secrets_of(client.id) == before


async def test_a_secret_that_the_platform_does_not_take(
    rotation: Any, client: Any, path: str
) -> None:
    rotation.bao.contents.put(path, {"client_secret": "mistyped", "secret_id": client.secret_id})
    with pytest.raises(Unverified, match="roll back") as caught:
        await rotation.courier.probe(client.id, path)
    assert "mistyped" not in str(caught.value)
    with pytest.raises(NotFound, match="PENDING"):
        await rotation.courier.probe_pending(client.id, path)


async def test_a_token_that_the_api_does_not_take(rotation: Any, client: Any, path: str) -> None:
    rotation.state.faults.inject(Status(401), "GET /api/me")
    with pytest.raises(Unverified, match="HTTP 401"):
        await rotation.courier.probe(client.id, path)
    await rotation.courier.probe(client.id, path)


async def test_a_client_that_vault_has_never_heard_of(rotation: Any, client: Any) -> None:
    observed = await rotation.courier.observe(client.id, f"apps/{client.id}-elsewhere")
    assert observed.labels == SecretLabels(0)
    assert [s.secret_id for s in observed.secrets] == [client.secret_id]
    seen = replace(observed, labels=SecretLabels(0))
    assert next_move(seen)[0] is Move.NONE, "its consumers read their secret somewhere else"


async def test_the_platform_side_of_last_use(rotation: Any, client: Any, path: str) -> None:
    """What tells a forgotten consumer: the old secret's last use moves on."""
    await rotation.courier.probe(client.id, path)
    first = (await rotation.courier.observe(client.id, path)).secrets[0].last_used_at
    await rotation.courier.probe(client.id, path)
    second = (await rotation.courier.observe(client.id, path)).secrets[0].last_used_at
    assert first is not None
    assert second is not None
    assert first < second
    assert rotation.state.secrets_of(client.id)[0].status is SecretStatus.ACTIVE
