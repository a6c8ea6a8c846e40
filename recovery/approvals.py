"""Whether a human's answer at a gate counts: who, for which plan, how often, until when."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recovery.incident import ApprovalAttempt
from recovery.policy import ApprovalPolicy, Approvals


class Decision(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What an approver is asked to let happen. `facts` are shown and digested, in this order."""

    gate: str
    title: str
    facts: Mapping[str, str]
    detail: str = ""
    """Markdown below the facts; digested too."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over everything the approver reads; the approval is bound to it."""
        canonical = json.dumps(
            [self.gate, self.title, list(self.facts.items()), self.detail], ensure_ascii=False
        )
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back through the form."""

    approver: str
    decision: Decision
    reason: str
    digest: str


REFUSED_CODE = "the one-time code was not accepted"
UNCHECKED_CODE = "Vault could not check the one-time code; it may count as used"
NO_KEY = "Vault has no key for this approver, or does not let us ask"
UNREADABLE = "the answer could not be read"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the accepted answers to one plan amount to now."""

    decision: Decision | None
    """None: somebody must be asked (again)."""
    approved: tuple[ApprovalAttempt, ...] = ()
    """Approvals of different people that are valid now, the first one first."""
    rejected: ApprovalAttempt | None = None


def standing(
    attempts: Sequence[ApprovalAttempt],
    digest: str,
    now: datetime,
    *,
    needed: int = 1,
    asked_again: datetime | None = None,
) -> Standing:
    """What stands for this plan. Each person's last word counts, so a later `hold` takes one's own
    approval back; approvals expire one by one and hold for their digest alone.

    A rejection stands for good, except one from before `asked_again`, when an operator said
    that people shall be asked once more.
    """
    last: dict[str, ApprovalAttempt] = {}
    rejected: ApprovalAttempt | None = None
    for attempt in attempts:
        if attempt.refusal or attempt.digest != digest:
            continue
        if attempt.decision == Decision.REJECT:
            if asked_again is None or attempt.at > asked_again:
                rejected = attempt
            continue
        last.pop(attempt.approver.casefold(), None)
        last[attempt.approver.casefold()] = attempt
    if rejected is not None:
        return Standing(Decision.REJECT, rejected=rejected)
    approved = tuple(
        a
        for a in last.values()
        if a.decision == Decision.APPROVE and a.valid_until is not None and now < a.valid_until
    )
    return Standing(Decision.APPROVE if len(approved) >= needed else None, approved)


def refusal(
    answer: Answer,
    *,
    digest: str,
    requesters: Collection[str],
    attempts: Sequence[ApprovalAttempt],
    by_approver: Sequence[ApprovalAttempt],
    policy: ApprovalPolicy,
    limits: Approvals,
    now: datetime,
) -> str:
    """Why this answer does not count, before its code is looked at; empty where it may count.

    `attempts` are those at this gate; `by_approver` are this approver's at all gates.
    """
    if not answer.approver:
        return "no approver was named"
    if answer.approver not in policy.approvers:
        return "this approver is not in the runbook's list for this gate"
    if locked_until(answer.approver, by_approver, limits, now) is not None:
        return "too many wrong codes: this approver is locked for a while"
    if policy.four_eyes and answer.approver.casefold() in {r.casefold() for r in requesters}:
        return "the requester can't approve his own run"
    if answer.digest != digest:
        return "the plan has changed since this form was shown"
    if not answer.reason.strip():
        return "a reason is needed for the audit log"
    if answer.decision is Decision.APPROVE:
        held = standing(attempts, digest, now, needed=policy.approvals_needed)
        if answer.approver.casefold() in {a.approver.casefold() for a in held.approved}:
            return "this approver has approved this plan already; another person is needed"
    return ""


def locked_until(
    approver: str, attempts: Sequence[ApprovalAttempt], limits: Approvals, now: datetime
) -> datetime | None:
    """When the approver may try again after too many wrong codes in a row, or None.

    Only an accepted code breaks the row: what was refused before its code was looked at does not.
    """
    wrong: list[datetime] = []
    for attempt in sorted(attempts, key=lambda a: a.at, reverse=True):
        if attempt.approver != approver or attempt.refusal not in ("", REFUSED_CODE):
            continue
        if not attempt.refusal:
            break
        wrong.append(attempt.at)
    if len(wrong) < limits.max_wrong_codes:
        return None
    until = wrong[0] + limits.lockout
    return until if now < until else None


def barred(policy: ApprovalPolicy, requesters: Collection[str]) -> list[str]:
    """The gate's approvers who requested a run on this incident and so can't approve it."""
    asked = {r.casefold() for r in requesters}
    return [a for a in policy.approvers if a.casefold() in asked] if policy.four_eyes else []


def valid_until(policy: ApprovalPolicy, now: datetime) -> datetime:
    return now + policy.valid_for


def plan_facts(counts: Mapping[str, int | str | timedelta]) -> dict[str, str]:
    """Facts as text in the given order; durations in minutes and seconds."""
    return {name: _shown(value) for name, value in counts.items()}


def _shown(value: int | str | timedelta) -> str:
    if isinstance(value, timedelta):
        minutes, seconds = divmod(int(value.total_seconds()), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    if isinstance(value, int):
        return f"{value:,}"
    return value
