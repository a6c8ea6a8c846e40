"""A gate that needs people: suspend the run, read and check the answer on resume, remember it.

The run's process ends while it waits. On resume the run starts from the top and reads the answer
first; a gate that has passed is passed again from the ledger. Each asking has a key of its own, so
that no answer is ever read twice (PrefectHQ/prefect#18326).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import get_run_logger
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.input.actions import adelete_flow_run_input, aread_flow_run_input
from prefect.runtime import flow_run
from pydantic import Field, SecretStr, ValidationError, create_model

from flows.escalate import remind_later
from flows.tell import tell
from recovery import approvals
from recovery.approval_form import approval_form
from recovery.approvals import Answer, Decision, GatePlan, Standing, standing
from recovery.errors import (
    Misconfigured,
    NotFound,
    RecoveryError,
    Refused,
    Unknown,
    Unreachable,
    Unverified,
)
from recovery.incident import ApprovalAttempt, GateRequest
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


async def pass_gate(case: Case, plan: GatePlan, policy: ApprovalPolicy, *, requester: str) -> None:
    """Returns when this gate stands open for exactly this plan; suspends the run until then.

    A gate once passed with a plan stays passed for it: an approval expires unused, not used.
    Raises Rejected where an approver said no. Everything else that is no valid answer leaves the
    run suspended, with the reason in the next form.
    """
    await case.brake.check()
    ledger, incident_id = case.ledger, case.incident_id
    passed = passed_mark(plan.gate, plan.digest)
    if policy.required and not await case.marked(passed):
        requests = await asyncio.to_thread(ledger.gate_requests, incident_id, plan.gate)
        attempts = await asyncio.to_thread(ledger.approvals, incident_id, plan.gate)
        stands = _standing(case, plan, policy, requests, attempts)
        if stands.decision is not Decision.APPROVE:
            again = await _may_ask_again(case, plan, stands, requests)
            await _ask(case, plan, policy, stands, attempts, requester, again=again)
        await asyncio.to_thread(ledger.mark, incident_id, passed)
    await note_open(case, plan.gate, plan.digest)


def passed_mark(gate: str, digest: str) -> str:
    """The mark of a gate that was passed with a plan of this digest."""
    return f"gate.{gate}.passed.{digest[:16]}"


async def note_open(case: Case, gate: str, digest: str) -> None:
    """From this audit entry on, what is done behind the gate is done under this digest."""
    attempts = await asyncio.to_thread(case.ledger.approvals, case.incident_id, gate)
    names = [
        a.approver
        for a in attempts
        if not a.refusal and a.decision == Decision.APPROVE and a.digest == digest
    ]
    await asyncio.to_thread(
        case.ledger.note,
        case.incident_id,
        "gate.open",
        actor="recovery",
        facts={
            "gate": gate,
            "digest": digest,
            "run_id": str(flow_run.id),
            "approved_by": ", ".join(dict.fromkeys(names)) or "nobody: the runbook asks for none",
        },
    )


def _standing(
    case: Case,
    plan: GatePlan,
    policy: ApprovalPolicy,
    requests: Sequence[GateRequest],
    attempts: Sequence[ApprovalAttempt],
) -> Standing:
    again = [r.asked_at for r in requests if r.asked_again and r.digest == plan.digest]
    return standing(
        attempts,
        plan.digest,
        case.ledger.now(),
        needed=policy.approvals_needed,
        asked_again=max(again, default=None),
    )


async def _may_ask_again(
    case: Case, plan: GatePlan, stands: Standing, requests: Sequence[GateRequest]
) -> bool:
    """True where a rejection stands and this run was started to ask once more; once a run. Raises
    Rejected where it stands for good."""
    if stands.rejected is None:
        return False
    run_id = str(flow_run.id)
    done = any(r.asked_again and r.run_id == run_id and r.digest == plan.digest for r in requests)
    if not done and await asyncio.to_thread(case.ledger.asks_again, case.incident_id, run_id):
        return True
    raise Rejected(
        f"Pass the gate {plan.gate}",
        subject=case.incident_id,
        expected="an approval",
        got=f"a rejection by {stands.rejected.approver}",
        advice="What was done before stands. To have people asked once more, start a run with "
        "`ask_again` on.",
    )


async def _ask(
    case: Case,
    plan: GatePlan,
    policy: ApprovalPolicy,
    stands: Standing,
    attempts: Sequence[ApprovalAttempt],
    requester: str,
    *,
    again: bool,
) -> None:
    """Writes the request down, tells who listens, and ends this process. Never returns."""
    ledger, incident_id, run_id = case.ledger, case.incident_id, str(flow_run.id)
    await asyncio.to_thread(ledger.mark, incident_id, f"gate.{plan.gate}.waiting")
    wanted = GateRequest(plan.gate, 0, plan.digest, run_id, requester, ledger.now(), again)
    request = await asyncio.to_thread(ledger.request_approval, incident_id, wanted)
    requesters = await asyncio.to_thread(ledger.requesters, incident_id)
    description = approval_form(plan, policy, stands, attempts, requesters=requesters, again=again)
    tell(
        case.incident_id,
        "recovery.approval.requested",
        {
            "gate": plan.gate,
            "title": plan.title,
            "approvers": list(policy.approvers),
            "needed": policy.approvals_needed - len(stands.approved),
            "digest": plan.digest,
            "request": request.number,
            "run": str(flow_run.ui_url or run_id),
        },
    )
    await remind_later(case, request, policy.timeout)
    try:
        # Without a timeout: Prefect would fail the run. Who does not answer is reminded of it.
        await asuspend_flow_run(
            wait_for_input=_form(plan, description), key=_key(request), timeout=None
        )
    except RuntimeError as error:
        raise Misconfigured(
            f"Ask for an approval of {plan.gate}",
            subject=incident_id,
            expected="a run of a deployment, which can be suspended",
            got=str(error).split("\n")[0][:200],
            advice="Start the run from its deployment.",
        ) from None
    raise Misconfigured(
        f"Ask for an approval of {plan.gate}", subject=incident_id, got="a run that went on"
    )


def _form(plan: GatePlan, description: str) -> type[ApprovalForm]:
    """The form of one request, with the plan's digest filled in and the Markdown above it."""
    digest = Field(plan.digest, title="Digest of the plan you read", max_length=64)
    bound = create_model("Approval", digest=(str, digest), __base__=ApprovalForm)
    return bound.with_initial_data(description=description)


def _key(request: GateRequest) -> str:
    return f"{request.gate.replace('.', '-')}-{request.number}"


async def read_answers(case: Case, run_id: str) -> bool:
    """Reads, checks, records and deletes what this run was answered while it was suspended; True
    where it had asked anybody. The first thing a run does: whatever changes afterwards, an answer
    that was given counts for the plan that was read."""
    try:
        requests = await asyncio.to_thread(case.ledger.gate_requests, case.incident_id)
    except NotFound:
        return False
    mine = [request for request in requests if request.run_id == run_id]
    for request in mine:
        key = f"suspended-{_key(request)}-response"
        if not request.closed:
            given = await _given(key)
            if given is None:
                why = "the run went on without an answer"
                await asyncio.to_thread(case.ledger.close_request, case.incident_id, request, why)
            else:
                await _judge(case, request, given)
        await _forget(key)
    return bool(mine)


async def _given(key: str) -> Any:
    """The answer as it was sent, or None. What is no JSON is an answer, too: a wrong one."""
    try:
        return await aread_flow_run_input(key)
    except ValueError:
        return ""


async def _judge(case: Case, request: GateRequest, given: Any) -> None:
    """One answer: who, what, whether it counts, in the ledger and as an event."""
    ledger, incident_id, now = case.ledger, case.incident_id, case.ledger.now()
    policy = case.policy.approvals.of_gate(request.gate)
    attempts = await asyncio.to_thread(ledger.approvals, incident_id, request.gate)
    answer, code = _read(given, request)
    refusal = (
        approvals.UNREADABLE
        if answer is None
        else approvals.refusal(
            answer,
            digest=request.digest,
            requesters=await asyncio.to_thread(ledger.requesters, incident_id),
            attempts=attempts,
            by_approver=await asyncio.to_thread(ledger.attempts_of, answer.approver),
            policy=policy,
            limits=case.policy.approvals,
            now=now,
        )
        or await _check_code(case, answer.approver, code)
    )
    answer = answer or Answer("", Decision.HOLD, "", request.digest)
    attempt = ApprovalAttempt(
        gate=request.gate,
        digest=answer.digest,
        attempt=len(attempts) + 1,
        approver=answer.approver,
        decision=answer.decision,
        reason=answer.reason,
        refusal=refusal,
        at=now,
        valid_until=approvals.valid_until(policy, now),
        run_id=request.run_id,
        requester=request.requester,
    )
    await asyncio.to_thread(ledger.record_approval, incident_id, attempt, answers=request)
    tell(
        incident_id,
        "recovery.approval.answered",
        {
            "gate": request.gate,
            "request": request.number,
            "decision": answer.decision.value,
            "accepted": not refusal,
            "refusal": refusal,
            "run": str(flow_run.ui_url or request.run_id),
        },
    )
    get_run_logger().info(
        "Gate %s, attempt %s: %s",
        request.gate,
        attempt.attempt,
        refusal or f"{answer.decision} accepted",
    )


def _read(given: Any, request: GateRequest) -> tuple[Answer | None, SecretStr]:
    """The answer and its code. What was written past the form's schema is no answer; pydantic's
    complaint would quote it and is not shown."""
    try:
        form = ApprovalForm.model_validate(given if isinstance(given, Mapping) else {})
    except ValidationError:
        return None, SecretStr("")
    return (
        Answer(
            approver=form.approver.strip(),
            decision=Decision(form.decision),
            reason=form.reason,
            digest=form.digest.strip(),
        ),
        form.code,
    )


async def _check_code(case: Case, approver: str, code: SecretStr) -> str:
    """Why the one-time code does not count, or empty. Vault's TOTP engine takes each code once."""
    try:
        await case.secrets.verify_code(approver, code.get_secret_value().strip())
    except Unverified:
        return approvals.REFUSED_CODE
    except (Unreachable, Unknown):
        return approvals.UNCHECKED_CODE
    except (Misconfigured, Refused):
        return approvals.NO_KEY
    return ""


async def _forget(key: str) -> None:
    """Deletes the answer from Prefect's database: the code in it is spent, and stays nowhere."""
    try:
        await adelete_flow_run_input(key)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
