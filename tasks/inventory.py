"""Gathers what platform and secrets store know of the app clients, for `recovery.inventory`."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from recovery.app_clients import AppClient, ClientSecret, with_known_ci
from recovery.errors import Refused
from recovery.inventory import ROLLBACK_VERSIONS, InventoryRow, StoredEntry, merged, row
from tasks.case import Case

AT_ONCE = 8
Found = TypeVar("Found")


async def merged_clients(case: Case, ids: Collection[str] | None) -> list[AppClient]:
    """The platform's clients with what the store's metadata adds. Refused where the store keeps
    too few versions of an entry that would be rotated."""
    clients = [
        with_known_ci(client, case.ci.names) for client in await case.platform.app_clients(ids)
    ]
    entries = await stored_entries(case, [c.client_id for c in clients])
    short = [e.name for e in entries.values() if 0 < e.versions_kept < ROLLBACK_VERSIONS]
    if short:
        raise Refused(
            "Take the inventory of client secrets",
            code="max_versions",
            subject=", ".join(sorted(short)),
            expected=f"the secrets store to keep at least {ROLLBACK_VERSIONS} versions",
            got="fewer",
            advice="Raise max_versions of these entries: the way back would be pruned.",
        )
    return [merged(client, entries.get(client.client_id)) for client in clients]


async def stored_entries(case: Case, client_ids: Collection[str]) -> dict[str, StoredEntry]:
    """Client id -> metadata of its entry, where there is one. No value is read."""
    folder, wanted = _folder(case), set(client_ids)
    # Only Vault's metadata can be read: another store of client secrets has none of ours.
    elsewhere = case.client_secrets is not case.secrets
    if folder is None or not wanted or elsewhere:
        return {}
    names = await case.inventory.names(folder)
    there = sorted(wanted & set(names))
    found = await _each(there, lambda name: case.inventory.entry(f"{folder}/{name}"))
    return {entry.name: entry for entry in found if entry is not None}


async def secrets_of(case: Case, ids: Collection[str]) -> dict[str, list[ClientSecret]]:
    """Client id -> its secrets at the platform, never the values."""
    wanted = sorted(set(ids))
    found = await _each(wanted, case.platform.client_secrets)
    return dict(zip(wanted, found, strict=True))


async def rows_of(
    case: Case, clients: Collection[AppClient], approved: Collection[str]
) -> list[InventoryRow]:
    secrets = await secrets_of(case, [c.client_id for c in clients])
    stored = await stored_entries(case, [c.client_id for c in clients])
    return [
        row(
            client,
            secrets[client.client_id],
            path=case.policy.rotate.vault_path.format(client_id=client.client_id),
            stored=client.client_id in stored,
            approved=client.client_id in approved,
            now=case.ledger.now(),
        )
        for client in clients
    ]


def _folder(case: Case) -> str | None:
    """The folder of the entries, or None where the path is not a folder of clients."""
    folder, _, last = case.policy.rotate.vault_path.rpartition("/")
    return folder if last == "{client_id}" and "{" not in folder else None


async def _each(names: Sequence[str], look: Callable[[str], Awaitable[Found]]) -> list[Found]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> Found:
        async with limit:
            return await look(name)

    return await asyncio.gather(*(one(name) for name in names))
