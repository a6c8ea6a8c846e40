"""The words for who is affected and how far we got with them; one word, one meaning."""

import hashlib
import hmac
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

Clock = Callable[[], datetime]
"""Returns the present time as an aware UTC datetime."""


class Stage(StrEnum):
    """Where one account is. The first six are passed in this order; the last two stand aside."""

    SCOPED = "SCOPED"
    CONTAINED = "CONTAINED"
    TOKEN_ISSUED = "TOKEN_ISSUED"  # noqa: S105 - the name of a stage
    NOTIFIED = "NOTIFIED"
    ENROLLED = "ENROLLED"
    VALIDATED = "VALIDATED"
    EXCLUDED = "EXCLUDED"
    MANUAL = "MANUAL"

    @property
    def rank(self) -> int:
        """Position on the path; EXCLUDED is before everything, MANUAL is a contained account."""
        return _RANK[self]


_RANK = {
    Stage.EXCLUDED: -1,
    Stage.SCOPED: 0,
    Stage.CONTAINED: 1,
    Stage.MANUAL: 1,
    Stage.TOKEN_ISSUED: 2,
    Stage.NOTIFIED: 3,
    Stage.ENROLLED: 4,
    Stage.VALIDATED: 5,
}


class Verdict(StrEnum):
    """What became of one act. UNKNOWN is not failure: the answer never came."""

    DONE = "DONE"
    ALREADY = "ALREADY"
    REFUSED = "REFUSED"
    UNKNOWN = "UNKNOWN"

    @property
    def settled_well(self) -> bool:
        """True where the world is now as intended."""
        return self in (Verdict.DONE, Verdict.ALREADY)


class Channel(StrEnum):
    EMAIL = "email"
    SMS = "sms"
    IN_APP = "in_app"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"


class PriorityReason(StrEnum):
    """Why an account goes first and is looked at by a person."""

    BRAND = "brand"
    ADMIN = "admin"
    FOLLOWERS = "high follower count"
    BILLING = "linked billing"


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the SIEM saw of one account inside the burst, already aggregated."""

    account_id: str
    first_seen: datetime
    last_seen: datetime
    resets: int
    source: str


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One account as the platform describes it. Contacts are raw, not yet checked."""

    account_id: str
    handle: str
    email: str | None
    phone: str | None
    role: str
    brand_account: bool
    followers: int
    billing_linked: bool
    last_active: datetime | None
    linked_apps: tuple[str, ...]
    locale: str
    status: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A value that could not be used, kept with where it stood and why; never dropped silently.

    `source` and `row` say where to look ("platform roster", 17); `field` is the column.
    The value itself stays in the source.
    """

    source: str
    row: int
    field: str
    reason: str
    account_id: str | None = None


@dataclass(frozen=True, slots=True)
class Affected:
    """One affected account after the join with the roster: who, how urgent, and why."""

    account_id: str
    handle: str
    email: str | None
    phone: str | None
    last_active: datetime | None
    linked_apps: tuple[str, ...]
    locale: str
    priority: Priority
    reasons: tuple[PriorityReason, ...]
    first_seen: datetime
    last_seen: datetime
    resets: int
    excluded: str | None = None
    """Why this account is never touched (own service account, break-glass), or None."""


@dataclass(frozen=True, slots=True)
class BatchRef:
    """Names a batch; all that crosses from flow to task. Carries no personal data."""

    incident_id: str
    wave: int
    batch: int

    def __str__(self) -> str:
        return f"{self.incident_id} wave {self.wave} batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Placed:
    """An affected account with the wave and batch it keeps for life."""

    account: Affected
    wave: int
    batch: int


@dataclass(frozen=True, slots=True)
class Account:
    """One admitted account as the ledger remembers it."""

    ref: str
    account_id: str
    handle: str
    email: str | None
    phone: str | None
    locale: str
    last_active: datetime | None
    linked_apps: tuple[str, ...]
    priority: Priority
    reasons: tuple[PriorityReason, ...]
    wave: int
    batch: int
    stage: Stage
    excluded: str | None = None
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    resets: int = 0
    stage_reason: str = ""
    """Why the account stands in MANUAL, else empty."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels for which a usable contact is on record; in-app needs none."""
        on_record: list[Channel] = []
        if self.email:
            on_record.append(Channel.EMAIL)
        if self.phone:
            on_record.append(Channel.SMS)
        return (*on_record, Channel.IN_APP)


@dataclass(frozen=True, slots=True)
class Act:
    """One intended effect on one subject: written before it is tried, settled after.

    `subject` is an account ref or a client id, `step` is dotted ("contain.revoke",
    "notify.email"), `generation` counts repetitions meant as such (a follow-up message).
    """

    subject: str
    step: str
    generation: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an act. `detail` is a short reason without personal data or secrets;
    `receipt` is the other side's opaque id (message id, build number, secret version)."""

    act: Act
    verdict: Verdict
    detail: str = ""
    receipt: str = ""
    counts: tuple[tuple[str, int], ...] = field(default=())


def account_ref(key: bytes, incident_id: str, account_id: str) -> str:
    """The opaque name under which an account appears in logs, tokens and messages.

    HMAC-SHA256, 80 bits, so that it cannot be turned back without the ledger's key.
    """
    digest = hmac.new(key, f"{incident_id}\x00{account_id}".encode(), hashlib.sha256).digest()
    return "acc-" + b32encode(digest[:10]).decode().lower()
