"""OAuth clients and their secrets at the platform: two each or one, never none that works."""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rehearsal.world.asgi import Problem
from rehearsal.world.clock import WorldClock
from rehearsal.world.effects import Effect
from rehearsal.world.registry import ClientSeed

Listener = Callable[[str, bool], None]
"""Told of every authentication: the client's id, and whether it was accepted."""


class SecretStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


@dataclass(slots=True)
class Secret:
    id: str
    value: str = field(repr=False)
    created_at: datetime
    marker: str | None = None
    status: SecretStatus = SecretStatus.ACTIVE
    last_used_at: datetime | None = None


@dataclass(slots=True)
class ClientState:
    """One confidential client as it is now. `auth_failures` counts refused authentications in
    its name: a rotation that breaks a consumer shows here."""

    seed: ClientSeed
    secrets: dict[str, Secret]
    effects: list[Effect] = field(default_factory=list)
    auth_failures: int = 0
    auth_successes: int = 0

    def active(self) -> list[Secret]:
        return [s for s in self.secrets.values() if s.status is SecretStatus.ACTIVE]


class ClientBook:
    """All confidential clients. `listed` are those an administrator sees; the introspector can
    authenticate, but is nobody's app. Unknown ids are Problem 404."""

    def __init__(
        self, listed: dict[str, ClientSeed], introspector: ClientSeed, clock: WorldClock
    ) -> None:
        self._clock = clock
        self.listener: Listener | None = None
        now = clock.now()
        self._clients = {
            seed.id: ClientState(
                seed,
                {
                    seed.secret_id: Secret(
                        seed.secret_id, seed.secret, created_at=now - seed.secret_age
                    )
                },
            )
            for seed in (*listed.values(), introspector)
        }
        self._listed = tuple(sorted(listed))

    def listed(self) -> list[ClientState]:
        return [self._clients[client_id] for client_id in self._listed]

    def get(self, client_id: str) -> ClientState:
        if client_id not in self._listed:
            raise Problem(404, "not_found", "There is no such client.")
        return self._clients[client_id]

    def add_secret(self, client_id: str, marker: str | None) -> Secret:
        """A new ACTIVE secret; its value is not readable afterwards."""
        client = self.get(client_id)
        most = client.seed.max_secrets
        if len(client.secrets) >= most:
            raise Problem(400, "too_many_secrets", f"This client has at most {most} secrets.")
        secret = self._new_secret(marker)
        client.secrets[secret.id] = secret
        self._note(client, "secrets.create")
        return secret

    def rotate(self, client_id: str, marker: str | None) -> Secret:
        """The new secret takes the place of all others at once: the old one is dead now."""
        client = self.get(client_id)
        secret = self._new_secret(marker)
        client.secrets = {secret.id: secret}
        self._note(client, "secrets.rotate")
        return secret

    def deactivate(self, client_id: str, secret_id: str) -> Secret:
        client, secret = self._secret(client_id, secret_id)
        if not client.seed.deactivates:
            raise Problem(400, "not_supported", "A secret of this client can only be deleted.")
        if secret.status is SecretStatus.ACTIVE:
            if len(client.active()) == 1:
                raise Problem(400, "last_active_secret", "It is the only active secret.")
            secret.status = SecretStatus.INACTIVE
            self._note(client, "secrets.deactivate")
        return secret

    def activate(self, client_id: str, secret_id: str) -> Secret:
        client, secret = self._secret(client_id, secret_id)
        if secret.status is SecretStatus.INACTIVE:
            secret.status = SecretStatus.ACTIVE
            self._note(client, "secrets.activate")
        return secret

    def delete(self, client_id: str, secret_id: str) -> None:
        client, secret = self._secret(client_id, secret_id)
        if secret.status is SecretStatus.ACTIVE and client.seed.deactivates:
            raise Problem(400, "secret_active", "Deactivate the secret first.")
        if client.active() == [secret]:
            raise Problem(400, "last_active_secret", "It is the only active secret.")
        del client.secrets[secret_id]
        self._note(client, "secrets.delete")

    def authenticate(self, client_id: str, value: str) -> ClientState | None:
        """The client if one of its ACTIVE secrets has this value; counted either way."""
        client = self._clients.get(client_id)
        if client is None:
            return None
        for secret in client.active():
            if hmac.compare_digest(secret.value.encode(), value.encode()):
                secret.last_used_at = self._clock.now()
                client.auth_successes += 1
                self._tell(client_id, accepted=True)
                return client
        client.auth_failures += 1
        self._tell(client_id, accepted=False)
        return None

    def accepts(self, client_id: str, value: str) -> bool:
        """Whether `authenticate` would; neither counted nor noted as a use, for the judge."""
        active = self._clients[client_id].active()
        return any(hmac.compare_digest(s.value.encode(), value.encode()) for s in active)

    def all(self) -> list[ClientState]:
        return list(self._clients.values())

    def _secret(self, client_id: str, secret_id: str) -> tuple[ClientState, Secret]:
        client = self.get(client_id)
        if secret_id not in client.secrets:
            raise Problem(404, "not_found", "There is no such secret.")
        return client, client.secrets[secret_id]

    def _new_secret(self, marker: str | None) -> Secret:
        return Secret(
            id=f"sec-{secrets.token_hex(5)}",
            # Characters that only survive Basic when form-encoded first (RFC 6749 2.3.1).
            value=f"cs_{secrets.token_urlsafe(30)}:+/%",
            created_at=self._clock.now(),
            marker=marker,
        )

    def _tell(self, client_id: str, *, accepted: bool) -> None:
        if self.listener is not None:
            self.listener(client_id, accepted)

    def _note(self, client: ClientState, call: str) -> None:
        client.effects.append(Effect(call, self._clock.now()))
