"""Prepare people for a new authenticator: remove the old ones, open an enrollment."""

import asyncio
from collections import defaultdict

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from recovery import enroll
from recovery.accounts import Account, Act, BatchRef, Outcome, Stage, Verdict
from recovery.errors import NotFound, Refused
from tasks.acts import NO_ACCOUNT, UNFINISHED, carry_out, failed
from tasks.case import Case
from tasks.counts import BatchCounts, counted
from tasks.retries import RETRIES

REMOVE_STEP = "enroll.remove_authenticators"


@task(
    task_run_name="enroll {batch.incident_id} wave {batch.wave} batch {batch.batch}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def issue_tokens(case: Case, batch: BatchRef) -> BatchCounts:
    """TOKEN_ISSUED for who can enroll alone; MANUAL, with the reason, for who can't."""
    due = await asyncio.to_thread(case.ledger.due, batch, Stage.TOKEN_ISSUED)
    able = await _stand_aside(case, due)
    counts = await issue_for(case, able)
    if due:
        aside = len(due) - len(able)
        get_run_logger().info("%s: %s, %s left to a person", batch, counts, aside)
    return counts


async def _stand_aside(case: Case, due: list[Account]) -> list[Account]:
    """Moves who can't enroll alone to MANUAL; returns the others. Who was released stays."""
    released = await asyncio.to_thread(case.ledger.released, case.incident_id)
    aside: dict[str, list[str]] = defaultdict(list)
    able: list[Account] = []
    for account in due:
        proofing = () if account.ref in released else case.policy.priority.manual_proofing
        reason = enroll.manual_reason(account, proofing)
        if reason is None:
            able.append(account)
        else:
            aside[reason].append(account.ref)
    for reason, refs in aside.items():
        await asyncio.to_thread(case.ledger.stand_aside, case.incident_id, refs, reason)
    return able


async def issue_for(case: Case, accounts: list[Account]) -> BatchCounts:
    """Removes the old authenticators where the runbook says so, then opens the enrollments."""
    ledger, policy = case.ledger, case.policy.enroll
    if not policy.remove_old_authenticators:
        await asyncio.to_thread(ledger.issue, case.incident_id, [a.ref for a in accounts])
        return BatchCounts(done=len(accounts))
    by_act = {Act(a.ref, REMOVE_STEP): a for a in accounts}

    async def remove(act: Act) -> Outcome:
        try:
            verdict, removed = await case.platform.remove_authenticators(by_act[act].account_id)
        except NotFound:
            return Outcome(act, Verdict.REFUSED, NO_ACCOUNT)
        except (Refused, *UNFINISHED) as error:
            return failed(act, error)
        return Outcome(act, verdict, counts=(("authenticators", removed),))

    carried = await carry_out(
        case, by_act, remove, width=case.width(policy.concurrency, "platform")
    )
    ready = {o.act.subject for o in carried.now.results if o.verdict.settled_well}
    ready |= {act.subject for act in carried.before}
    await asyncio.to_thread(
        ledger.issue, case.incident_id, [a.ref for a in accounts if a.ref in ready]
    )
    return counted(carried.now.or_raise())
