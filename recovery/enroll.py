"""Enrollment tokens: who may get one, and the JWT that is derived from the ledger's row (RFC 8725).

Fixed algorithm EdDSA, explicit `typ`, `kid`, `iss`, `aud`, opaque `sub`, `jti`, `iat`, `exp` and
purpose. The row is the truth: a signature only decides whether the row is looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from recovery.accounts import Account, PriorityReason
from recovery.errors import Misconfigured, Unverified
from recovery.incident import Enrollment

ALGORITHM = "EdDSA"
TYPE = "mfa-enroll+jwt"
PURPOSE = "enroll-authenticator"
LEEWAY = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private half; lives in Vault and in the memory of the task that composes messages."""

    kid: str
    private: Ed25519PrivateKey

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r})"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified enrollment token says."""

    ref: str
    jti: str
    incident_id: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs for whom: `issuer` is the recovery service, `audience` the portal's address."""

    issuer: str
    audience: str


def new_signing_key(kid: str) -> tuple[SigningKey, str]:
    """A fresh key and its PEM (PKCS 8), for whoever sets up Vault."""
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return SigningKey(kid, private), pem


def read_signing_key(kid: str, pem: str) -> SigningKey:
    """Raises Misconfigured where the PEM is not an Ed25519 private key."""
    try:
        private = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise Misconfigured(
            "Read the enrollment signing key",
            subject=kid,
            expected="an Ed25519 private key in PEM",
            advice="Write a new key to Vault at recovery/enrollment-signing-key.",
        )
    return SigningKey(kid, private)


def jwks(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """The public halves as a JSON Web Key Set (RFC 7517, RFC 8037)."""
    rows = []
    for key in keys:
        row = jwt.algorithms.OKPAlgorithm.to_jwk(key.private.public_key(), as_dict=True)
        rows.append({**row, "kid": key.kid, "use": "sig", "alg": ALGORITHM})
    return {"keys": rows}


def public_keys(key_set: Mapping[str, Any]) -> dict[str, Ed25519PublicKey]:
    """A table kid -> key; the only place where a token's `kid` is looked up (RFC 8725, 3.10)."""
    table: dict[str, Ed25519PublicKey] = {}
    for row in key_set.get("keys", ()):
        if row.get("kty") != "OKP" or row.get("crv") != "Ed25519":
            continue
        if row.get("use", "sig") != "sig" or row.get("alg", ALGORITHM) != ALGORITHM:
            continue
        key = jwt.algorithms.OKPAlgorithm.from_jwk(dict(row))
        if isinstance(key, Ed25519PublicKey):
            table[str(row["kid"])] = key
    return table


def mint(enrollment: Enrollment, key: SigningKey, parties: Issuer) -> str:
    """The token of an armed enrollment. Same row and key, same token: Ed25519 is deterministic."""
    if enrollment.issued_at is None or enrollment.expires_at is None:
        raise ValueError("an enrollment is armed before its token is derived")
    return jwt.encode(
        {
            "iss": parties.issuer,
            "aud": parties.audience,
            "sub": enrollment.ref,
            "jti": enrollment.jti,
            "iat": int(enrollment.issued_at.timestamp()),
            "exp": int(enrollment.expires_at.timestamp()),
            "inc": enrollment.incident_id,
            "purpose": PURPOSE,
        },
        key.private,
        algorithm=ALGORITHM,
        headers={"typ": TYPE, "kid": key.kid},
    )


def verify(
    token: str, keys: Mapping[str, Ed25519PublicKey], parties: Issuer, *, now: datetime
) -> Claims:
    """The claims of a good token. Raises Unverified; its reason is for the log alone."""
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise Unverified("Verify an enrollment token", got="not a JWT") from None
    if header.get("typ") != TYPE:
        raise Unverified("Verify an enrollment token", got="another type")
    if "crit" in header:
        # RFC 7515, 4.1.11: an extension that must be understood and is not.
        raise Unverified("Verify an enrollment token", got="an unknown extension")
    kid = header.get("kid")
    key = keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise Unverified("Verify an enrollment token", got="an unknown key id")
    try:
        # PyJWT compares times with the wall clock; ours is an argument, so they are compared below.
        claims = jwt.decode(
            token,
            key,
            algorithms=[ALGORITHM],
            audience=parties.audience,
            issuer=parties.issuer,
            options={
                "require": ["iss", "aud", "sub", "jti", "iat", "exp", "purpose", "inc"],
                "strict_aud": True,
                "verify_exp": False,
                "verify_iat": False,
            },
        )
    except jwt.InvalidTokenError as error:
        raise Unverified("Verify an enrollment token", got=type(error).__name__) from None
    if claims["purpose"] != PURPOSE:
        raise Unverified("Verify an enrollment token", got="another purpose")
    issued_at, expires_at = _time(claims["iat"]), _time(claims["exp"])
    if expires_at <= issued_at:
        raise Unverified("Verify an enrollment token", got="over before it began")
    if now >= expires_at:
        raise Unverified("Verify an enrollment token", got="expired")
    if issued_at > now + LEEWAY:
        raise Unverified("Verify an enrollment token", got="issued in the future")
    return Claims(claims["sub"], claims["jti"], str(claims["inc"]), issued_at, expires_at)


def _time(value: object) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unverified("Verify an enrollment token", got="a malformed time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        raise Unverified("Verify an enrollment token", got="a malformed time") from None


def manual_reason(account: Account, proofing: Iterable[PriorityReason]) -> str | None:
    """Why this account is left to a person instead of getting a token, or None.

    Enrollment takes the token and a code over a *different* channel, so an account with one
    usable contact can't enroll by itself; what the runbook lists is proofed by hand.
    """
    for reason in account.reasons:
        if reason in proofing:
            return f"manual proofing: {reason.value}"
    if not account.email or not account.phone:
        missing = "email" if not account.email else "phone"
        return f"no second channel: {missing} missing or malformed"
    return None
