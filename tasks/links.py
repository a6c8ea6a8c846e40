"""A fresh enrollment for people who asked for one, were reminded, or were proofed by hand."""

import asyncio
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from recovery.accounts import Stage
from tasks.case import Case
from tasks.claims import claimed, people
from tasks.counts import BatchCounts
from tasks.enroll import issue_for
from tasks.notify import notify_accounts
from tasks.reroute import lost, reachable
from tasks.retries import RETRIES

WAITING = (Stage.TOKEN_ISSUED, Stage.NOTIFIED)


@task(
    task_run_name="serve link requests",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def serve_requests(case: Case, refs: Sequence[str]) -> BatchCounts:
    """A new generation of enrollment and message for each; their requests are marked as served.

    Who has enrolled meanwhile, or has used up the message budget, is marked and gets nothing.
    """
    counts = await fresh_links(case, refs)
    await asyncio.to_thread(case.ledger.serve_link_requests, case.incident_id, refs)
    return counts


@task(
    task_run_name="send fresh links",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def remind(case: Case, refs: Sequence[str]) -> BatchCounts:
    """The same for people who did not ask."""
    return await fresh_links(case, refs)


@task(
    task_run_name="write again where a message came back",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def reroute(case: Case) -> BatchCounts:
    """A fresh link over the channels that are left, for people whose message came back."""
    return await fresh_links(case, await lost(case))


async def fresh_links(case: Case, refs: Sequence[str]) -> BatchCounts:
    """Nobody gets more than the runbook's number of messages over a channel, those without a link
    counted: who has used them up keeps the link of the last one."""
    await case.brake.check()
    ledger, incident_id = case.ledger, case.incident_id

    def waiting() -> list[str]:
        accounts = ledger.accounts(incident_id, stages=set(WAITING), refs=refs)
        return [account.ref for account in accounts]

    budget = case.policy.notify.max_messages
    current = await asyncio.to_thread(
        ledger.current_enrollments, incident_id, await asyncio.to_thread(waiting)
    )
    by_hand = await asyncio.to_thread(
        ledger.messages_without_link, incident_id, [e.ref for e in current]
    )
    chosen = [
        e.ref
        for e in current
        if e.generation + max(by_hand.get(e.ref, {}).values(), default=0) < budget
    ]
    await asyncio.to_thread(ledger.issue, incident_id, chosen)
    return await _write_to(case, chosen)


@task(
    task_run_name="enroll released accounts",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def enroll_released(case: Case, refs: Sequence[str], *, actor: str) -> int:
    """Accounts whose identity a person has proofed: from MANUAL to a link. Returns how many of
    them really stood in MANUAL."""
    ledger, incident_id = case.ledger, case.incident_id
    released = await asyncio.to_thread(ledger.release, incident_id, list(refs), actor=actor)
    accounts = await asyncio.to_thread(
        lambda: list(ledger.accounts(incident_id, stages={Stage.CONTAINED}, refs=refs))
    )
    await issue_for(case, accounts)
    await _write_to(case, [account.ref for account in accounts])
    return released


async def _write_to(case: Case, refs: Sequence[str]) -> BatchCounts:
    if not refs:
        return BatchCounts()
    accounts = await asyncio.to_thread(
        lambda: list(case.ledger.accounts(case.incident_id, stages={Stage.TOKEN_ISSUED}, refs=refs))
    )
    able = await reachable(case, accounts)
    given = {account.ref for account in accounts} - {account.ref for account in able}
    manual = await asyncio.to_thread(
        lambda: list(case.ledger.accounts(case.incident_id, stages={Stage.MANUAL}, refs=given))
    )
    async with claimed(case, people(accounts)):
        return await notify_accounts(case, able, manual if given else [])
