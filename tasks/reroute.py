"""After a message came back: the next channel, or a person where no channel with a link is left.

Webhooks write bounces into the ledger; whoever notifies next looks here first.
"""

import asyncio
from collections.abc import Sequence

from recovery.accounts import Account, BatchRef
from recovery.notify import LINK_CHANNELS
from tasks.case import Case

NO_LINK_CHANNEL = "no channel with a link reaches this person"


async def lost(case: Case) -> list[str]:
    """Refs of people whose link came back and who may get another message."""
    refs = await asyncio.to_thread(case.ledger.lost_links, case.incident_id)
    current = await asyncio.to_thread(case.ledger.current_enrollments, case.incident_id, refs)
    budget = case.policy.notify.max_messages
    return [e.ref for e in current if e.generation < budget]


async def reopen_lost(case: Case, batch: BatchRef) -> None:
    """Gives the batch's people whose link came back a fresh enrollment: they are due again."""
    refs = await lost(case)
    if not refs:
        return

    def members() -> list[str]:
        found = case.ledger.accounts(case.incident_id, wave=batch.wave, refs=refs)
        return [account.ref for account in found if account.batch == batch.batch]

    chosen = await asyncio.to_thread(members)
    await asyncio.to_thread(case.ledger.issue, case.incident_id, chosen)


async def reachable(case: Case, accounts: Sequence[Account]) -> list[Account]:
    """Who can still be sent a link. The others are given to a person, with the reason."""
    refs = [account.ref for account in accounts]
    failed = await asyncio.to_thread(case.ledger.unreachable, case.incident_id, refs)
    able: list[Account] = []
    hopeless: list[str] = []
    for account in accounts:
        left = set(LINK_CHANNELS) & set(account.channels) & set(case.policy.notify.channels)
        left -= set(failed.get(account.ref, {}))
        # Where the runbook has no such channel at all, that is the runbook's choice.
        if left or account.ref not in failed:
            able.append(account)
        else:
            hopeless.append(account.ref)
    if hopeless:
        await asyncio.to_thread(case.ledger.hand_over, case.incident_id, hopeless, NO_LINK_CHANNEL)
    return able
