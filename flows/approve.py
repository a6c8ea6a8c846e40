"""A gate that needs a person: suspend the run, check who answered, and remember it.

The run's process ends while it waits. On resume the run starts from the top; a gate that has
passed is passed again from the ledger, and each attempt has a key of its own, so that no answer
is ever read twice (PrefectHQ/prefect#18326).
"""

import asyncio
from typing import Literal

from prefect import get_run_logger
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import adelete_flow_run_input
from pydantic import Field, SecretStr, create_model

from recovery import approvals
from recovery.approvals import Answer, Decision, GatePlan
from recovery.errors import RecoveryError, Unverified
from recovery.incident import ApprovalAttempt
from recovery.policy import ApprovalPolicy
from tasks.case import Case


class Rejected(RecoveryError):
    """An approver said no; the run ends with what was and what was not done."""


class ApprovalForm(RunInput):
    """The fields of the Resume form. What is approved stands above them as Markdown."""

    approver: str = Field(title="Your approver name", max_length=64)
    decision: Literal["approve", "reject", "hold"] = Field("hold", title="Decision")
    reason: str = Field("", title="Reason, for the audit log", max_length=500)
    code: SecretStr = Field(SecretStr(""), title="One-time code (6 digits)")
    digest: str = Field(title="Digest of the plan you read", max_length=64)


def _form(plan: GatePlan, description: str) -> type[ApprovalForm]:
    """The form of one attempt, with the plan's digest filled in and the Markdown above it."""
    digest = Field(plan.digest, title="Digest of the plan you read", max_length=64)
    bound = create_model("Approval", digest=(str, digest), __base__=ApprovalForm)
    return bound.with_initial_data(description=description)


async def pass_gate(case: Case, plan: GatePlan, policy: ApprovalPolicy, *, requester: str) -> None:
    """Returns when an approval of exactly this plan stands; suspends the run until then.

    A gate once passed with a plan stays passed for it: an approval expires unused, not used.
    Raises Rejected where an approver said no. A wrong code, an unknown approver, an expired or
    mismatching digest each leave the run suspended, with the reason in the next form.
    """
    ledger, incident_id = case.ledger, case.incident_id
    if not policy.required:
        return
    passed = f"gate.{plan.gate}.passed.{plan.digest[:16]}"
    if await case.marked(passed):
        return
    while True:
        attempts = await asyncio.to_thread(ledger.approvals, incident_id, plan.gate)
        match approvals.standing(attempts, plan.digest, ledger.now()):
            case Decision.APPROVE:
                await asyncio.to_thread(ledger.mark, incident_id, passed)
                return
            case Decision.REJECT:
                raise Rejected(
                    f"Pass the gate {plan.gate}",
                    subject=incident_id,
                    expected="an approval",
                    got="a rejection",
                    advice="What was done before stands; the report lists it.",
                )
        await asyncio.to_thread(ledger.mark, incident_id, f"gate.{plan.gate}.waiting")
        await _ask(case, plan, policy, attempts, requester)


async def _ask(
    case: Case,
    plan: GatePlan,
    policy: ApprovalPolicy,
    attempts: list[ApprovalAttempt],
    requester: str,
) -> None:
    """One attempt: suspend, read the answer, check it, write it down."""
    number = len(attempts) + 1
    key = f"{plan.gate.replace('.', '-')}-{number}"
    given = await asuspend_flow_run(
        wait_for_input=_form(plan, _describe(plan, policy, attempts)),
        key=key,
        timeout=int(policy.timeout.total_seconds()),
    )
    assert given is not None
    answer = Answer(
        approver=given.approver.strip(),
        decision=Decision(given.decision),
        reason=given.reason,
        digest=given.digest.strip(),
    )
    now = case.ledger.now()
    refusal = approvals.refusal(
        answer,
        digest=plan.digest,
        requester=requester,
        attempts=attempts,
        policy=policy,
        limits=case.policy.approvals,
        now=now,
    ) or await _check_code(case, answer.approver, given.code)
    await asyncio.to_thread(
        case.ledger.record_approval,
        case.incident_id,
        ApprovalAttempt(
            gate=plan.gate,
            digest=answer.digest,
            attempt=number,
            approver=answer.approver,
            decision=answer.decision,
            reason=answer.reason,
            refusal=refusal,
            at=now,
            valid_until=approvals.valid_until(policy, now),
        ),
    )
    await _forget_code(key)
    get_run_logger().info(
        "Gate %s, attempt %s: %s", plan.gate, number, refusal or f"{answer.decision} accepted"
    )


async def _check_code(case: Case, approver: str, code: SecretStr) -> str:
    """Why the one-time code does not count, or empty. Vault's TOTP engine takes each code once."""
    try:
        await case.secrets.verify_code(approver, code.get_secret_value().strip())
    except Unverified:
        return approvals.REFUSED_CODE
    return ""


async def _forget_code(key: str) -> None:
    """Deletes the answer from Prefect's database: the code in it is spent, and stays nowhere."""
    try:
        await adelete_flow_run_input(f"suspended-{key}-response")
    except ObjectNotFound:
        return


def _describe(plan: GatePlan, policy: ApprovalPolicy, attempts: list[ApprovalAttempt]) -> str:
    """The Markdown above the form."""
    lines = [f"## {plan.title}", ""]
    if attempts and attempts[-1].refusal:
        lines += [f"> **The last answer was refused:** {attempts[-1].refusal}.", ""]
    elif attempts and attempts[-1].decision == Decision.HOLD:
        lines += [f"> **On hold:** {attempts[-1].reason or 'no reason given'}.", ""]
    elif attempts:
        lines += [
            "> **The last approval is not valid any more:** expired, or the plan changed.",
            "",
        ]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in plan.facts.items()), ""]
    if plan.detail:
        lines += [plan.detail, ""]
    lines += [
        f"Approvers: {', '.join(policy.approvers)}. An approval is valid for "
        f"{int(policy.valid_for.total_seconds() // 60)} minutes and for this plan only.",
        "",
        f"Digest of this plan: `{plan.digest}`",
    ]
    return "\n".join(lines)
