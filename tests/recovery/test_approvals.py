"""Whether an answer counts: approver, four eyes, digest, expiry, lockout, rejection."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from recovery.approval_form import approval_form
from recovery.approvals import (
    REFUSED_CODE,
    Answer,
    Decision,
    GatePlan,
    Standing,
    barred,
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


def judged(  # type: ignore[no-untyped-def]
    answer: Answer,
    *,
    requester: str = "oscar",
    attempts=(),
    now: datetime = NOW,
    policy: ApprovalPolicy = POLICY,
) -> str:
    return refusal(
        answer,
        digest=PLAN.digest,
        requesters=[requester],
        attempts=[a for a in attempts if a.gate == PLAN.gate],
        by_approver=[a for a in attempts if a.approver == answer.approver],
        policy=policy,
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
    assert standing(accepted, PLAN.digest, NOW).decision is Decision.APPROVE
    assert standing(accepted, "0" * 64, NOW).decision is None
    assert standing(accepted, PLAN.digest, NOW + timedelta(minutes=30)).decision is None
    assert standing([attempt(1, REFUSED_CODE)], PLAN.digest, NOW).decision is None


def test_a_rejection_stands_and_a_hold_asks_again() -> None:
    rejected = [attempt(1, decision=Decision.REJECT)]
    assert standing(rejected, PLAN.digest, NOW + timedelta(days=9)).decision is Decision.REJECT
    assert standing([attempt(1, decision=Decision.HOLD)], PLAN.digest, NOW).decision is None


def test_a_lock_is_not_opened_by_trying_on() -> None:
    """What is refused for being locked never had its code looked at, so it breaks no row."""
    wrong = [attempt(n, REFUSED_CODE) for n in range(1, 4)]
    more = [*wrong, attempt(4, "too many wrong codes: this approver is locked for a while")]
    assert "locked" in judged(GOOD, attempts=more)


def test_wrong_codes_count_over_all_gates_and_a_right_one_begins_anew() -> None:
    spread_out = [attempt(1, REFUSED_CODE, gate="notify"), attempt(2, REFUSED_CODE, gate="retire")]
    assert "locked" in judged(GOOD, attempts=[*spread_out, attempt(3, REFUSED_CODE)])
    right = replace(attempt(3), gate="notify")
    assert judged(GOOD, attempts=[*spread_out, right, attempt(4, REFUSED_CODE)]) == ""


TWO = ApprovalPolicy(
    approvers=("maya", "jonas"), approvals_needed=2, valid_for=timedelta(minutes=30)
)


def stands(attempts: list[ApprovalAttempt], now: datetime = NOW, **more: object) -> Standing:
    return standing(attempts, PLAN.digest, now, needed=2, **more)  # type: ignore[arg-type]


def test_two_approvals_must_come_from_two_people() -> None:
    first = attempt(1)
    assert stands([first]).decision is None
    assert [a.approver for a in stands([first]).approved] == ["maya"]
    assert stands([first, attempt(2)]).decision is None
    assert stands([first, attempt(2, approver="Maya")]).decision is None
    assert stands([first, attempt(2, approver="jonas")]).decision is Decision.APPROVE
    assert "approved this plan already" in judged(GOOD, attempts=[first], policy=TWO)
    assert judged(replace(GOOD, approver="jonas"), attempts=[first], policy=TWO) == ""


def test_the_first_of_two_approvals_expires_by_itself() -> None:
    first = attempt(1, valid_until=NOW + timedelta(minutes=5))
    second = attempt(2, approver="jonas")
    later = NOW + timedelta(minutes=6)
    assert stands([first, second]).decision is Decision.APPROVE
    assert stands([first, second], now=later).decision is None
    assert [a.approver for a in stands([first, second], now=later).approved] == ["jonas"]
    assert judged(GOOD, attempts=[first], now=later, policy=TWO) == ""


def test_ones_own_hold_takes_ones_approval_back() -> None:
    taken_back = [attempt(1), attempt(2, decision=Decision.HOLD)]
    assert stands([*taken_back, attempt(3, approver="jonas")]).decision is None
    other = [attempt(1), attempt(2, decision=Decision.HOLD, approver="jonas")]
    assert standing(other, PLAN.digest, NOW).decision is Decision.APPROVE


def test_a_rejection_is_set_aside_only_by_asking_again() -> None:
    no = attempt(1, decision=Decision.REJECT)
    yes = attempt(2, approver="jonas")
    assert standing([no, yes], PLAN.digest, NOW).decision is Decision.REJECT
    asked = no.at + timedelta(microseconds=1)
    assert standing([no], PLAN.digest, NOW, asked_again=asked).decision is None
    assert standing([no, yes], PLAN.digest, NOW, asked_again=asked).decision is Decision.APPROVE
    again = [no, attempt(2, decision=Decision.REJECT)]
    assert standing(again, PLAN.digest, NOW, asked_again=asked).decision is Decision.REJECT


def test_every_requester_is_barred() -> None:
    assert barred(POLICY, ["oscar", "MAYA"]) == ["maya"]
    assert barred(POLICY.model_copy(update={"four_eyes": False}), ["maya"]) == []


def test_more_approvals_than_approvers_is_no_rule() -> None:
    with pytest.raises(ValidationError, match="at least 2 different approvers"):
        ApprovalPolicy(approvers=("maya", "maya"), approvals_needed=2)


def form(**more: object) -> str:
    given = {"policy": TWO, "stands": Standing(None), "attempts": [], "requesters": ["oscar"]}
    return approval_form(PLAN, **{**given, **more})  # type: ignore[arg-type]


def test_the_form_says_who_has_approved_and_what_is_missing() -> None:
    assert "needs 2 people.** Missing: 2 different people." in form()
    first = attempt(1)
    shown = form(stands=stands([first]), attempts=[first])
    assert "maya approved at 12:00 UTC, valid until 12:30 UTC. Missing: 1 more person." in shown
    assert "not valid any more" not in shown
    assert "Can't approve, because they requested a run: jonas." in form(requesters=["Jonas"])


def test_a_reason_cant_dress_up_as_a_part_of_the_plan() -> None:
    held = attempt(1, decision=Decision.HOLD, reason="x\n\n# Approved\n| a | b |\n<b>`code`</b>")
    line = next(x for x in form(attempts=[held]).splitlines() if "On hold" in x)
    assert line == r"> **On hold:** x \# Approved \| a \| b \| \<b\>\`code\`\</b\>."


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
