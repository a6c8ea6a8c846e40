"""HashiCorp Vault and OpenBao: one client for client secrets (KV v2), codes, signatures, leases.

KV v2 with check-and-set is here (vendor's API page "KV secrets engine version 2"), the other
engines are beside. The value of a secret leaves as SecretStr; ids and versions may be logged.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

import hvac
from pydantic import SecretStr

from clients import vault_labels
from clients.vault_answers import deleted_version, safe
from clients.vault_calls import ATTEMPTS, Sleep, VaultCalls
from clients.vault_engines import VaultEngines
from clients.vault_inventory import VaultInventory
from clients.vault_labels import Entry
from clients.vault_leases import VaultLeases
from clients.vault_login import AppRole, Door, TokenFile
from recovery.app_clients import SecretLabels, StoreVersion
from recovery.errors import (
    Conflict,
    Misconfigured,
    NotFound,
    RateLimited,
    Unknown,
    Unreachable,
)

DEFAULT_MAX_VERSIONS = 10
"""What KV v2 keeps where neither the path nor the mount says otherwise."""
KEPT_VERSIONS = 6
"""A rotation and its rollback write five versions at most; with six the one before all of them,
which a person may want back, is still there at the end."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One version of a KV entry."""

    version: int
    data: Mapping[str, SecretStr] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Version:
    """As it stands in Vault. A deleted or destroyed version counts for check-and-set and has no
    entry; version 0 was never written."""

    number: int
    entry: Entry | None = field(repr=False)


class VaultClient(VaultEngines, VaultLeases):
    """One login to one Vault. Nothing is asked before the first use; close it when done.

    Reads and check-and-set writes are tried again where an answer was lost; others raise Unknown.
    """

    def __init__(
        self,
        address: str,
        *,
        role_id: str | None = None,
        secret_id: SecretStr | None = None,
        token: SecretStr | None = None,
        token_file: TokenFile | None = None,
        mount: str = "secret",
        totp_mount: str = "totp",
        transit_mount: str = "transit",
        namespace: str | None = None,
        ca_file: str | None = None,
        client_cert: tuple[str, str | None] | None = None,
        timeout: timedelta = timedelta(seconds=30),
        allow_cleartext: bool = False,
        sleep: Sleep = asyncio.sleep,
        jitter: random.Random | None = None,
    ) -> None:
        way: AppRole | TokenFile | None = token_file
        if role_id is not None and secret_id is not None:
            way = None if token_file else AppRole(role_id, secret_id)
        door = Door(
            address,
            way=way,
            token=token,
            namespace=namespace,
            ca_file=ca_file,
            client_cert=client_cert,
            timeout=timeout,
            allow_cleartext=allow_cleartext,
        )
        self._calls = VaultCalls(door, sleep=sleep, jitter=jitter)
        self._address = address
        self._mount = mount.strip("/")
        self._totp = totp_mount.strip("/")
        self._transit = transit_mount.strip("/")
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"VaultClient({self._address!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Revokes its own login and closes the connections."""
        await self._calls.aclose()

    def inventory(self) -> VaultInventory:
        """The entries' metadata, by this login."""
        return VaultInventory(self._calls, self._mount)

    async def check(self) -> None:
        """Returns when Vault answers, is unsealed and knows us; else says what to mend."""
        await self._calls.run(
            lambda vault: vault.auth.token.lookup_self()["data"],
            attempted="Ask Vault who we are",
            subject="auth/token/lookup-self",
            repeatable=True,
        )

    async def get(self, path: str) -> StoredSecret:
        """The newest version. NotFound where it was never written, deleted or destroyed."""
        version = await self._read(path)
        if version.entry is None:
            raise NotFound(
                "Read a secret from Vault",
                code="not_found",
                subject=self._name(path),
                got="no entry" if version.number == 0 else f"version {version.number} is deleted",
            )
        return StoredSecret(
            version.number, {name: SecretStr(value) for name, value in version.entry.items()}
        )

    async def put(self, path: str, data: Mapping[str, SecretStr | str], *, cas: int | None) -> int:
        """Writes the whole entry; returns its version.

        With `cas` only if that is the newest version (0: never written), else Conflict; a lost
        answer is then cleared up by looking. Without, the last writer wins and a lost answer is
        Unknown.
        """
        entry = {n: v if isinstance(v, str) else v.get_secret_value() for n, v in data.items()}
        return await self._write(path, entry, cas, attempted="Write a secret to Vault")

    async def observe(self, path: str) -> SecretLabels:
        """Which secret stands under which label; all empty where nothing is there."""
        version = await self._read(path)
        return vault_labels.labels(version.number, version.entry or {})

    async def current(self, path: str) -> tuple[str, SecretStr]:
        """Id and value of CURRENT. NotFound where there is none."""
        return await self._labelled(path, "CURRENT", vault_labels.current)

    async def pending(self, path: str) -> tuple[str, SecretStr]:
        """Id and value of PENDING, to try it before anybody depends on it. NotFound if none."""
        return await self._labelled(path, "PENDING", vault_labels.pending)

    async def stage_pending(
        self, path: str, secret_id: str, value: SecretStr, *, cas: StoreVersion
    ) -> int:
        """Puts a new secret under PENDING; nobody uses it yet. Returns the version.

        Refused while an older rotation is not finished, Conflict if `cas` is not the newest.
        Misconfigured where the path keeps too few versions for a rollback by hand.
        """
        await self._check_kept(path)

        def stage(entry: Entry) -> dict[str, str]:
            return vault_labels.staged(entry, secret_id, value.get_secret_value())

        return await self._relabel(path, cas, stage, "Stage a new secret as PENDING")

    async def promote(self, path: str, *, cas: StoreVersion) -> int:
        """PENDING -> CURRENT and CURRENT -> PREVIOUS in one write. Returns the version."""
        return await self._relabel(path, cas, vault_labels.promoted, "Promote PENDING to CURRENT")

    async def roll_back(self, path: str, *, cas: StoreVersion) -> int:
        """PREVIOUS -> CURRENT; the secret that failed leaves Vault. Returns the version."""
        return await self._relabel(path, cas, vault_labels.rolled_back, "Roll back to PREVIOUS")

    async def drop_previous(self, path: str, *, cas: StoreVersion) -> int:
        """Forgets PREVIOUS, once it is gone from the platform. Returns the version."""
        return await self._relabel(path, cas, vault_labels.without_previous, "Drop PREVIOUS")

    async def drop_pending(self, path: str, *, cas: StoreVersion) -> int:
        """Forgets PENDING, once it is gone from the platform. Returns the version."""
        return await self._relabel(path, cas, vault_labels.without_pending, "Drop PENDING")

    def _name(self, path: str) -> str:
        return f"{self._mount}/{safe(path)}"

    async def _labelled(
        self, path: str, label: str, read: Callable[[Entry], tuple[str, str] | None]
    ) -> tuple[str, SecretStr]:
        found = read((await self._read(path)).entry or {})
        if found is None:
            raise NotFound(
                f"Read the secret under {label} from Vault",
                code="not_found",
                subject=self._name(path),
                got="none",
            )
        return found[0], SecretStr(found[1])

    async def _read(self, path: str, number: int | None = None) -> _Version:
        def read(vault: hvac.Client) -> _Version:
            try:
                answer = vault.secrets.kv.v2.read_secret_version(
                    path, version=number, mount_point=self._mount, raise_on_deleted_version=True
                )
            except hvac.exceptions.InvalidPath as missing:
                return _Version(deleted_version(missing.json), None)
            data = answer["data"]
            entry = {str(name): str(value) for name, value in data["data"].items()}
            return _Version(int(data["metadata"]["version"]), entry)

        return await self._calls.run(
            read, attempted="Read a secret from Vault", subject=self._name(path), repeatable=True
        )

    async def _check_kept(self, path: str) -> None:
        """The number of versions that the path keeps, and where it says nothing, its mount."""

        def kept(vault: hvac.Client) -> int:
            kv = vault.secrets.kv.v2
            own = 0
            with suppress(hvac.exceptions.InvalidPath):
                own = int(kv.read_secret_metadata(path, self._mount)["data"]["max_versions"])
            mounts = own or int(kv.read_configuration(self._mount)["data"]["max_versions"])
            return mounts or DEFAULT_MAX_VERSIONS

        number = await self._calls.run(
            kept,
            attempted="Look how many versions Vault keeps",
            subject=f"{self._mount}/metadata/{safe(path)}",
            repeatable=True,
        )
        if number < KEPT_VERSIONS:
            raise Misconfigured(
                "Stage a new secret as PENDING",
                subject=self._name(path),
                expected=f"max_versions of at least {KEPT_VERSIONS}",
                got=str(number),
                advice="Raise max_versions of this path or of its mount: a version needed for a "
                "rollback would be pruned.",
            )

    async def _relabel(
        self,
        path: str,
        cas: StoreVersion,
        change: Callable[[Entry], dict[str, str]],
        attempted: str,
    ) -> int:
        version = await self._read(path)
        if version.number != cas:
            raise Conflict(
                attempted,
                code="cas_mismatch",
                subject=self._name(path),
                expected=f"version {cas}",
                got=f"version {version.number}",
                advice="Look again and decide anew.",
            )
        entry = change(version.entry or {})
        return await self._write(path, entry, version.number, attempted=attempted)

    async def _write(
        self, path: str, entry: dict[str, str], cas: int | None, *, attempted: str
    ) -> int:
        subject = self._name(path)

        def write(vault: hvac.Client) -> int:
            answer = vault.secrets.kv.v2.create_or_update_secret(
                path, entry, cas=cas, mount_point=self._mount
            )
            return int(answer["data"]["version"])

        lost: Unknown | None = None
        for attempt in range(ATTEMPTS):
            try:
                return await self._calls.run(
                    write, attempted=attempted, subject=subject, repeatable=False
                )
            except Unknown as error:
                if cas is None:
                    raise
                lost = error
                await self._sleep(0.2 * 2**attempt)
            except Conflict:
                # Ours, if an answer was lost and what stands there now is what we wrote.
                if lost is None or cas is None or not await self._holds(path, cas + 1, entry, lost):
                    raise
                return cas + 1
            except (Unreachable, RateLimited):
                if lost is None:
                    raise
                break
        assert lost is not None
        raise lost

    async def _holds(self, path: str, number: int, entry: Entry, lost: Unknown) -> bool:
        try:
            return (await self._read(path, number)).entry == entry
        except (Unreachable, RateLimited):
            raise lost from None
