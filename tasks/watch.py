"""Look for a burst between incidents: one count of the last minutes, and the baseline if need be.

Reads the SIEM and the ledger, changes nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks.base import SiemBlock, SiemClient
from ledger import Ledger
from recovery import detect
from recovery.detect import Burst
from recovery.policy import RecoveryPolicy
from recovery.watch import glance, known_spans
from tasks.case import load_block, open_ledger
from tasks.detect import our_resets
from tasks.pace import QuotaPace, check_limit
from tasks.retries import RETRIES


@dataclass(frozen=True, slots=True)
class Lookout:
    """What the detector needs, and nothing that could act."""

    policy: RecoveryPolicy
    ledger: Ledger
    siem: SiemClient


@asynccontextmanager
async def open_lookout(runbook: str) -> AsyncIterator[Lookout]:
    """Loads two blocks instead of nine: this runs every minute."""
    async with open_ledger(runbook) as (policy, ledger):
        siem_block = await load_block(policy.systems.siem, SiemBlock)
        await check_limit("siem", policy.quotas.siem)
        pace = QuotaPace("siem", policy.quotas.siem)
        presets = (policy.detect.preset, *policy.detect.also)
        async with siem_block.get_client(pace, presets=presets) as siem:
            yield Lookout(policy, ledger, siem)


@task(
    task_run_name="look for a burst",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=240,
    **RETRIES,
)
async def look(lookout: Lookout, *, now: datetime) -> Burst | None:
    """A burst of the last hours that no incident knows; None where there is none."""
    policy, siem = lookout.policy, lookout.siem
    bucket = policy.detect.bucket
    own = await our_resets(lookout.ledger, policy.detect)
    seen = glance(
        await siem.reset_counts(now - policy.watch.recent, now, bucket, own=own), policy, now=now
    )
    burst = None
    if seen.closer:
        incidents = await asyncio.to_thread(lookout.ledger.incidents)
        burst = detect.find_burst(
            await siem.reset_counts(now - policy.detect.baseline, now, bucket, own=own),
            policy.detect,
            now=now,
            searched=policy.watch.reach,
            known=known_spans(incidents, own),
        )
    get_run_logger().info(
        "%s resets in the last %g minutes; %s",
        seen.resets,
        policy.watch.recent.total_seconds() / 60,
        f"burst by {burst.method}"
        if burst
        else ("compared with the baseline: no burst" if seen.closer else "no closer look"),
    )
    return burst
