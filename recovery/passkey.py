"""A passkey as it is bound: the public half that the authenticator made (W3C Web Authentication 3).

Nothing in here is secret, yet it says which device belongs to whom: kept out of logs and reprs.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from recovery.errors import Misconfigured

TRANSPORTS = frozenset({"usb", "nfc", "ble", "smart-card", "hybrid", "internal"})
"""Registered hints; what else a browser says is left out."""


@dataclass(frozen=True, slots=True)
class Passkey:
    """`public_key` is COSE (RFC 9052); `user_handle` is what a sign-in without a name is found by;
    `rp_id` the domain for which it works. Zero as `sign_count` means that it does not count."""

    credential_id: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    sign_count: int
    transports: tuple[str, ...]
    user_handle: bytes = field(repr=False)
    rp_id: str
    backed_up: bool
    """Synced by the person's own account somewhere, so that a lost device is not the end of it."""

    def document(self) -> dict[str, object]:
        """As JSON, bytes in base64url without padding as WebAuthn writes them."""
        return {
            "credential_id": b64url(self.credential_id),
            "public_key": b64url(self.public_key),
            "sign_count": self.sign_count,
            "transports": list(self.transports),
            "user_handle": b64url(self.user_handle),
            "rp_id": self.rp_id,
            "backed_up": self.backed_up,
        }

    def text(self) -> str:
        return json.dumps(self.document(), separators=(",", ":"))


def read_passkey(text: str) -> Passkey:
    """The value of `Passkey.text`. Raises Misconfigured for anything else."""
    try:
        found: Mapping[str, object] = json.loads(text)
        return Passkey(
            credential_id=from_b64url(str(found["credential_id"])),
            public_key=from_b64url(str(found["public_key"])),
            sign_count=int(str(found["sign_count"])),
            transports=tuple(str(one) for one in _listed(found["transports"])),
            user_handle=from_b64url(str(found["user_handle"])),
            rp_id=str(found["rp_id"]),
            backed_up=found["backed_up"] is True,
        )
    except (ValueError, KeyError, TypeError):
        raise Misconfigured(
            "Read a passkey that was kept", expected="what this program wrote", got="something else"
        ) from None


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_b64url(text: str) -> bytes:
    """ValueError for what is not base64url."""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None


def _listed(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError
    return value
