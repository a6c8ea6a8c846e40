"""Carries a client secret from the platform to its store and tries it out; the value stays in here.

Playbook "Rotate". `create` is one act over two systems: what it may leave behind after a crash is
a secret at the platform that the store does not know, which `recovery.rotate` finds by its marker.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from pydantic import SecretStr

from clients.oauth import OAuthClient
from clients.platform import NewSecret, PlatformClient
from clients.secret_store import SecretStore
from recovery.app_clients import SecretLabels
from recovery.errors import (
    Conflict,
    RateLimited,
    RecoveryError,
    Refused,
    Unknown,
    Unreachable,
    Unverified,
)
from recovery.rotate import Observed

PATIENCE = timedelta(minutes=2)
"""How long a secret that stands nowhere else is offered to Vault."""
_WRITE_PAUSE = 0.2
_OK = 200


class SecretCourier:
    """Uses three open clients and owns none of them."""

    def __init__(self, platform: PlatformClient, store: SecretStore, oauth: OAuthClient) -> None:
        self._platform = platform
        self._store = store
        self._oauth = oauth

    async def observe(self, client_id: str, path: str) -> Observed:
        """One look at both sides, the store first: a secret created in between then shows as
        unknown to it, never as missing at the platform."""
        labels = await self._store.observe(path)
        secrets = await self._platform.client_secrets(client_id)
        return Observed(tuple(secrets), labels)

    async def create(self, client_id: str, path: str, marker: str) -> str:
        """A new secret at the platform, under PENDING in the store; returns its id.

        The store is asked first: a sealed or forbidden one costs nothing. Where it refuses
        afterwards, the new secret is taken away again. Unknown: look before doing it again.
        A cancelled caller does not stop it half way.
        """
        return await asyncio.shield(self._create(client_id, path, marker))

    async def rotate_in_place(self, client_id: str, path: str, marker: str) -> str:
        """The platform replaces its one secret; the new one goes under PENDING. Returns its id.

        The old secret is dead from the platform's answer on, and until the write the new one
        stands nowhere but here: the write is tried again for as long as `PATIENCE`.
        """
        return await asyncio.shield(self._rotate_in_place(client_id, path, marker))

    async def probe(self, client_id: str, path: str) -> None:
        """Returns where the secret under CURRENT gets a token that the API takes."""
        await self._probe(client_id, path, "CURRENT", self._store.current)

    async def probe_pending(self, client_id: str, path: str) -> None:
        """The same with PENDING, before anybody depends on it."""
        await self._probe(client_id, path, "PENDING", self._store.pending)

    async def _rotate_in_place(self, client_id: str, path: str, marker: str) -> str:
        await self._untouched(client_id, path)
        new = await self._platform.rotate_secret(client_id, marker)
        ends_at = asyncio.get_running_loop().time() + PATIENCE.total_seconds()
        while True:
            try:
                labels = await self._store.observe(path)
                if labels.pending_id != new.secret_id:
                    await self._store.stage_pending(
                        path, new.secret_id, new.value, cas=labels.version
                    )
            except (Unreachable, Unknown, RateLimited, Conflict):
                if asyncio.get_running_loop().time() > ends_at:
                    raise
                await asyncio.sleep(_WRITE_PAUSE)
            else:
                return new.secret_id

    async def _untouched(self, client_id: str, path: str) -> SecretLabels:
        """What Vault holds, where no other rotation is under way; Conflict otherwise."""
        before = await self._store.observe(path)
        if before.pending_id is not None or before.previous_id is not None:
            raise Conflict(
                "Create a client secret",
                code="rotation_under_way",
                subject=client_id,
                expected="neither PENDING nor PREVIOUS in the store",
                got="an unfinished rotation",
                advice="Look again: that one has to be finished first.",
            )
        return before

    async def _create(self, client_id: str, path: str, marker: str) -> str:
        before = await self._untouched(client_id, path)
        new = await self._platform.create_secret(client_id, marker)
        try:
            await self._store.stage_pending(path, new.secret_id, new.value, cas=before.version)
        except Unknown:
            # It may be staged after all. Nobody uses it yet, and the next look tells which.
            raise
        except RecoveryError:
            await self._take_away(client_id, new)
            raise
        return new.secret_id

    async def _take_away(self, client_id: str, new: NewSecret) -> None:
        """Best effort: what stays is found by its marker at the next look."""
        with suppress(RecoveryError):
            await self._platform.deactivate_secret(client_id, new.secret_id)
            await self._platform.delete_secret(client_id, new.secret_id)

    async def _probe(
        self,
        client_id: str,
        path: str,
        label: str,
        read: Callable[[str], Awaitable[tuple[str, SecretStr]]],
    ) -> None:
        attempted = f"Try the secret under {label}"
        secret_id, value = await read(path)
        try:
            token = await self._oauth.client_token(client_id, value)
        except (Refused, Unverified):
            raise Unverified(
                attempted,
                subject=f"{client_id} {secret_id}",
                expected="an access token",
                got="a refusal of the client's credentials",
                advice="The secret in the store is not the one at the platform: roll back.",
            ) from None
        status = await self._oauth.me(token)
        if status != _OK:
            raise Unverified(
                attempted,
                subject=f"{client_id} {secret_id}",
                expected="the API to take the token",
                got=f"HTTP {status}",
                advice="The client may have lost its rights: look at it at the platform.",
            )
