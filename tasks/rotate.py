"""Rotate client secrets: one secret per task run, each step decided by looking, never by memory."""

import asyncio

from prefect import task
from prefect.cache_policies import NO_CACHE

from recovery import app_clients
from recovery.accounts import Stage, Verdict
from recovery.app_clients import AppClient, InPlan, Lift
from recovery.incident import ClientRecord
from recovery.inventory import InventoryRow
from recovery.rotate import StepKind, marker
from tasks.case import Case
from tasks.claims import claimed
from tasks.inventory import merged_clients, rows_of
from tasks.retries import RETRIES
from tasks.rotate_steps import Rotated, Rotation, secret_path, trouble
from tasks.run_log import run_log

__all__ = [
    "Rotated",
    "admit",
    "approve",
    "gaps",
    "inventory",
    "lifted_waves",
    "linked_clients",
    "not_rotated",
    "order_of",
    "renew_secret",
    "retire_secret",
    "retiring_secrets",
    "rotatable",
    "take_inventory",
    "trouble",
    "waiting_for",
]

APPROVED = "rotate.approved."
"""Begins the mark that names a client which is rotated in spite of its reason not to be."""
REJECTED = "rotate.rejected."


@task(task_run_name="take inventory", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def take_inventory(case: Case) -> list[list[str]]:
    """Writes every client linked to the affected accounts into the ledger, with its consumers and
    wave; returns the client ids to rotate, by wave. What nobody is known to use is left alone."""
    await admit(case, await linked_clients(case))
    records = await asyncio.to_thread(case.ledger.clients, case.incident_id)
    ordinary = [r for r in records if not r.untouched_reason]
    run_log().info(
        "%s client secrets to rotate, %s left to a person",
        len(ordinary),
        len(records) - len(ordinary),
    )
    return order_of(case, ordinary)


async def linked_clients(case: Case) -> list[AppClient]:
    """The clients linked to the affected accounts, with what Vault's metadata knows of them."""

    def linked_apps() -> set[str]:
        return {
            app
            for account in case.ledger.accounts(case.incident_id)
            if account.stage is not Stage.EXCLUDED
            for app in account.linked_apps
        }

    return await merged_clients(case, await asyncio.to_thread(linked_apps))


async def admit(case: Case, clients: list[AppClient]) -> None:
    """Into the ledger, for life. A client that the runbook allows by name needs no approval."""
    waves = app_clients.plan_waves(clients, case.policy.rotate.waves)
    wave_of = {c.client_id: number for number, wave in enumerate(waves) for c in wave}
    records = [
        ClientRecord(
            client_id=c.client_id,
            name=c.name,
            owner=c.owner,
            risk=c.risk,
            consumers=tuple(consumer.name for consumer in c.consumers),
            linked_accounts=c.linked_accounts,
            wave=wave_of.get(c.client_id, -1),
            untouched_reason=app_clients.untouched_reason(c),
        )
        for c in clients
    ]
    await asyncio.to_thread(case.ledger.admit_clients, case.incident_id, records)
    allowed = set(case.policy.rotate.allow_without_consumers)
    for client in clients:
        if client.client_id in allowed and app_clients.lift_of(client) is Lift.UNKNOWN:
            await case.mark_once(APPROVED + client.client_id)


@task(task_run_name="show inventory", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def inventory(case: Case) -> list[InventoryRow]:
    """Every client in scope, with its consumers, owner and age, and what is done with it."""
    records = await asyncio.to_thread(case.ledger.clients, case.incident_id)
    clients = await merged_clients(case, {r.client_id for r in records})
    approved = {r.client_id for r in await rotatable(case) if r.untouched_reason}
    return await rows_of(case, clients, approved)


def order_of(case: Case, records: list[ClientRecord]) -> list[list[str]]:
    """The clients by wave, lowest risk first; no two of one wave share a consumer."""
    plan = [InPlan(r.client_id, r.risk, r.linked_accounts, frozenset(r.consumers)) for r in records]
    return [list(wave) for wave in app_clients.plan_order(plan, case.policy.rotate.waves)]


async def rotatable(case: Case) -> list[ClientRecord]:
    """What may be rotated: what nothing speaks against, and what a person or the runbook allows."""
    approved = await _named_by(case, APPROVED)
    records = await asyncio.to_thread(case.ledger.clients, case.incident_id)
    return [r for r in records if not r.untouched_reason or r.client_id in approved]


async def waiting_for(case: Case, lift: Lift) -> list[AppClient]:
    """The clients in scope that this approval would let be rotated and that nobody has decided."""
    decided = await _named_by(case, APPROVED) | await _named_by(case, REJECTED)
    records = await asyncio.to_thread(case.ledger.clients, case.incident_id)
    left = {r.client_id for r in records if r.untouched_reason} - decided
    clients = await merged_clients(case, left) if left else []
    return [c for c in clients if app_clients.lift_of(c) is lift]


async def approve(case: Case, clients: list[AppClient], *, yes: bool) -> None:
    """Remembers what was decided about exactly these clients."""
    for client in clients:
        await case.mark_once((APPROVED if yes else REJECTED) + client.client_id)


async def lifted_waves(case: Case) -> list[list[str]]:
    """The clients that an approval or the runbook lets be rotated, by wave."""
    return order_of(case, [r for r in await rotatable(case) if r.untouched_reason])


async def _named_by(case: Case, prefix: str) -> set[str]:
    marks = await asyncio.to_thread(case.ledger.marks, case.incident_id)
    return {m.name.removeprefix(prefix) for m in marks if m.name.startswith(prefix)}


@task(
    task_run_name="renew {client_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=7200,
)
async def renew_secret(case: Case, client_id: str) -> Rotated:
    """Create, deploy, test. Ends with the new secret in force and the old one still valid; with
    the old one in force where anything went wrong."""
    approved = await case.marked(APPROVED + client_id)
    async with claimed(case, [f"client.{client_id}"]):
        return await Rotation(case, client_id, approved=approved).run(stop_before=StepKind.RETIRE)


@task(
    task_run_name="retire {client_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=7200,
)
async def retire_secret(case: Case, client_id: str) -> Rotated:
    """Tests once more over the soak time, switches the old secret off, watches who is refused,
    then takes it away."""
    approved = await case.marked(APPROVED + client_id)
    async with claimed(case, [f"client.{client_id}"]):
        return await Rotation(case, client_id, approved=approved).run(stop_before=None)


async def retiring_secrets(case: Case) -> list[tuple[ClientRecord, str]]:
    """The clients with a new secret in force and an old one that still works, with its id."""
    waiting: list[tuple[ClientRecord, str]] = []
    for record in await rotatable(case):
        path = secret_path(case, record.client_id)
        observed = await case.courier.observe(record.client_id, path)
        if observed.labels.previous_id is not None:
            waiting.append((record, observed.labels.previous_id))
    return waiting


async def not_rotated(case: Case) -> list[str]:
    """The clients in scope whose secret in force is not one that this record's rotation made, or
    that still have an older one; told by looking."""
    mine = marker(case.incident_id)
    left = []
    for record in await rotatable(case):
        observed = await case.courier.observe(record.client_id, secret_path(case, record.client_id))
        current = observed.labels.current_id
        fresh = any(s.secret_id == current and s.marker == mine for s in observed.secrets)
        if not fresh or observed.labels.previous_id is not None:
            left.append(record.client_id)
    return left


async def gaps(case: Case) -> dict[str, int]:
    """Client id -> the longest time in ms that a consumer was without a valid secret, measured
    from the rotation in place to the end of its restart."""
    longest: dict[str, int] = {}

    def read() -> None:
        for record in case.ledger.acts(case.incident_id, "rotate.deploy.restart"):
            gap = record.counts.get("gap_ms", 0)
            if gap and record.verdict is Verdict.DONE:
                subject = record.act.subject
                longest[subject] = max(longest.get(subject, 0), gap)

    await asyncio.to_thread(read)
    return longest
