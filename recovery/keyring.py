"""The keys that sign enrollment tokens over time: which one signs, which one comes, which are kept.

A key is published before it signs and its public half stays until its last token has run out
(NIST SP 800-57 part 1, 5.3.4): at no moment is there a good token whose key nobody knows. The
private half of a key that no longer signs is not kept at all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from recovery.enroll import SigningKey, jwks, read_signing_key
from recovery.errors import Misconfigured

KEPT = timedelta(hours=2)
"""How long a key's public half stays once it no longer signs: a batch that read the key before the
change may compose messages for an hour (its task's timeout), and a token lives 15 minutes."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that no longer signs: its public half (a JWK), and until when it is accepted."""

    jwk: Mapping[str, Any]
    until: datetime


@dataclass(frozen=True, slots=True)
class Keyring:
    """`current` signs. `upcoming` is published and does not sign yet."""

    current: SigningKey
    upcoming: SigningKey | None = None
    retired: tuple[Retired, ...] = field(default=())

    def document(self, now: datetime) -> dict[str, Any]:
        """The JSON Web Key Set: public halves alone, retired ones with their end as `exp`."""
        rows: list[dict[str, Any]] = jwks(
            [key for key in (self.current, self.upcoming) if key is not None]
        )["keys"]
        rows += [
            {**one.jwk, "exp": int(one.until.timestamp())}
            for one in self.retired
            if one.until > now
        ]
        return {"keys": rows}

    def entry(self) -> dict[str, str]:
        """As it stands in Vault; `kid` and `private_pem` are the key that signs."""
        entry = {"kid": self.current.kid, "private_pem": _pem(self.current)}
        if self.upcoming is not None:
            entry |= {"next_kid": self.upcoming.kid, "next_private_pem": _pem(self.upcoming)}
        if self.retired:
            entry["retired"] = json.dumps(
                [{"jwk": dict(one.jwk), "until": one.until.isoformat()} for one in self.retired]
            )
        return entry


def read_keyring(entry: Mapping[str, str]) -> Keyring:
    """Raises Misconfigured where the entry is not one of ours."""
    try:
        current = read_signing_key(entry["kid"], entry["private_pem"])
        upcoming = None
        if "next_kid" in entry:
            upcoming = read_signing_key(entry["next_kid"], entry["next_private_pem"])
        retired = tuple(
            Retired(row["jwk"], datetime.fromisoformat(row["until"]).astimezone(UTC))
            for row in json.loads(entry.get("retired", "[]"))
        )
    except (KeyError, ValueError, TypeError):
        raise Misconfigured(
            "Read the keys that sign enrollment tokens",
            expected="kid and private_pem, and what a rotation wrote beside them",
            got="another shape",
            advice="Write a new key as docs/systems.md says.",
        ) from None
    return Keyring(current, upcoming, retired)


def prepared(ring: Keyring, new: SigningKey) -> Keyring:
    """The ring with a key to come. One that is there already stays: a rotation that was
    interrupted goes on with it."""
    if ring.upcoming is not None:
        return ring
    if new.kid == ring.current.kid or new.kid in {one.jwk["kid"] for one in ring.retired}:
        raise ValueError("a new key has a new id")
    return replace(ring, upcoming=new)


def promoted(ring: Keyring, now: datetime, *, kept: timedelta = KEPT) -> Keyring:
    """The key to come signs from now on. Nothing is kept of the old one but its public half, and
    not even that with `kept` of zero (the key was stolen: its tokens die)."""
    if ring.upcoming is None:
        raise ValueError("no key was prepared")
    [jwk] = jwks([ring.current])["keys"]
    retired = [one for one in (*ring.retired, Retired(jwk, now + kept)) if one.until > now]
    if kept <= timedelta(0):
        retired = []
    return Keyring(ring.upcoming, None, tuple(retired))


def _pem(key: SigningKey) -> str:
    return key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
