"""What stands above the fields of a Resume form, as Markdown: the plan, who has said what, who may.

Free text of people is quoted harmlessly: a reason can't dress up as a part of the plan.
"""

import re
from collections.abc import Collection, Sequence

from recovery.approvals import Decision, GatePlan, Standing, barred
from recovery.incident import ApprovalAttempt
from recovery.policy import ApprovalPolicy

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#+!|~-])")


def approval_form(
    plan: GatePlan,
    policy: ApprovalPolicy,
    stands: Standing,
    attempts: Sequence[ApprovalAttempt],
    *,
    requesters: Collection[str],
    again: bool = False,
) -> str:
    """The Markdown of one request: why it is asked (again), the plan, the rules of the gate."""
    lines = [f"## {plan.title}", "", *_last(attempts, stands, again)]
    if policy.approvals_needed > 1:
        lines += [_two(policy, stands), ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in plan.facts.items()), ""]
    if plan.detail:
        lines += [plan.detail, ""]
    minutes = int(policy.valid_for.total_seconds() // 60)
    lines += [
        f"Approvers: {', '.join(policy.approvers)}. An approval is valid for {minutes} minutes and "
        "for this plan only.",
        "",
    ]
    out = barred(policy, requesters)
    if out:
        lines += [f"Can't approve, because they requested a run: {', '.join(out)}.", ""]
    lines += [f"Requested by: {', '.join(plain(r) for r in requesters)}.", ""]
    lines += [f"Digest of this plan: `{plan.digest}`"]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Foreign text as one line that Markdown leaves as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _last(attempts: Sequence[ApprovalAttempt], stands: Standing, again: bool) -> list[str]:
    """What became of the answer before, in one quoted line."""
    if again and stands.rejected is not None:
        no = stands.rejected
        return [
            f"> **Rejected before** by {plain(no.approver)} at {no.at:%Y-%m-%d %H:%M} UTC: "
            f"{plain(no.reason)}. The requester asks once more.",
            "",
        ]
    if not attempts:
        return []
    last = attempts[-1]
    if last.refusal:
        return [f"> **The last answer was refused:** {last.refusal}.", ""]
    if last.decision == Decision.HOLD:
        return [f"> **On hold:** {plain(last.reason) or 'no reason given'}.", ""]
    if any(a.attempt == last.attempt for a in stands.approved):
        return []
    return ["> **The last approval is not valid any more:** expired, or the plan changed.", ""]


def _two(policy: ApprovalPolicy, stands: Standing) -> str:
    """How many people have approved, and what is missing."""
    missing = policy.approvals_needed - len(stands.approved)
    said = "; ".join(
        f"{plain(a.approver)} approved at {a.at:%H:%M} UTC, valid until {a.valid_until:%H:%M} UTC"
        for a in stands.approved
    )
    more = "1 more person" if missing == 1 else f"{missing} different people"
    begun = f"{said}. " if said else ""
    return f"**This gate needs {policy.approvals_needed} people.** {begun}Missing: {more}."
