"""What must be true of the world at any moment, and what when an incident has ended.

Asked of the world's own truth, of Vault and of the ledger's evidence; never of Prefect.
"""

import asyncio

from ledger import Ledger
from recovery.errors import RecoveryError
from rehearsal.stage import Stage
from rehearsal.verdict import judge
from tasks.notify import ENROLLED_MEANWHILE


def at_any_time(stage: Stage) -> list[str]:
    """What is wrong with the world now; empty while nobody was harmed."""
    world = stage.world
    wrong = [
        f"{count} times the notice {notice} to one person"
        for (_, notice), count in world.mailboxes.received_twice().items()
    ]
    wrong += [
        f"excluded {i} was touched"
        for i in world.population.excluded_ids
        if world.platform.effects(i)
    ]
    if world.fleet.failures:
        wrong.append(f"{world.fleet.failures} requests of consumers failed")
    for client in world.population.clients.values():
        current = world.vault.read(f"apps/{client.id}").get("secret_id")
        active = {s.id for s in world.platform.secrets_of(client.id) if s.status == "ACTIVE"}
        if current not in active:
            wrong.append(f"the secret that Vault has for {client.id} does not work")
    return wrong


def _enrolled_meanwhile(ledger: Ledger, incident_id: str) -> set[str]:
    """Who was not told over every channel any more; the people say themselves if it is so."""
    refs = {
        record.act.subject
        for record in ledger.acts(incident_id, "notify")
        if record.detail == ENROLLED_MEANWHILE
    }
    return {account.account_id for account in ledger.accounts(incident_id, refs=refs)}


async def at_the_end(stage: Stage, ledger: Ledger, incident_id: str) -> list[str]:
    """What is wrong once the run has completed."""
    world = stage.world
    await world.delivered()
    wrong = await asyncio.to_thread(at_any_time, stage)
    broken = (world.fleet.failures, world.fleet.requests)
    spared = await asyncio.to_thread(_enrolled_meanwhile, ledger, incident_id)
    checks = await judge(stage, broken, spared=spared)
    wrong += [f"not so: {check.name}: {check.found}" for check in checks if not check.passed]
    for client in world.population.clients.values():
        kept = world.vault.read(f"apps/{client.id}")
        ids = {s.id for s in world.platform.secrets_of(client.id)}
        if ids != {kept.get("secret_id")}:
            wrong.append(f"{client.id} has {len(ids)} secrets at the platform, Vault knows one")
        if left := [name for name in kept if name.startswith(("pending_", "previous_"))]:
            wrong.append(f"Vault still has {', '.join(left)} of {client.id}")
    wrong += [
        f"no outcome: {record.act.step} {record.act.generation} of {record.act.subject}"
        for record in ledger.unsettled(incident_id)
    ]
    try:
        await asyncio.to_thread(ledger.verify_audit)
    except RecoveryError as error:
        wrong.append(f"the audit log does not verify: {error}")
    return wrong
