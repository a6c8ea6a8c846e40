"""What people are logged in with when the incident begins, and which of it the attacker holds."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from random import Random

PUBLIC_CLIENTS = ("mobile-ios", "mobile-android")
"""First-party OAuth clients without a secret: whoever has their refresh token can use it."""


class CredentialKind(StrEnum):
    SESSION = "session"
    DEVICE_SESSION = "device_session"
    REFRESH_TOKEN = "refresh_token"
    ACCESS_TOKEN = "access_token"
    RECOVERY_TOKEN = "recovery_token"
    PASSWORD = "password"


@dataclass(frozen=True, slots=True)
class Credential:
    """Something that opens an account. `client_id` is set for OAuth tokens and says whose they
    are. A password needs `handle`, and `totp_secret` where the account asks for a code."""

    kind: CredentialKind
    account_id: str
    value: str = field(repr=False)
    client_id: str | None = None
    handle: str | None = field(default=None, repr=False)
    totp_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """One account as far as handing out credentials needs it; `stolen_from` where the attacker
    was in it, with `new_password` if he set one that he knows."""

    account_id: str
    handle: str
    linked_apps: tuple[str, ...]
    totp_secret: str | None
    last_active: datetime | None
    stolen_from: bool
    new_password: str | None


@dataclass(frozen=True, slots=True)
class Loot:
    """Everything the attacker holds when the world starts, in a fixed order."""

    items: tuple[Credential, ...] = ()

    def of(self, kind: CredentialKind) -> tuple[Credential, ...]:
        return tuple(item for item in self.items if item.kind is kind)


_SHARE_STOLEN = {
    CredentialKind.SESSION: 0.8,
    CredentialKind.DEVICE_SESSION: 0.7,
    CredentialKind.REFRESH_TOKEN: 0.8,
    CredentialKind.ACCESS_TOKEN: 0.6,
    CredentialKind.RECOVERY_TOKEN: 0.8,
}


def hand_out(rng: Random, holders: Iterable[Holder]) -> tuple[tuple[Credential, ...], Loot]:
    """All live credentials at the start, passwords aside, and the attacker's share of them.

    Refresh tokens of confidential clients are never loot: without the client's secret they are
    worth nothing to him; their access tokens are.
    """
    everything: list[Credential] = []
    stolen: list[Credential] = []
    for holder in holders:
        own = list(_credentials(rng, holder))
        everything += own
        if not holder.stolen_from:
            continue
        stolen += [c for c in own if _worth_stealing(c) and rng.random() < _SHARE_STOLEN[c.kind]]
        if holder.new_password is not None:
            stolen.append(
                Credential(
                    CredentialKind.PASSWORD,
                    holder.account_id,
                    holder.new_password,
                    handle=holder.handle,
                    totp_secret=holder.totp_secret,
                )
            )
    rng.shuffle(stolen)
    return tuple(everything), Loot(tuple(stolen))


def _worth_stealing(credential: Credential) -> bool:
    return (
        credential.kind is not CredentialKind.REFRESH_TOKEN
        or credential.client_id in PUBLIC_CLIENTS
    )


def _credentials(rng: Random, holder: Holder) -> Iterable[Credential]:
    if holder.last_active is None:
        return

    def made(kind: CredentialKind, client_id: str | None = None) -> Credential:
        return Credential(kind, holder.account_id, opaque(rng, _PREFIX[kind]), client_id)

    for _ in range(rng.randint(1, 3)):
        yield made(CredentialKind.SESSION)
    for _ in range(rng.choice((0, 1, 1, 2))):
        yield made(CredentialKind.DEVICE_SESSION)
    apps = list(holder.linked_apps)
    if rng.random() < 0.85:
        apps.append(rng.choice(PUBLIC_CLIENTS))
    for client_id in apps:
        yield made(CredentialKind.REFRESH_TOKEN, client_id)
        if rng.random() < 0.7:
            yield made(CredentialKind.ACCESS_TOKEN, client_id)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        yield made(CredentialKind.RECOVERY_TOKEN)


_PREFIX = {
    CredentialKind.SESSION: "ses",
    CredentialKind.DEVICE_SESSION: "dev",
    CredentialKind.REFRESH_TOKEN: "rt",
    CredentialKind.ACCESS_TOKEN: "at",
    CredentialKind.RECOVERY_TOKEN: "rec",
}


def opaque(rng: Random, prefix: str) -> str:
    """An opaque value of 160 bits that is the same for the same seed."""
    return f"{prefix}_{rng.getrandbits(160):040x}"
