"""A bearer token that Vault leases: taken at its first use, kept alive, revoked at the end.

Whoever opens it says by that for how long the credential is needed; a crash ends it as well, by the
lease's own time and by that of the login it was taken with.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from pydantic import SecretStr

from clients.vault_leases import Lease, VaultLeases
from recovery.errors import RecoveryError, Refused

TAKEN, REVOKED, LEFT = "taken", "revoked", "left"
"""What becomes of a lease. LEFT: Vault could not be told; it ends by itself."""

LeaseNote = Callable[[str, Mapping[str, str | int]], Awaitable[None]]
"""Writes down one of these with its facts, none of which is secret."""

_RENEW_AFTER = 0.5
"""Of a lease's time; the other half is for trying again."""
_TOO_SHORT = 1 / 3
"""Of its first duration: what Vault renews for less than that is replaced by a new lease."""
_LEAST_PAUSE = 0.5
_CLOSING = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """Which path of Vault makes the credential, under which name, and what it is for."""

    path: str
    field: str
    purpose: str


class LeasedBearer:
    """One lease at a time, shared by all requests of one client. Close it when the work is done."""

    def __init__(self, vault: VaultLeases, terms: LeaseTerms, note: LeaseNote) -> None:
        self._vault = vault
        self._terms = terms
        self._note = note
        self._lock = asyncio.Lock()
        self._lease: Lease | None = None
        self._ends_at = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._doubted = False
        self._closed = False

    def __repr__(self) -> str:
        return f"LeasedBearer({self._terms.path!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def bearer(self) -> SecretStr:
        """The credential, leased now if need be. Errors as of `take_lease`."""
        async with self._lock:
            if self._lease is None or time.monotonic() >= self._ends_at:
                await self._take()
            assert self._lease is not None
            return self._lease.credential

    async def refused(self, token: SecretStr) -> bool:
        """A lease that has ended is taken anew. Where Vault says that it lives and the platform
        does not know it, a new one is tried once; then the platform's word stands."""
        async with self._lock:
            if self._lease is None or self._lease.credential != token:
                return True
            try:
                await self._vault.renew_lease(self._lease)
            except Refused:
                self._lease = None
            except RecoveryError:
                return False
            else:
                if self._doubted:
                    return False
                self._doubted = True
                await self._give_back()
            await self._take()
            return True

    async def aclose(self) -> None:
        """Revokes what is leased. Never raises for trouble with Vault: the lease then ends by
        itself. A cancelled caller does not stop it half way."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
        closing = asyncio.ensure_future(self._close())
        try:
            await asyncio.wait_for(asyncio.shield(closing), _CLOSING)
        except TimeoutError:
            _log.warning("Vault did not take the lease back in time; it ends by itself")
        except asyncio.CancelledError:
            await asyncio.wait([closing], timeout=_CLOSING)
            raise

    async def _close(self) -> None:
        async with self._lock:
            self._closed = True
            await self._give_back()

    async def _take(self) -> None:
        if self._closed:
            raise RuntimeError("this lease has been given back")
        lease = await self._vault.take_lease(self._terms.path, self._terms.field)
        self._lease = lease
        self._ends_at = time.monotonic() + lease.duration.total_seconds()
        if self._keeper is None and lease.renewable:
            self._keeper = asyncio.create_task(self._keep())
        await self._tell(TAKEN, lease)

    async def _give_back(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            await self._revoke(lease)

    async def _revoke(self, lease: Lease) -> None:
        try:
            await self._vault.revoke_lease(lease)
        except RecoveryError as error:
            _log.warning("a lease could not be revoked and ends by itself: %s", error)
            await self._tell(LEFT, lease)
        else:
            await self._tell(REVOKED, lease)

    async def _tell(self, what: str, lease: Lease) -> None:
        await self._note(
            what,
            {
                "lease": lease.fingerprint,
                "path": lease.path,
                "purpose": self._terms.purpose,
                "ttl_seconds": int(lease.duration.total_seconds()),
            },
        )

    async def _keep(self) -> None:
        """Renews in the background, since a phase may wait for longer than a lease lasts."""
        while True:
            left = self._ends_at - time.monotonic()
            await asyncio.sleep(max(_LEAST_PAUSE, left * _RENEW_AFTER))
            async with self._lock:
                if self._lease is None:
                    continue
                try:
                    await self._renew(self._lease)
                except RecoveryError as error:
                    _log.warning("a lease could not be renewed: %s", error)

    async def _renew(self, lease: Lease) -> None:
        try:
            left = await self._vault.renew_lease(lease)
        except Refused:
            # It has ended; the next request takes a new one.
            self._lease = None
            return
        self._ends_at = time.monotonic() + left.total_seconds()
        if left < lease.duration * _TOO_SHORT:
            # Near its greatest lifetime: the next one before this one ends.
            await self._take()
            await self._revoke(lease)
