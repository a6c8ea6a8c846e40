"""Whether a human's answer at a gate counts: who, for which plan, how often, until when."""

import hashlib
import json
from collections.abc import Mapping, Sequence
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


def standing(attempts: Sequence[ApprovalAttempt], digest: str, now: datetime) -> Decision | None:
    """The decision that stands for this plan, or None where somebody must be asked (again).

    A rejection stands for good; an approval until it expires, and only for its digest.
    """
    for attempt in reversed(attempts):
        if attempt.refusal or attempt.digest != digest:
            continue
        if attempt.decision == Decision.REJECT:
            return Decision.REJECT
        if attempt.decision == Decision.APPROVE:
            if attempt.valid_until is not None and now < attempt.valid_until:
                return Decision.APPROVE
            return None
    return None


def refusal(
    answer: Answer,
    *,
    digest: str,
    requester: str,
    attempts: Sequence[ApprovalAttempt],
    policy: ApprovalPolicy,
    limits: Approvals,
    now: datetime,
) -> str:
    """Why this answer does not count, before its code is looked at; empty where it may count."""
    if not answer.approver:
        return "no approver was named"
    if answer.approver not in policy.approvers:
        return "this approver is not in the runbook's list for this gate"
    if locked_until(answer.approver, attempts, limits, now) is not None:
        return "too many wrong codes: this approver is locked for a while"
    if policy.four_eyes and answer.approver.casefold() == requester.casefold():
        return "the requester can't approve his own run"
    if answer.digest != digest:
        return "the plan has changed since this form was shown"
    if not answer.reason.strip():
        return "a reason is needed for the audit log"
    return ""


def locked_until(
    approver: str, attempts: Sequence[ApprovalAttempt], limits: Approvals, now: datetime
) -> datetime | None:
    """When the approver may try again after too many wrong codes in a row, or None."""
    wrong: list[datetime] = []
    for attempt in reversed(attempts):
        if attempt.approver != approver:
            continue
        if attempt.refusal != REFUSED_CODE:
            break
        wrong.append(attempt.at)
    if len(wrong) < limits.max_wrong_codes:
        return None
    until = wrong[0] + limits.lockout
    return until if now < until else None


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
