"""Tell people that an authenticator was set up for them: once, over another channel if possible.

The portal has no credential for mail and no need of one; what it has settled in the ledger is told
from here, by whoever serves links.
"""

import asyncio

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ledger.confirmations import UNTOLD_STEP, Unconfirmed
from recovery.accounts import Account, Act, Outcome, Verdict
from recovery.notify import PlannedNotice, plan_confirmation
from tasks.case import Case
from tasks.claims import claimed
from tasks.counts import BatchCounts, counted
from tasks.notify import send_plain
from tasks.retries import RETRIES


@task(
    task_run_name="tell who has enrolled",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def confirm_enrolled(case: Case) -> BatchCounts:
    """A few hundred people at a time; call again while anybody was told. Within the runbook's
    channels and budget: who can't be told is written down with the reason."""
    async with claimed(case, ["confirmations"]):
        return await _tell(case)


async def _tell(case: Case) -> BatchCounts:
    waiting = await asyncio.to_thread(case.ledger.unconfirmed, case.incident_id)
    if not waiting:
        return BatchCounts()
    accounts = await asyncio.to_thread(
        lambda: {
            account.ref: account
            for account in case.ledger.accounts(case.incident_id, refs=[w.ref for w in waiting])
        }
    )
    planned: list[tuple[Account, PlannedNotice]] = []
    untold: list[Outcome] = []
    for one in waiting:
        account = accounts[one.ref]
        notice = _plan(case, account, one)
        if isinstance(notice, PlannedNotice):
            planned.append((account, notice))
        else:
            act = Act(one.ref, UNTOLD_STEP, one.generation)
            untold.append(Outcome(act, Verdict.REFUSED, notice))
    await _write_down(case, untold)
    outcomes = await send_plain(case, planned)
    counts = counted(outcomes)
    get_run_logger().info("told of their new authenticator: %s, %s not told", counts, len(untold))
    return counts


def _plan(case: Case, account: Account, one: Unconfirmed) -> PlannedNotice | str:
    return plan_confirmation(
        account, case.policy, generation=one.generation, sent=one.sent, refused=one.refused
    )


async def _write_down(case: Case, untold: list[Outcome]) -> None:
    if untold:
        acts = [outcome.act for outcome in untold]
        await asyncio.to_thread(case.ledger.intend, case.incident_id, acts)
        await asyncio.to_thread(case.ledger.settle, case.incident_id, untold)
