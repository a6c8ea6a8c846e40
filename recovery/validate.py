"""Whether an account, a password and a secret are really in the state that the run claims.

Judges what the platform counts as alive and what the smoke tests got: the old password expects
401, the new client secret 200. No answer is no evidence and never passes.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from recovery.accounts import Account, Stage
from recovery.contain import CredentialKind, kinds
from recovery.policy import ContainPolicy

_CREDENTIALS = (
    "sessions",
    "device_sessions",
    "refresh_tokens",
    "access_tokens",
    "grants",
    "recovery_tokens",
)


@dataclass(frozen=True, slots=True)
class LiveCredentials:
    """What the platform counts as alive for one account at one moment; counts, never values."""

    sessions: int
    device_sessions: int
    refresh_tokens: int
    access_tokens: int
    grants: int
    recovery_tokens: int
    password_reset_required: bool
    authenticators: int

    @property
    def any(self) -> bool:
        """True where somebody could still get in: something is alive or the password is not reset.

        Authenticators don't count: none of them opens an account without a password.
        """
        return bool(self.alive)

    @property
    def alive(self) -> str:
        """What keeps `any` true, with counts: "sessions 2, password not reset"; "" for nothing."""
        found = [
            f"{name.replace('_', ' ')} {getattr(self, name)}"
            for name in _CREDENTIALS
            if getattr(self, name)
        ]
        if not self.password_reset_required:
            found.append("password not reset")
        return ", ".join(found)

    def of(self, kind: CredentialKind) -> int:
        """How many of this kind live; access tokens count with the refresh tokens they hang on."""
        match kind:
            case CredentialKind.REFRESH_TOKENS:
                return self.refresh_tokens + self.access_tokens
            case CredentialKind.SESSIONS:
                return self.sessions
            case CredentialKind.DEVICE_SESSIONS:
                return self.device_sessions
            case CredentialKind.GRANTS:
                return self.grants
            case CredentialKind.RECOVERY_TOKENS:
                return self.recovery_tokens
            case _:
                assert_never(kind)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Passed where `failures` is empty. The failures name counts, never values."""

    subject: str
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def detail(self) -> str:
        """For the ledger: short and the same for the same finding."""
        return "; ".join(self.failures) or "passed"


class ProbeKind(StrEnum):
    """What a smoke test tries."""

    OLD_PASSWORD = "old password"  # noqa: S105 - the name of a probe
    OLD_SESSION = "old session"
    OLD_SECRET = "old client secret"  # noqa: S105 - the name of a probe
    NEW_SECRET = "new client secret"  # noqa: S105 - the name of a probe
    CONSUMER_HEALTH = "consumer health"

    @property
    def expected(self) -> int:
        """The HTTP status that passes."""
        match self:
            case ProbeKind.OLD_PASSWORD | ProbeKind.OLD_SESSION | ProbeKind.OLD_SECRET:
                return 401
            case ProbeKind.NEW_SECRET | ProbeKind.CONSUMER_HEALTH:
                return 200
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class Probe:
    """One smoke test on an account ref or client id. `got` is None where no answer came."""

    subject: str
    kind: ProbeKind
    got: int | None


@dataclass(frozen=True, slots=True)
class Smoke:
    """The probes of one round, counted. `reasons` says what failed, how often."""

    passed: int
    failed: int
    reasons: Mapping[str, int]


def judge(account: Account, live: LiveCredentials, policy: ContainPolicy) -> Judgement:
    """Looks at one account from the side of its stage.

    Before the person came back nothing that the runbook revokes may live, and the password must
    still be reset. After it (ENROLLED, VALIDATED) there are new sessions and a new password, so
    only the bound authenticator is asked for.
    """
    if account.stage in (Stage.ENROLLED, Stage.VALIDATED):
        bound = live.authenticators > 0
        return Judgement(account.ref, () if bound else ("no authenticator is bound",))
    if account.stage in (Stage.SCOPED, Stage.EXCLUDED):
        return Judgement(account.ref, (f"not contained: stage {account.stage}",))
    return Judgement(account.ref, still_alive(live, policy))


def still_alive(live: LiveCredentials, policy: ContainPolicy) -> tuple[str, ...]:
    """What should be dead by this runbook and is not; what it leaves alone may live."""
    failures = [
        f"{kind.value.replace('_', ' ')} still alive: {live.of(kind)}"
        for kind in kinds(policy)
        if live.of(kind)
    ]
    if policy.force_password_reset and not live.password_reset_required:
        failures.append("the password is not reset")
    return tuple(failures)


def judge_probe(probe: Probe) -> Judgement:
    """The verdict on one smoke test."""
    if probe.got == probe.kind.expected:
        return Judgement(probe.subject)
    got = "no answer" if probe.got is None else str(probe.got)
    failure = f"{probe.kind.value}: expected {probe.kind.expected}, got {got}"
    return Judgement(probe.subject, (failure,))


def smoke(probes: Iterable[Probe]) -> Smoke:
    """Counts a round for `recovery.gates.smoke_gate`; a probe without an answer has failed."""
    passed = failed = 0
    reasons: Counter[str] = Counter()
    for probe in probes:
        judgement = judge_probe(probe)
        passed += judgement.passed
        failed += not judgement.passed
        reasons.update(judgement.failures)
    return Smoke(passed, failed, dict(reasons.most_common()))


def sample(accounts: Sequence[Account], n: int, seed: str | int) -> list[Account]:
    """At most `n` accounts to look at: the same for the same seed, whatever order they come in.

    Every wave and priority is represented as long as `n` reaches, then chance (SHA-256 of seed and
    ref) decides. Excluded accounts are never sampled.
    """
    ranked = sorted(
        (a for a in accounts if a.stage is not Stage.EXCLUDED and not a.excluded),
        key=lambda a: _lot(a.ref, seed),
    )
    strata: set[tuple[int, str]] = set()
    firsts: list[Account] = []
    others: list[Account] = []
    for account in ranked:
        stratum = (account.wave, account.priority)
        (others if stratum in strata else firsts).append(account)
        strata.add(stratum)
    firsts.sort(key=lambda a: a.wave)
    return (firsts + others)[: max(n, 0)]


def _lot(ref: str, seed: str | int) -> bytes:
    return hashlib.sha256(f"{seed}\x00{ref}".encode()).digest()
