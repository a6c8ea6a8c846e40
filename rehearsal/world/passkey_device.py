"""A person's phone as a passkey authenticator, and what his browser does before it is asked.

Software, ES256, discoverable, with user verification; attestation `none` (W3C Web Authentication 3,
6.5.2 and 8.7). The phone refuses what a phone refuses: a site's key for another site, a second key
where the site says that it has one.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from rehearsal.world.passkeys import (
    ATTESTED,
    BACKED_UP,
    BACKUP_ELIGIBLE,
    ES256,
    USER_PRESENT,
    USER_VERIFIED,
    decoded,
    encoded,
)

_AAGUID = bytes(16)


class DeviceRefused(Exception):
    """The DOMException that a browser would throw, by its name."""


@dataclass(slots=True)
class _Key:
    credential_id: bytes
    private: ec.EllipticCurvePrivateKey = field(repr=False)
    rp_id: str
    user_handle: bytes = field(repr=False)
    count: int = 0


class Device:
    """One person's. `verifies` says whether it knows its owner; one that does not cannot make a
    key where user verification is required."""

    def __init__(self, *, verifies: bool = True) -> None:
        self.verifies = verifies
        self._keys: list[_Key] = []

    def create(self, options: dict[str, Any], origin: str) -> dict[str, Any]:
        """As `navigator.credentials.create` and `toJSON`. Raises DeviceRefused."""
        rp_id = str(options["rp"]["id"])
        selection = options.get("authenticatorSelection", {})
        self._at_home(rp_id, origin)
        if ES256 not in [one["alg"] for one in options["pubKeyCredParams"]]:
            raise DeviceRefused("NotSupportedError")
        if selection.get("userVerification") == "required" and not self.verifies:
            raise DeviceRefused("NotAllowedError")
        known = {decoded(one["id"]) for one in options.get("excludeCredentials", [])}
        if any(key.credential_id in known and key.rp_id == rp_id for key in self._keys):
            raise DeviceRefused("InvalidStateError")
        handle = decoded(options["user"]["id"])
        key = _Key(secrets.token_bytes(32), ec.generate_private_key(ec.SECP256R1()), rp_id, handle)
        # One discoverable key for one user of one site: the new one takes the old one's place.
        self._keys = [k for k in self._keys if (k.rp_id, k.user_handle) != (rp_id, handle)]
        self._keys.append(key)
        attested = (
            _AAGUID
            + len(key.credential_id).to_bytes(2)
            + key.credential_id
            + _cose(key.private.public_key())
        )
        attestation = cbor2.dumps(
            {
                "fmt": "none",
                "attStmt": {},
                "authData": self._authenticator_data(key, ATTESTED) + attested,
            }
        )
        client_data = _client_data("webauthn.create", options["challenge"], origin)
        return _credential(
            key,
            {
                "clientDataJSON": encoded(client_data),
                "attestationObject": encoded(attestation),
                "transports": ["internal", "hybrid"],
            },
        )

    def get(self, options: dict[str, Any], origin: str) -> dict[str, Any]:
        """As `navigator.credentials.get` and `toJSON`, with the newest key that fits."""
        rp_id = str(options["rpId"])
        self._at_home(rp_id, origin)
        allowed = {decoded(one["id"]) for one in options.get("allowCredentials", [])}
        fitting = [
            key
            for key in self._keys
            if key.rp_id == rp_id and (not allowed or key.credential_id in allowed)
        ]
        if not fitting:
            raise DeviceRefused("NotAllowedError")
        key = fitting[-1]
        key.count += 1
        client_data = _client_data("webauthn.get", options["challenge"], origin)
        authenticator_data = self._authenticator_data(key, 0)
        signed = authenticator_data + hashlib.sha256(client_data).digest()
        return _credential(
            key,
            {
                "clientDataJSON": encoded(client_data),
                "authenticatorData": encoded(authenticator_data),
                "signature": encoded(key.private.sign(signed, ec.ECDSA(SHA256()))),
                "userHandle": encoded(key.user_handle),
            },
        )

    def _at_home(self, rp_id: str, origin: str) -> None:
        """The browser's part: a page may use keys of its own domain and of those above it."""
        parts = urlsplit(origin)
        host = parts.hostname or ""
        secure = parts.scheme == "https" or host == "localhost" or host.endswith(".localhost")
        named = not host.replace(".", "").isdigit() and ":" not in host
        if not (secure and named and (host == rp_id or host.endswith(f".{rp_id}"))):
            raise DeviceRefused("SecurityError")

    def _authenticator_data(self, key: _Key, more: int) -> bytes:
        flags = USER_PRESENT | BACKUP_ELIGIBLE | BACKED_UP | more
        if self.verifies:
            flags |= USER_VERIFIED
        return hashlib.sha256(key.rp_id.encode()).digest() + bytes([flags]) + key.count.to_bytes(4)


def _cose(public: ec.EllipticCurvePublicKey) -> bytes:
    numbers = public.public_numbers()
    return cbor2.dumps(
        {1: 2, 3: ES256, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
    )


def _client_data(kind: str, challenge: str, origin: str) -> bytes:
    said = {"type": kind, "challenge": challenge, "origin": origin, "crossOrigin": False}
    return json.dumps(said, separators=(",", ":")).encode()


def _credential(key: _Key, response: dict[str, object]) -> dict[str, Any]:
    return {
        "id": encoded(key.credential_id),
        "rawId": encoded(key.credential_id),
        "type": "public-key",
        "authenticatorAttachment": "platform",
        "clientExtensionResults": {},
        "response": response,
    }
