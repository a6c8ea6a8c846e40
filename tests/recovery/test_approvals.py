"""Whether an answer counts: approver, four eyes, digest, expiry, lockout, rejection."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recovery.approvals import (
    REFUSED_CODE,
    Answer,
    Decision,
    GatePlan,
    locked_until,
    refusal,
    standing,
)
from recovery.incident import ApprovalAttempt
from recovery.policy import ApprovalPolicy, Approvals

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
POLICY = ApprovalPolicy(approvers=("maya", "jonas"), valid_for=timedelta(minutes=30))
LIMITS = Approvals(contain=POLICY, notify=POLICY, retire=POLICY, hold=POLICY, max_wrong_codes=3)
PLAN = GatePlan("contain", "Contain 3 accounts", {"Accounts": "3"}, "detail")
GOOD = Answer("maya", Decision.APPROVE, "confirmed with the SOC", PLAN.digest)


def attempt(number: int, refused: str = "", **changes: object) -> ApprovalAttempt:
    base = ApprovalAttempt(
        gate="contain",
        digest=PLAN.digest,
        attempt=number,
        approver="maya",
        decision=Decision.APPROVE,
        reason="ok",
        refusal=refused,
        at=NOW + timedelta(seconds=number),
        valid_until=NOW + timedelta(minutes=30),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def judged(answer: Answer, *, requester: str = "oscar", attempts=(), now: datetime = NOW) -> str:  # type: ignore[no-untyped-def]
    return refusal(
        answer,
        digest=PLAN.digest,
        requester=requester,
        attempts=attempts,
        policy=POLICY,
        limits=LIMITS,
        now=now,
    )


def test_a_good_answer_counts() -> None:
    assert judged(GOOD) == ""


@pytest.mark.parametrize(
    ("answer", "requester", "why"),
    [
        (replace(GOOD, approver=""), "oscar", "no approver"),
        (replace(GOOD, approver="mallory"), "oscar", "not in the runbook's list"),
        (GOOD, "Maya", "requester can't approve"),
        (replace(GOOD, digest="0" * 64), "oscar", "plan has changed"),
        (replace(GOOD, reason="  "), "oscar", "reason is needed"),
    ],
)
def test_refused(answer: Answer, requester: str, why: str) -> None:
    assert why in judged(answer, requester=requester)


def test_wrong_codes_lock_the_approver_for_a_while_only_him() -> None:
    wrong = [attempt(n, REFUSED_CODE) for n in range(1, 4)]
    assert "locked" in judged(GOOD, attempts=wrong)
    assert judged(replace(GOOD, approver="jonas"), attempts=wrong) == ""
    later = NOW + timedelta(minutes=20)
    assert judged(GOOD, attempts=wrong, now=later) == ""
    assert locked_until("maya", wrong[:2], LIMITS, NOW) is None


def test_an_approval_is_bound_to_digest_and_time() -> None:
    accepted = [attempt(1, REFUSED_CODE), attempt(2)]
    assert standing(accepted, PLAN.digest, NOW) is Decision.APPROVE
    assert standing(accepted, "0" * 64, NOW) is None
    assert standing(accepted, PLAN.digest, NOW + timedelta(minutes=30)) is None
    assert standing([attempt(1, REFUSED_CODE)], PLAN.digest, NOW) is None


def test_a_rejection_stands_and_a_hold_asks_again() -> None:
    rejected = [attempt(1, decision=Decision.REJECT)]
    assert standing(rejected, PLAN.digest, NOW + timedelta(days=9)) is Decision.REJECT
    assert standing([attempt(1, decision=Decision.HOLD)], PLAN.digest, NOW) is None


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAN, gate="notify"),
        replace(PLAN, title="Contain 4 accounts"),
        replace(PLAN, facts={"Accounts": "4"}),
        replace(PLAN, detail="other"),
    ],
)
def test_everything_an_approver_reads_is_in_the_digest(other: GatePlan) -> None:
    assert other.digest != PLAN.digest
