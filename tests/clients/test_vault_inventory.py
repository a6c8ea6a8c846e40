"""What Vault tells of entries beside their values, to the flows' own policy, by a real OpenBao."""

from typing import Any

import pytest
from pydantic import SecretStr

from clients.vault import VaultClient
from recovery.errors import Misconfigured, Unreachable


async def test_owner_consumers_and_versions_of_an_entry(rotation: Any) -> None:
    client = rotation.clients[0]
    inventory = rotation.vault.inventory()
    assert {c.id for c in rotation.clients} <= set(await inventory.names("apps"))
    entry = await inventory.entry(f"apps/{client.id}")
    assert entry is not None
    assert (entry.name, entry.owner) == (client.id, client.owner)
    assert entry.consumers == tuple(c.name for c in client.consumers)
    assert entry.tries_both == frozenset()
    assert entry.versions_kept == 0, "the engine's default"
    assert entry.created_at <= entry.updated_at
    assert client.secret not in repr(entry)


async def test_what_is_not_there(rotation: Any) -> None:
    inventory = rotation.vault.inventory()
    assert await inventory.entry("apps/app-nobody") is None
    with pytest.raises(Misconfigured):
        await inventory.names("app-tokens")
    with pytest.raises(Misconfigured):
        await inventory.entry("../sys/mounts")


async def test_a_consumers_own_token_may_not_look(rotation: Any) -> None:
    client = rotation.clients[0]
    token = SecretStr(rotation.bao.contents.consumer_token(client.id))
    async with VaultClient(rotation.bao.address, token=token) as vault:
        with pytest.raises(Misconfigured):
            await vault.inventory().names("apps")


async def test_a_sealed_vault_tells_nothing(rotation: Any) -> None:
    inventory = rotation.vault.inventory()
    rotation.bao.server.seal()
    try:
        with pytest.raises(Unreachable):
            await inventory.names("apps")
    finally:
        rotation.bao.server.unseal()
