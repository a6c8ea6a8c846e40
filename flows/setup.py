"""Creates what the deployments stand on: work pool, global limits, block types, automations.

`python -m flows.setup [--runbook NAME]` is safe to repeat; it makes Prefect match the runbook.
"""

import argparse
import asyncio
import contextlib
import logging

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
)
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

import blocks
from blocks.ledger import RecoveryLedger
from flows.automations import set_up_automations
from flows.heartbeats import set_up_heartbeats
from flows.parameters import DEFAULT_RUNBOOK
from recovery.errors import RecoveryError
from recovery.policy import Quota, RecoveryPolicy, load_policy
from tasks.case import ROOT
from tasks.pace import limit_name

WORK_POOL = "recovery"
log = logging.getLogger("recovery.setup")


async def set_up(policy: RecoveryPolicy) -> None:
    """Work pool, limits, automations and block types, as the runbook needs them."""
    async with get_client() as client:
        await _work_pool(client)
        for system in type(policy.quotas).model_fields:
            await _limit(client, limit_name(system), getattr(policy.quotas, system))
        await set_up_heartbeats(client)
    for block in block_types():
        await block.register_type_and_schema()
    await _migrate(policy.systems.ledger)
    async with get_client() as client:
        await set_up_automations(client, policy)


async def _migrate(name: str) -> None:
    """Brings the ledger's schema up to date, where its block is there already."""
    try:
        block: RecoveryLedger = await RecoveryLedger.aload(name.rsplit("/", 1)[-1])
    except ValueError:
        log.info("no block %s yet: create it, then run this again", name)
        return
    ledger = block.get_client()
    try:
        log.info("ledger at revision %s", await asyncio.to_thread(ledger.migrate))
    finally:
        ledger.close()


def block_types() -> list[type[Block]]:
    """Every concrete block of ours."""
    return [getattr(blocks, name) for name in blocks.__all__]


async def _work_pool(client: PrefectClient) -> None:
    try:
        await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process"))
        log.info("work pool %s created", WORK_POOL)
    except ObjectAlreadyExists:
        log.info("work pool %s is there", WORK_POOL)


async def _limit(client: PrefectClient, name: str, quota: Quota) -> None:
    """A limit of one second of quota that decays by a second's quota a second."""
    slots = max(1, int(quota.per_second))
    try:
        found = await client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        # There already: an answer was lost on a busy server, and the client asked twice.
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_global_concurrency_limit(
                GlobalConcurrencyLimitCreate(
                    name=name, limit=slots, active=True, slot_decay_per_second=quota.per_second
                )
            )
        log.info("limit %s created: %g a second", name, quota.per_second)
        return
    if found.limit != slots or found.slot_decay_per_second != quota.per_second or not found.active:
        await client.update_global_concurrency_limit(
            name=name,
            concurrency_limit=GlobalConcurrencyLimitUpdate(
                limit=slots, active=True, slot_decay_per_second=quota.per_second
            ),
        )
        log.info("limit %s set to %g a second", name, quota.per_second)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runbook", default=DEFAULT_RUNBOOK, help="a file in runbooks/")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        policy, _ = load_policy(ROOT / "runbooks" / f"{chosen.runbook}.yaml")
        asyncio.run(set_up(policy))
    except RecoveryError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
