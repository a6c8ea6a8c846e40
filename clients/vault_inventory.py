"""What Vault knows of KV v2 entries beside their values: names, owners, consumers, versions kept.

Vault's API page "KV secrets engine - version 2", paths `metadata/`: the policy needs `list` on the
folder's and `read` on the entries' metadata, and no right to a value.
"""

from datetime import datetime
from typing import Any

import hvac

from clients.vault_answers import safe
from clients.vault_calls import VaultCalls
from recovery.errors import NotFound
from recovery.inventory import StoredEntry


class VaultInventory:
    """Reads metadata by somebody else's login, and closes nothing."""

    def __init__(self, calls: VaultCalls, mount: str) -> None:
        self._calls = calls
        self._mount = mount

    async def names(self, folder: str) -> list[str]:
        """The entries right below the folder, without its subfolders; empty where it is not."""

        def listed(vault: hvac.Client) -> list[str]:
            answer = vault.secrets.kv.v2.list_secrets(folder, mount_point=self._mount)
            return [name for name in answer["data"]["keys"] if not name.endswith("/")]

        try:
            return await self._calls.run(
                listed,
                attempted="List entries in Vault",
                subject=f"{self._mount}/{safe(folder)}",
                repeatable=True,
            )
        except NotFound:
            return []

    async def entry(self, path: str) -> StoredEntry | None:
        """None where nothing was ever written there."""

        def read(vault: hvac.Client) -> StoredEntry:
            data = vault.secrets.kv.v2.read_secret_metadata(path, mount_point=self._mount)["data"]
            told: dict[str, str] = data.get("custom_metadata") or {}
            return StoredEntry(
                path=path,
                name=path.rpartition("/")[2],
                owner=told.get("owner", ""),
                consumers=_names(told.get("consumers")),
                tries_both=frozenset(_names(told.get("tries_both"))),
                created_at=_moment(data["created_time"]),
                updated_at=_moment(data["updated_time"]),
                versions_kept=int(data["max_versions"]),
            )

        try:
            return await self._calls.run(
                read,
                attempted="Read an entry's metadata in Vault",
                subject=f"{self._mount}/{safe(path)}",
                repeatable=True,
            )
        except NotFound:
            return None


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _moment(text: Any) -> datetime:
    """Vault writes nanoseconds, of which Python takes six digits."""
    return datetime.fromisoformat(str(text))
