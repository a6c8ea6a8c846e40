"""Change the key that signs enrollment tokens while the portal goes on: make, publish, promote.

Each step looks at what is there, so an interrupted change is finished by starting it again. Nothing
is signed with a key before the portal itself is seen to serve it.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from clients.http import Wire
from clients.vault import StoredSecret, VaultClient
from recovery.accounts import Clock
from recovery.enroll import SigningKey, new_signing_key
from recovery.errors import NotFound, RecoveryError, Refused
from recovery.keyring import KEPT, Keyring, prepared, promoted, read_keyring

JWKS_PATH = "/.well-known/jwks.json"
CACHED = timedelta(minutes=5)
"""How long others may keep the portal's keys: its answer's max-age."""
_LOOK_SECONDS = 2.0

Publish = Callable[[dict[str, Any]], None]
Say = Callable[[str], None]
Sleep = Callable[[float], Any]


@dataclass(frozen=True, slots=True)
class KeyChange:
    """Where the keys are kept, where their public halves go, and how patient to be.

    `publish` puts the JSON Web Key Set where the portal reads it. `patience` bounds the wait for
    the portal to serve it; `cached` is waited after that, for who keeps keys meanwhile.
    """

    vault: VaultClient
    path: str
    portal: Wire
    publish: Publish
    clock: Clock
    say: Say
    patience: timedelta = timedelta(minutes=5)
    cached: timedelta = CACHED
    sleep: Sleep = asyncio.sleep

    async def run(self, *, kept: timedelta = KEPT) -> Keyring:
        """To the end: a new key signs. Conflict where somebody else wrote meanwhile; Refused where
        the portal does not serve the new key in time, and then nothing signs with it."""
        version, ring = await self._prepare()
        assert ring.upcoming is not None
        self.publish(ring.document(self.clock()))
        await self._served(ring.upcoming.kid)
        await self.sleep(self.cached.total_seconds())
        ring = promoted(ring, self.clock(), kept=kept)
        await self._write(ring, version)
        self.publish(ring.document(self.clock()))
        self.say(f"{ring.current.kid} signs from now on")
        return ring

    async def show(self) -> Keyring:
        """Publishes what is there once more: keys whose time has come are left out."""
        _, ring = _read(await self.vault.get(self.path))
        self.publish(ring.document(self.clock()))
        return ring

    async def _prepare(self) -> tuple[int, Keyring]:
        """The ring with a key to come, and the version in which it stands. Without any key yet,
        the first one signs and the next is made beside it."""
        try:
            version, ring = _read(await self.vault.get(self.path))
        except NotFound:
            version, ring = 0, Keyring(_new(self.clock()))
        if ring.upcoming is not None:
            self.say(f"{ring.upcoming.kid} was made before; going on with it")
            return version, ring
        ring = prepared(ring, _new(self.clock()))
        assert ring.upcoming is not None
        version = await self._write(ring, version)
        self.say(f"{ring.upcoming.kid} is made and signs nothing yet")
        return version, ring

    async def _write(self, ring: Keyring, version: int) -> int:
        return await self.vault.put(self.path, ring.entry(), cas=version)

    async def _served(self, kid: str) -> None:
        """Returns when the portal gives this key to everybody."""
        deadline = self.clock() + self.patience
        while True:
            if kid in await self._kids():
                self.say(f"the portal serves {kid}")
                return
            if self.clock() >= deadline:
                raise Refused(
                    "Publish a signing key",
                    code="not_served",
                    subject=kid,
                    expected="the portal to serve it",
                    got="other keys alone",
                    advice="Nothing signs with it. Bring the file to every portal, then run again.",
                )
            await self.sleep(_LOOK_SECONDS)

    async def _kids(self) -> set[str]:
        try:
            answer = await self.portal.request(
                "GET",
                JWKS_PATH,
                attempted="Look at the portal's keys",
                params={"fresh": secrets.token_hex(4)},
                repeatable=True,
            )
            rows = self.portal.read(answer, dict[str, list[dict[str, Any]]]).get("keys", [])
        except RecoveryError as error:
            self.say(str(error))
            return set()
        return {str(row.get("kid")) for row in rows}


def _read(stored: StoredSecret) -> tuple[int, Keyring]:
    plain = {name: value.get_secret_value() for name, value in stored.data.items()}
    return stored.version, read_keyring(plain)


def _new(now: datetime) -> SigningKey:
    key, _ = new_signing_key(f"{now:%Y%m%d}-{secrets.token_hex(3)}")
    return key
