"""The words for who lives on the platform: accounts as they were just before the burst."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Role(StrEnum):
    MEMBER = "member"
    COMMUNITY_MANAGER = "community_manager"
    BRAND = "brand"
    ADMIN = "admin"
    SERVICE = "service"


class Behaviour(StrEnum):
    """What a person does about our message, `AccountSeed.delay` after it came.

    PROMPT enrolls at once (the delay is in seconds of real time), MISTYPES_ONCE too, but gets
    one code wrong first. LATER_TODAY and NEXT_DAYS take hours of the world's time.
    NEEDS_FOLLOW_UP lets the first message lie and enrolls the delay after a second one.
    ASKS_FRESH_LINK opens the link when it has expired, asks for a fresh one and uses that.
    AFTER_PROOFING gets a message only once somebody has proofed him by hand; then as PROMPT.
    BYSTANDER is not affected, or never to be touched, and should hear nothing from us.
    """

    PROMPT = "prompt"
    MISTYPES_ONCE = "mistypes_once"
    LATER_TODAY = "later_today"
    NEXT_DAYS = "next_days"
    NEEDS_FOLLOW_UP = "needs_follow_up"
    ASKS_FRESH_LINK = "asks_fresh_link"
    AFTER_PROOFING = "after_proofing"
    BYSTANDER = "bystander"


@dataclass(frozen=True, slots=True)
class AuthenticatorSeed:
    """A second factor from before; `secret` is set for TOTP only."""

    id: str
    type: str
    label: str
    created_at: datetime
    secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class AccountSeed:
    """One account. Contacts are what the platform holds, dirt included; `opted_out` means that
    texts to the number are refused (STOP)."""

    id: str
    handle: str = field(repr=False)
    email: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    role: Role
    brand_account: bool
    followers: int
    billing_linked: bool
    last_active: datetime | None
    linked_apps: tuple[str, ...]
    locale: str
    password: str = field(repr=False)
    totp_secret: str | None = field(repr=False)
    authenticators: tuple[AuthenticatorSeed, ...]
    behaviour: Behaviour
    delay: timedelta
    opted_out: bool = False


@dataclass(frozen=True, slots=True)
class ResetHit:
    """One password reset of the burst: when, and what the password became."""

    account_id: str
    at: datetime
    new_password: str = field(repr=False)
    known_to_attacker: bool


@dataclass(frozen=True, slots=True)
class Dirt:
    """Ids of affected accounts whose data is bad, by what is bad; no account is in two.

    `shared_mailbox` holds pairs, one after the other: the second has the first one's address.
    """

    malformed_email: tuple[str, ...] = ()
    malformed_phone: tuple[str, ...] = ()
    no_phone: tuple[str, ...] = ()
    no_email: tuple[str, ...] = ()
    shared_mailbox: tuple[str, ...] = ()
    opted_out: tuple[str, ...] = ()
