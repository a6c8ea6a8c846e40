"""Passkeys as the platform keeps and checks them: bound by an administrator, good for signing in.

Written from W3C Web Authentication 3, 7.2, without the library that the portal uses, so that a
misunderstanding there shows here.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from rehearsal.world.asgi import Problem, text_of

ES256, EDDSA, RS256 = -7, -8, -257
USER_PRESENT, USER_VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
_CHALLENGE_LIVES = timedelta(minutes=5)
_MOST_CHALLENGES = 10_000

Verifier = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class BoundPasskey:
    credential_id: bytes
    public_key: bytes = field(repr=False)
    sign_count: int
    transports: tuple[str, ...]
    user_handle: bytes = field(repr=False)


def read_binding(document: dict[str, object], domain: str) -> BoundPasskey:
    """What an administrator wants to be bound. Problem 400 for a key that could never be checked,
    and for one that was made for another site than ours."""
    transports = document.get("transports")
    count = document.get("sign_count")
    if not isinstance(transports, list) or not all(isinstance(one, str) for one in transports):
        raise Problem(400, "bad_request", "The field transports must be a list of strings.")
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**32:
        raise Problem(400, "bad_request", "The field sign_count must be a 32-bit number.")
    if text_of(document, "rp_id") != domain:
        raise Problem(400, "wrong_rp_id", "The passkey was made for another site.")
    passkey = BoundPasskey(
        credential_id=decoded(text_of(document, "credential_id")),
        public_key=decoded(text_of(document, "public_key")),
        sign_count=count,
        transports=tuple(transports),
        user_handle=decoded(text_of(document, "user_handle")),
    )
    if not 1 <= len(passkey.credential_id) <= 1023 or not 1 <= len(passkey.user_handle) <= 64:
        raise Problem(400, "bad_credential", "The credential id or user handle has a wrong length.")
    try:
        _verifier(passkey.public_key)
    except (ValueError, KeyError, TypeError, cbor2.CBORDecodeError):
        raise Problem(400, "bad_public_key", "The public key is not usable.") from None
    return passkey


class Challenges:
    """Challenges for sign-ins, each good once and for five minutes."""

    def __init__(self) -> None:
        self._open: dict[bytes, datetime] = {}

    def new(self, at: datetime) -> bytes:
        for old in [c for c, until in self._open.items() if until <= at]:
            del self._open[old]
        if len(self._open) >= _MOST_CHALLENGES:
            raise Problem(503, "busy", "Too many sign-ins at once.")
        challenge = secrets.token_bytes(32)
        self._open[challenge] = at + _CHALLENGE_LIVES
        return challenge

    def take(self, challenge: bytes, at: datetime) -> bool:
        until = self._open.pop(challenge, None)
        return until is not None and at < until


def checked(
    passkey: BoundPasskey,
    assertion: dict[str, Any],
    domain: str,
    challenges: Challenges,
    at: datetime,
) -> BoundPasskey:
    """The passkey as it stands after this sign-in. ValueError, with the reason for the log alone,
    where anything about the assertion is not as it must be."""
    response = assertion["response"]
    client_data = decoded(response["clientDataJSON"])
    said = json.loads(client_data)
    authenticator_data = decoded(response["authenticatorData"])
    if said["type"] != "webauthn.get":
        raise ValueError("made for something else")
    if not challenges.take(decoded(said["challenge"]), at):
        raise ValueError("a challenge that is not open")
    host = urlsplit(said["origin"]).hostname or ""
    if host != domain and not host.endswith(f".{domain}"):
        raise ValueError("another site's")
    if said.get("crossOrigin"):
        raise ValueError("made inside another site's page")
    if not hmac.compare_digest(authenticator_data[:32], hashlib.sha256(domain.encode()).digest()):
        raise ValueError("another site's key")
    flags, count = authenticator_data[32], int.from_bytes(authenticator_data[33:37])
    if not flags & USER_PRESENT or not flags & USER_VERIFIED:
        raise ValueError("nobody was there, or nobody was asked who he is")
    signed = authenticator_data + hashlib.sha256(client_data).digest()
    _check(_verifier(passkey.public_key), decoded(response["signature"]), signed)
    if (count or passkey.sign_count) and count <= passkey.sign_count:
        raise ValueError("a counter that went back: the key was copied")
    return replace(passkey, sign_count=count)


def decoded(text: str) -> bytes:
    """Base64url without padding. Problem 400 for another text."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_request", "A field is not base64url.") from None


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _verifier(cose: bytes) -> Verifier:
    """The key behind its COSE form (RFC 9053). ValueError and friends for anything else."""
    key = cbor2.loads(cose)
    kind, algorithm = key[1], key[3]
    if (kind, algorithm) == (2, ES256) and key[-1] == 1:
        point = ec.EllipticCurvePublicNumbers(
            int.from_bytes(key[-2]), int.from_bytes(key[-3]), ec.SECP256R1()
        )
        return point.public_key()
    if (kind, algorithm) == (1, EDDSA) and key[-1] == 6:
        return ed25519.Ed25519PublicKey.from_public_bytes(key[-2])
    if (kind, algorithm) == (3, RS256):
        return rsa.RSAPublicNumbers(int.from_bytes(key[-2]), int.from_bytes(key[-1])).public_key()
    raise ValueError("an algorithm that we do not take")


def _check(key: Verifier, signature: bytes, signed: bytes) -> None:
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(signature, signed, ec.ECDSA(SHA256()))
            case ed25519.Ed25519PublicKey():
                key.verify(signature, signed)
            case rsa.RSAPublicKey():
                key.verify(signature, signed, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        raise ValueError("another key's signature") from None
