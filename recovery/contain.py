"""Which of an account's credentials die, and in which order (RFC 7009: refresh tokens first).

First what opens new sessions (refresh tokens, mailed recovery links, the password), then what is
open already: the other way round, an attacker comes back in between.
"""

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
    """The plan for one account: `doors`, the forced password reset, then what is `inside`."""

    account: Account
    doors: tuple[CredentialKind, ...]
    inside: tuple[CredentialKind, ...]
    force_password_reset: bool
    verify: bool

    @property
    def act(self) -> Act:
        return Act(self.account.ref, STEP)

    @property
    def calls(self) -> int:
        """Requests to the platform that this plan needs at most."""
        return len(self.doors) + len(self.inside) + self.force_password_reset + self.verify


_DOORS = (CredentialKind.REFRESH_TOKENS, CredentialKind.RECOVERY_TOKENS)


def kinds(policy: ContainPolicy) -> tuple[CredentialKind, ...]:
    """The chosen kinds in the order in which they are revoked."""
    chosen = {
        CredentialKind.REFRESH_TOKENS: policy.refresh_tokens,
        CredentialKind.RECOVERY_TOKENS: policy.recovery_tokens,
        CredentialKind.SESSIONS: policy.sessions,
        CredentialKind.DEVICE_SESSIONS: policy.device_sessions,
        CredentialKind.GRANTS: policy.grants,
    }
    return tuple(kind for kind, wanted in chosen.items() if wanted)


def containment(account: Account, policy: ContainPolicy) -> Containment:
    """What is done to one account under this runbook."""
    order = kinds(policy)
    return Containment(
        account,
        doors=tuple(kind for kind in order if kind in _DOORS),
        inside=tuple(kind for kind in order if kind not in _DOORS),
        force_password_reset=policy.force_password_reset,
        verify=policy.verify,
    )


def plan(
    accounts: Iterable[Account], policy: ContainPolicy, exclusions: ExclusionPolicy
) -> list[Containment]:
    """A containment per account. Exclusions are looked at again here, right before the act."""
    never = set(exclusions.accounts)
    return [
        containment(a, policy)
        for a in accounts
        if a.stage is Stage.SCOPED and not a.excluded and a.account_id not in never
    ]


def describe(plans: Sequence[Containment]) -> str:
    """One line for people: what is done to how many accounts, in how many requests."""
    if not plans:
        return "nothing to contain"
    steps = [*plans[0].doors, *plans[0].inside]
    what = ", ".join(kind.value.replace("_", " ") for kind in steps)
    if plans[0].force_password_reset:
        what += ", and reset the password by force"
    return f"{len(plans)} accounts: revoke {what} ({sum(p.calls for p in plans)} requests)"
