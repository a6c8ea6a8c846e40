"""One account's own state at the platform: password, authenticators, banners, sign-in rules."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import pyotp

from rehearsal.world.asgi import Problem
from rehearsal.world.cast import AccountSeed
from rehearsal.world.effects import Effect
from rehearsal.world.passkeys import BoundPasskey

_DECOY_SECRET = pyotp.random_base32()
_MIN_TOTP_SECRET_BYTES = 10
_THROTTLED_HANDLES = 10_000


class AccountStatus(StrEnum):
    ACTIVE = "active"
    LOCKED = "locked"
    DEACTIVATED = "deactivated"


@dataclass(frozen=True, slots=True)
class Authenticator:
    id: str
    type: str
    label: str
    created_at: datetime
    secret: str | None = field(default=None, repr=False)
    passkey: BoundPasskey | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Banner:
    """An in-app notice as the signed-in person sees it."""

    id: str
    idempotency_key: str
    title: str
    body: str
    link: str | None
    code: str
    signature: str | None
    created_at: datetime


@dataclass(slots=True)
class AccountState:
    """`reset_required` after a forced reset: no password works until the person sets one."""

    seed: AccountSeed
    password_digest: bytes = field(repr=False)
    authenticators: dict[str, Authenticator]
    status: AccountStatus = AccountStatus.ACTIVE
    reset_required: bool = False
    password_set_at: datetime | None = None
    banners: dict[str, Banner] = field(default_factory=dict)
    bound_by_key: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id and content of the authenticator that was bound with each key."""
    effects: list[Effect] = field(default_factory=list)

    def totp_secrets(self) -> list[str]:
        return [a.secret for a in self.authenticators.values() if a.secret is not None]

    def passkeys(self) -> list[Authenticator]:
        return [a for a in self.authenticators.values() if a.passkey is not None]

    def password_is(self, password: str) -> bool:
        given = password_digest(self.seed.id, password)
        return hmac.compare_digest(given, self.password_digest) and not self.reset_required

    def code_is_right(self, code: str | None, at: datetime) -> bool:
        """By any bound TOTP authenticator, one step of 30 s either way."""
        accepted = [_accepts(secret, code, at) for secret in self.totp_secrets()]
        return any(accepted)

    def lets_in(self, password: str, code: str | None, at: datetime) -> bool:
        """Password, and a code where a TOTP authenticator is bound. Always the same work. Where
        a passkey alone is bound, this way is shut."""
        right_password = self.password_is(password)
        if self.totp_secrets():
            right_code = self.code_is_right(code, at)
        else:
            right_code = not self.passkeys()
            spend_time_on_code(code, at)
        return right_password and right_code and self.status is AccountStatus.ACTIVE


def password_digest(account_id: str, password: str) -> bytes:
    return hashlib.sha256(f"{account_id}\x00{password}".encode()).digest()


def spend_time_on_code(code: str | None, at: datetime) -> None:
    """So that an answer takes as long where there is no secret to check."""
    _accepts(_DECOY_SECRET, code, at)


def _accepts(secret: str, code: str | None, at: datetime) -> bool:
    return pyotp.TOTP(secret).verify(code or "-", for_time=at, valid_window=1)


def new_authenticator(kind: str, secret: str, label: str, at: datetime) -> Authenticator:
    """A TOTP authenticator. Problem 400 for another type or a secret that isn't base32 of at
    least 80 bits."""
    if kind != "totp":
        raise Problem(400, "unsupported_type", "TOTP authenticators and passkeys can be bound.")
    bare = secret.rstrip("=")
    try:
        raw = base64.b32decode(bare + "=" * (-len(bare) % 8))
    except (binascii.Error, ValueError):
        raise Problem(400, "bad_secret", "The secret is not base32.") from None
    if len(raw) < _MIN_TOTP_SECRET_BYTES:
        raise Problem(400, "bad_secret", "The secret is too short.")
    return Authenticator(f"aut-{secrets.token_hex(6)}", kind, label, at, secret)


class LoginThrottle:
    """Ten failures a minute per handle, known or not; then the door stays shut for a while."""

    LIMIT = 10
    WINDOW = timedelta(minutes=1)

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[datetime]] = OrderedDict()

    def check(self, handle: str, at: datetime) -> None:
        """Problem 429 with the seconds until the next try in Retry-After."""
        failures = self._failures.get(handle, deque())
        while failures and failures[0] <= at - self.WINDOW:
            failures.popleft()
        if len(failures) >= self.LIMIT:
            wait = (failures[0] + self.WINDOW - at).total_seconds()
            headers = (("Retry-After", str(max(1, round(wait)))),)
            raise Problem(429, "too_many_attempts", "Try again later.", headers=headers)

    def failed(self, handle: str, at: datetime) -> None:
        self._failures.setdefault(handle, deque()).append(at)
        self._failures.move_to_end(handle)
        if len(self._failures) > _THROTTLED_HANDLES:
            self._failures.popitem(last=False)

    def succeeded(self, handle: str) -> None:
        self._failures.pop(handle, None)
