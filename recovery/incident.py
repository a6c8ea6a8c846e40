"""What the ledger remembers of one incident, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from recovery.accounts import Act, Channel, Stage, Verdict


class Phase(StrEnum):
    DETECT = "detect"
    CONTAIN = "contain"
    ENROLL = "enroll"
    ROTATE = "rotate"
    NOTIFY = "notify"
    VALIDATE = "validate"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Incident:
    incident_id: str
    opened_at: datetime
    window_start: datetime
    window_end: datetime
    runbook_digest: str
    runbook_commit: str
    requested_by: str
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ScopeCounts:
    """Rows in = admitted + excluded + unknown to the roster; contacts quarantined beside it."""

    sighted: int
    admitted: int
    excluded: int
    unrostered: int
    """Sighted accounts that the roster does not know: quarantined, shown, not admitted."""
    high_priority: int
    quarantined_fields: int
    unattributed_events: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Intention:
    """What `intend` found. Only `fresh` was written now and may be acted on at once.

    `unsettled` was intended before and its outcome is not known (a crash, or UNKNOWN): repeat it
    where repeating is safe, else reconcile. `refused` and `settled` need nothing more.
    """

    fresh: tuple[Act, ...]
    unsettled: tuple[Act, ...]
    refused: tuple[Act, ...]
    settled: tuple[Act, ...]


@dataclass(frozen=True, slots=True)
class ActRecord:
    act: Act
    verdict: Verdict | None
    detail: str
    receipt: str
    counts: Mapping[str, int]
    intended_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts, never lists. Keys: `stages[(wave, stage)]`, `verdicts[(step, wave, verdict)]`;
    an act intended and not settled counts under verdict None; a client's act has wave -1."""

    stages: Mapping[tuple[int, Stage], int]
    verdicts: Mapping[tuple[str, int, Verdict | None], int]

    def in_stage(self, *stages: Stage, wave: int | None = None) -> int:
        return sum(
            n for (w, s), n in self.stages.items() if s in stages and (wave is None or w == wave)
        )

    def of_verdict(self, step: str, *verdicts: Verdict | None, wave: int | None = None) -> int:
        """Sum over acts whose step is `step` or begins with `step.`."""
        return sum(
            n
            for (s, w, v), n in self.verdicts.items()
            if (s == step or s.startswith(step + "."))
            and v in verdicts
            and (wave is None or w == wave)
        )


@dataclass(frozen=True, slots=True)
class Enrollment:
    """A person's open invitation to bind a new authenticator. The token is derived from this row
    and never stored: same row, same token. `expires_at` is None until a message is composed."""

    incident_id: str
    ref: str
    jti: str
    generation: int
    created_at: datetime
    issued_at: datetime | None = None
    expires_at: datetime | None = None
    redeemed_at: datetime | None = None
    superseded_at: datetime | None = None


class AuthenticatorKind(StrEnum):
    """What a person may bind here."""

    TOTP = "totp"
    PASSKEY = "passkey"


@dataclass(frozen=True, slots=True)
class PortalSession:
    """One browser's way through one enrollment, keyed by the SHA-256 of its cookie."""

    session_hash: str
    incident_id: str
    ref: str
    jti: str
    created_at: datetime
    expires_at: datetime
    code_sent_at: datetime | None = None
    code_verified_at: datetime | None = None
    sealed_candidate: bytes | None = None
    """The authenticator secret shown to the person, sealed by the portal's own key."""
    completed_at: datetime | None = None
    sealed_passkey: bytes | None = None
    """The new passkey's public half as it was verified, sealed likewise."""
    challenge: str = ""
    """What a new passkey has to be made for; empty where there is none or it ran out."""
    method: AuthenticatorKind | None = None
    """What the enrollment was redeemed with; None before."""


class CodeCheck(StrEnum):
    """What the ledger says of one typed second-channel code; counted before compared."""

    ACCEPTED = "accepted"
    WRONG = "wrong"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class ApprovalAttempt:
    """One try at a gate, accepted or not. `refusal` is empty where the attempt was accepted."""

    gate: str
    digest: str
    attempt: int
    approver: str
    decision: str
    reason: str
    refusal: str
    at: datetime
    valid_until: datetime | None = None
    run_id: str = ""
    """The Prefect run whose form was answered."""
    requester: str = ""
    """Who requested that run."""


@dataclass(frozen=True, slots=True)
class GateRequest:
    """One time that people were asked to let a gate pass. `number` counts from 1 at each gate."""

    gate: str
    number: int
    digest: str
    run_id: str
    requester: str
    asked_at: datetime
    asked_again: bool = False
    """True where an earlier rejection of the same plan was set aside on purpose."""
    closed: str = ""
    """Empty while nobody has answered; then `answered`, or why no answer came."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Which run works on an incident now. Renewed while it lives; `until` is wall-clock time."""

    incident_id: str
    lane: str
    run_id: str
    flow: str
    taken_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class StopOrder:
    """An emergency stop that stands until somebody releases it."""

    incident_id: str
    reason: str
    ordered_by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """An app client whose secret is linked to the incident, with who reads the secret."""

    client_id: str
    name: str
    owner: str
    risk: str
    consumers: tuple[str, ...]
    linked_accounts: int
    wave: int
    untouched_reason: str = ""
    """Why it is not rotated (no known consumer, frozen), else empty."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The first time something happened: `contain.started`, `gate.notify.waiting`."""

    name: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whether work was claimed. Times are wall-clock."""

    taken: bool
    free_at: datetime | None = None
    """Where it was not: when the claim that stands in the way lapses, unless it is renewed."""
    lapsed_at: datetime | None = None
    """Where it was: when the claim of a holder who never let go had lapsed, if there was one."""


class DeliveryEvent(StrEnum):
    """What a provider says later about a message that it had accepted."""

    DELIVERED = "delivered"
    BOUNCED = "bounced"
    DROPPED = "dropped"
    OPTED_OUT = "optout"

    @property
    def is_final(self) -> bool:
        """Whether writing to this person over this channel again is useless."""
        return self is not DeliveryEvent.DELIVERED


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event of a provider. `dedupe` is the provider's id of the event, `receipt` its id of the
    message, `notice` our own where the provider gives it back."""

    receipt: str
    event: DeliveryEvent
    dedupe: str
    notice: str = ""


FailedChannels = Mapping[str, Mapping[Channel, DeliveryEvent]]
"""ref -> channel -> why no message gets through there."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """An account as the portal may see it: how to reach and name the person, and where it stands.
    Who is worth attacking (priority, followers, apps) is kept from the part that faces the net."""

    ref: str
    incident_id: str
    account_id: str
    handle: str = field(repr=False)
    email: str | None = field(repr=False)
    phone: str | None = field(repr=False)
    locale: str
    stage: Stage
