"""Every live session and token of the platform, and what dies with what (RFC 6749, RFC 7009).

A grant is one account's consent to one OAuth client: refresh tokens and access tokens hang on
it. The grants of the platform's own mobile apps carry tokens like the others, but are not
counted or deleted as grants to third-party apps.
"""

import secrets
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from rehearsal.world.asgi import Problem
from rehearsal.world.credentials import PUBLIC_CLIENTS, Credential, CredentialKind

ACCESS_TOKEN_SECONDS = 300
LOGIN_SESSIONS = 20
"""Sessions from logins that one account keeps; a further login ends the oldest."""


@dataclass(slots=True)
class Grant:
    account_id: str
    client_id: str
    refresh: set[str] = field(default_factory=set)
    access: set[str] = field(default_factory=set)

    @property
    def third_party(self) -> bool:
        return self.client_id not in PUBLIC_CLIENTS


@dataclass(frozen=True, slots=True)
class AccessToken:
    """`grant` is None for a client's token of its own (client_credentials)."""

    client_id: str
    grant: Grant | None
    expires_at: float


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whom a bearer credential stands for at /api/me."""

    sub: str
    kind: str


@dataclass(frozen=True, slots=True)
class TokenCounts:
    sessions: int
    device_sessions: int
    refresh_tokens: int
    access_tokens: int
    grants: int
    recovery_tokens: int


class Revocation(StrEnum):
    """What an RFC 7009 request came to; all but FOREIGN are answered with 200."""

    REVOKED = "revoked"
    UNKNOWN = "unknown"
    FOREIGN = "foreign"


class _Book:
    """Opaque values of one kind, looked up by value and by account."""

    def __init__(self) -> None:
        self._owner: dict[str, str] = {}
        self._of: dict[str, dict[str, None]] = {}

    def add(self, value: str, account_id: str) -> None:
        self._owner[value] = account_id
        self._of.setdefault(account_id, {})[value] = None

    def owner(self, value: str) -> str | None:
        return self._owner.get(value)

    def count(self, account_id: str) -> int:
        return len(self._of.get(account_id, ()))

    def values(self, account_id: str) -> tuple[str, ...]:
        return tuple(self._of.get(account_id, ()))

    def drop(self, value: str) -> None:
        del self._of[self._owner.pop(value)][value]

    def drop_all(self, account_id: str) -> int:
        values = self._of.pop(account_id, {})
        for value in values:
            del self._owner[value]
        return len(values)


class TokenStore:
    """`now` gives seconds since the epoch in the world's time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._sessions = _Book()
        self._login_sessions = _Book()
        self._device_sessions = _Book()
        self._recovery = _Book()
        self._grants: dict[str, dict[str, Grant]] = {}
        self._refresh: dict[str, Grant] = {}
        self._access: dict[str, AccessToken] = {}
        self._issued: deque[tuple[float, str]] = deque()
        self._linked: Counter[str] = Counter()

    # What the world starts with.

    def plant(self, credential: Credential) -> None:
        """Makes a credential of the population live; access tokens from now for their lifetime."""
        account_id, value = credential.account_id, credential.value
        match credential.kind:
            case CredentialKind.SESSION:
                self._sessions.add(value, account_id)
            case CredentialKind.DEVICE_SESSION:
                self._device_sessions.add(value, account_id)
            case CredentialKind.RECOVERY_TOKEN:
                self._recovery.add(value, account_id)
            case CredentialKind.REFRESH_TOKEN:
                grant = self._grant(account_id, credential.client_id or "")
                grant.refresh.add(value)
                self._refresh[value] = grant
            case CredentialKind.ACCESS_TOKEN:
                grant = self._grant(account_id, credential.client_id or "")
                self._keep_access(value, grant.client_id, grant)
            case CredentialKind.PASSWORD:
                raise ValueError("a password is an account's, not a token")
            case _:
                assert_never(credential.kind)

    def _grant(self, account_id: str, client_id: str) -> Grant:
        grants = self._grants.setdefault(account_id, {})
        if client_id not in grants:
            grants[client_id] = Grant(account_id, client_id)
            self._linked[client_id] += 1
        return grants[client_id]

    # What people, apps and thieves do.

    def open_session(self, account_id: str) -> str:
        if self._login_sessions.count(account_id) >= LOGIN_SESSIONS:
            oldest = self._login_sessions.values(account_id)[0]
            self._login_sessions.drop(oldest)
            self._sessions.drop(oldest)
        value = _new("ses")
        self._login_sessions.add(value, account_id)
        self._sessions.add(value, account_id)
        return value

    def bearer(self, value: str) -> Bearer | None:
        if owner := self._sessions.owner(value):
            return Bearer(owner, "session")
        if owner := self._device_sessions.owner(value):
            return Bearer(owner, "device")
        token = self.access_token(value)
        if token is None:
            return None
        if token.grant is None:
            return Bearer(token.client_id, "client")
        return Bearer(token.grant.account_id, "user_token")

    def access_token(self, value: str) -> AccessToken | None:
        token = self._access.get(value)
        return token if token is not None and token.expires_at > self._now() else None

    def refresh_grant(self, value: str) -> Grant | None:
        return self._refresh.get(value)

    def recovery_owner(self, value: str) -> str | None:
        return self._recovery.owner(value)

    def issue_to_client(self, client_id: str) -> str:
        value = _new("at")
        self._keep_access(value, client_id, None)
        return value

    def use_refresh_token(self, client_id: str, value: str) -> tuple[str, str | None]:
        """A new access token; for a public client a new refresh token too, and the old one is
        dead (RFC 9700 4.14.2). Problem 400 invalid_grant unless it is live and this client's."""
        grant = self._refresh.get(value)
        if grant is None or grant.client_id != client_id:
            raise Problem(400, "invalid_grant", "The refresh token is not valid.")
        access = _new("at")
        self._keep_access(access, client_id, grant)
        if grant.third_party:
            return access, None
        renewed = _new("rt")
        self._drop_refresh(value)
        grant.refresh.add(renewed)
        self._refresh[renewed] = grant
        return access, renewed

    def _keep_access(self, value: str, client_id: str, grant: Grant | None) -> None:
        now = self._now()
        while self._issued and self._issued[0][0] <= now:
            self._drop_access(self._issued.popleft()[1])
        self._access[value] = AccessToken(client_id, grant, now + ACCESS_TOKEN_SECONDS)
        self._issued.append((now + ACCESS_TOKEN_SECONDS, value))
        if grant is not None:
            grant.access.add(value)

    # What kills.

    def revoke(self, client_id: str, value: str) -> tuple[Revocation, str | None]:
        """RFC 7009 by the client itself; also the account whose token died, if one did."""
        grant = self._refresh.get(value)
        if grant is not None:
            if grant.client_id != client_id:
                return Revocation.FOREIGN, None
            self._drop_refresh(value)
            self._drop_all_access(grant)
            return Revocation.REVOKED, grant.account_id
        token = self.access_token(value)
        if token is None:
            return Revocation.UNKNOWN, None
        if token.client_id != client_id:
            return Revocation.FOREIGN, None
        self._drop_access(value)
        return Revocation.REVOKED, token.grant.account_id if token.grant else None

    def end_sessions(self, account_id: str) -> int:
        self._login_sessions.drop_all(account_id)
        return self._sessions.drop_all(account_id)

    def end_device_sessions(self, account_id: str) -> int:
        return self._device_sessions.drop_all(account_id)

    def drop_recovery_tokens(self, account_id: str) -> int:
        return self._recovery.drop_all(account_id)

    def drop_refresh_tokens(self, account_id: str) -> tuple[int, int]:
        """Of every grant; returns how many refresh tokens and how many access tokens died."""
        refresh = access = 0
        for grant in self.grants(account_id):
            refresh += len(grant.refresh)
            for value in tuple(grant.refresh):
                self._drop_refresh(value)
            access += self._drop_all_access(grant)
        return refresh, access

    def drop_grants(self, account_id: str) -> int:
        """Of third-party apps, with their tokens."""
        doomed = [grant for grant in self.grants(account_id) if grant.third_party]
        for grant in doomed:
            for value in tuple(grant.refresh):
                self._drop_refresh(value)
            self._drop_all_access(grant)
            del self._grants[account_id][grant.client_id]
            self._linked[grant.client_id] -= 1
        return len(doomed)

    def _drop_refresh(self, value: str) -> None:
        self._refresh.pop(value).refresh.discard(value)

    def _drop_access(self, value: str) -> None:
        token = self._access.pop(value, None)
        if token is not None and token.grant is not None:
            token.grant.access.discard(value)

    def _drop_all_access(self, grant: Grant) -> int:
        """Counts only those that had not expired."""
        live = 0
        for value in tuple(grant.access):
            live += self.access_token(value) is not None
            self._drop_access(value)
        return live

    # What is there.

    def grants(self, account_id: str) -> Iterator[Grant]:
        yield from tuple(self._grants.get(account_id, {}).values())

    def linked_apps(self, account_id: str) -> list[str]:
        return sorted(grant.client_id for grant in self.grants(account_id) if grant.third_party)

    def linked_accounts(self, client_id: str) -> int:
        return self._linked[client_id]

    def counts(self, account_id: str) -> TokenCounts:
        grants = tuple(self.grants(account_id))
        return TokenCounts(
            sessions=self._sessions.count(account_id),
            device_sessions=self._device_sessions.count(account_id),
            refresh_tokens=sum(len(grant.refresh) for grant in grants),
            access_tokens=sum(
                self.access_token(value) is not None for grant in grants for value in grant.access
            ),
            grants=sum(grant.third_party for grant in grants),
            recovery_tokens=self._recovery.count(account_id),
        )

    def live(self, credential: Credential) -> bool:
        """Ground truth for everything but passwords."""
        match credential.kind:
            case CredentialKind.SESSION:
                return self._sessions.owner(credential.value) is not None
            case CredentialKind.DEVICE_SESSION:
                return self._device_sessions.owner(credential.value) is not None
            case CredentialKind.REFRESH_TOKEN:
                return credential.value in self._refresh
            case CredentialKind.ACCESS_TOKEN:
                return self.access_token(credential.value) is not None
            case CredentialKind.RECOVERY_TOKEN:
                return self._recovery.owner(credential.value) is not None
            case CredentialKind.PASSWORD:
                raise ValueError("a password is an account's, not a token")
            case _:
                assert_never(credential.kind)


def _new(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(20)}"
