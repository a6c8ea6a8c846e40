"""Which of an account's credentials die, and in which order (RFC 7009: refresh tokens first)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from recovery.accounts import Account, Act, Stage
from recovery.policy import ContainPolicy, ExclusionPolicy

STEP = "contain.account"


class CredentialKind(StrEnum):
    """What an account can be entered with besides its password."""

    REFRESH_TOKENS = "refresh_tokens"
    SESSIONS = "sessions"
    DEVICE_SESSIONS = "device_sessions"
    GRANTS = "grants"
    RECOVERY_TOKENS = "recovery_tokens"


@dataclass(frozen=True, slots=True)
class Containment:
    """The plan for one account. The forced password reset comes last: it locks the person out,
    the kills before it lock the attacker out."""

    account: Account
    kinds: tuple[CredentialKind, ...]
    force_password_reset: bool
    verify: bool

    @property
    def act(self) -> Act:
        return Act(self.account.ref, STEP)

    @property
    def calls(self) -> int:
        """Requests to the platform that this plan needs at most."""
        return len(self.kinds) + self.force_password_reset + self.verify


def kinds(policy: ContainPolicy) -> tuple[CredentialKind, ...]:
    """The chosen kinds in the order in which they are revoked: what renews itself goes first."""
    chosen = {
        CredentialKind.REFRESH_TOKENS: policy.refresh_tokens,
        CredentialKind.SESSIONS: policy.sessions,
        CredentialKind.DEVICE_SESSIONS: policy.device_sessions,
        CredentialKind.GRANTS: policy.grants,
        CredentialKind.RECOVERY_TOKENS: policy.recovery_tokens,
    }
    return tuple(kind for kind, wanted in chosen.items() if wanted)


def plan(
    accounts: Iterable[Account], policy: ContainPolicy, exclusions: ExclusionPolicy
) -> list[Containment]:
    """A containment per account. Exclusions are looked at again here, right before the act."""
    never = set(exclusions.accounts)
    order = kinds(policy)
    return [
        Containment(a, order, policy.force_password_reset, policy.verify)
        for a in accounts
        if a.stage is Stage.SCOPED and not a.excluded and a.account_id not in never
    ]


def describe(plans: Sequence[Containment]) -> str:
    """One line for people: what is done to how many accounts, in how many requests."""
    if not plans:
        return "nothing to contain"
    what = ", ".join(kind.value.replace("_", " ") for kind in plans[0].kinds)
    if plans[0].force_password_reset:
        what += ", then a forced password reset"
    return f"{len(plans)} accounts: revoke {what} ({sum(p.calls for p in plans)} requests)"
