"""Find the burst, stage who was seen in it, admit them with wave and batch, export the list."""

import asyncio
from datetime import datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from ledger import Ledger
from ledger.reporting import BURST_PICTURE
from recovery import canonical, contain, detect, waves
from recovery.accounts import Affected, RosterEntry, Sighting
from recovery.detect import Burst
from recovery.errors import Misconfigured
from recovery.files import write_private
from recovery.incident import ScopeCounts
from recovery.own_resets import OwnResets
from recovery.policy import DetectPolicy
from tasks.case import Case
from tasks.retries import RETRIES

ROSTER_CHUNK = 1000
"""Sightings joined with the roster at a time."""


@task(
    task_run_name="find burst",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=1800,
    **RETRIES,
)
async def find_burst(case: Case, *, now: datetime) -> Burst | None:
    """Compares the resets of the last hours with the baseline; None where there is no burst."""
    policy = case.policy.detect
    own = await our_resets(case.ledger, policy)
    buckets = await case.siem.reset_counts(now - policy.baseline, now, policy.bucket, own=own)
    burst = detect.find_burst(buckets, policy, now=now, known=own.unnamed)
    if burst is not None:
        case.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(case.directory / BURST_PICTURE, detect.burst_svg(burst))
    get_run_logger().info(
        "%s buckets over %s days read; %s",
        len(buckets),
        policy.baseline.days,
        "no burst"
        if burst is None
        else f"burst by {burst.method}, peak {burst.peak.count} in a bucket",
    )
    return burst


@task(
    task_run_name="fetch resets",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=1800,
    **RETRIES,
)
async def fetch_resets(case: Case, *, start: datetime, end: datetime) -> int:
    """Stages who was seen in [start, end) in the ledger, page by page; returns how many are new.

    Idempotent: seen twice is staged once. Raises Incomplete where the SIEM had only a part.
    """
    incident_id, new = case.incident_id, 0
    own = await our_resets(case.ledger, case.policy.detect)
    async for page in case.siem.sightings(start, end, own=own):
        new += await asyncio.to_thread(case.ledger.record_sightings, incident_id, page)
    for source, count in (await case.siem.unattributed(start, end, own=own)).items():
        await asyncio.to_thread(case.ledger.record_unattributed, incident_id, source, count)
    get_run_logger().info("%s accounts newly seen between %s and %s", new, start, end)
    return new


async def our_resets(ledger: Ledger, policy: DetectPolicy) -> OwnResets:
    """The forced resets that the ledger knows of, of every incident."""
    contained = await asyncio.to_thread(ledger.spans, contain.STEP)
    return OwnResets(policy.own_actors, tuple(contained))


@task(task_run_name="read list", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def read_list(case: Case, path: Path) -> int:
    """Stages who stands in a canonical list, for the day on which the SIEM is down."""
    _, sightings, quarantined = await asyncio.to_thread(canonical.read_canonical, path)
    new = await asyncio.to_thread(case.ledger.record_sightings, case.incident_id, sightings)
    await asyncio.to_thread(case.ledger.quarantine, case.incident_id, quarantined)
    get_run_logger().info("%s accounts read, %s rows quarantined", new, len(quarantined))
    return new


@task(
    task_run_name="admit accounts",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def admit_accounts(case: Case) -> ScopeCounts:
    """Joins what was staged with the roster and gives every account its wave and batch for life.

    Priority goes first whatever the order of arrival; accounts admitted before keep their place.
    """
    ledger, incident_id = case.ledger, case.incident_id
    staged: list[Sighting] = await asyncio.to_thread(ledger.unadmitted, incident_id, limit=None)
    accounts: list[Affected] = []
    for start in range(0, len(staged), ROSTER_CHUNK):
        chunk = staged[start : start + ROSTER_CHUNK]
        roster = await _roster(case, chunk)
        scoped = detect.affected(chunk, roster, case.policy, source="platform roster")
        accounts.extend(scoped.accounts)
        await asyncio.to_thread(ledger.quarantine, incident_id, scoped.quarantined)
    taken = await asyncio.to_thread(ledger.waves, incident_id)
    placed = waves.assign(accounts, case.policy.waves, taken=taken)
    await asyncio.to_thread(ledger.admit, incident_id, placed)
    counts = await asyncio.to_thread(ledger.scope, incident_id)
    get_run_logger().info(
        "%s seen = %s admitted + %s excluded + %s not in the roster; %s of high priority",
        counts.sighted,
        counts.admitted,
        counts.excluded,
        counts.unrostered,
        counts.high_priority,
    )
    return counts


async def _roster(case: Case, chunk: list[Sighting]) -> dict[str, RosterEntry]:
    entries, _missing = await case.platform.roster([s.account_id for s in chunk])
    return {entry.account_id: entry for entry in entries}


@task(task_run_name="export canonical list", cache_policy=NO_CACHE, persist_result=False)
async def export_canonical(case: Case) -> tuple[Path, Path]:
    """Writes the canonical list as CSV and JSON (owner-only), readable again by `read_list`."""
    directory = case.directory

    def write() -> tuple[Path, Path]:
        frame = canonical.to_frame(case.ledger.accounts(case.incident_id))
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        csv, json = directory / "canonical.csv", directory / "canonical.json"
        canonical.write_csv(frame, csv)
        canonical.write_json(frame, json)
        return csv, json

    return await asyncio.to_thread(write)


def window_of(burst: Burst | None) -> tuple[datetime, datetime]:
    """The burst's window; raises Misconfigured where there is none and none was given."""
    if burst is None:
        raise Misconfigured(
            "Find the burst of password resets",
            expected="a burst in the SIEM",
            got="ordinary traffic",
            advice="Give window_start and window_end by hand, or check the preset and index.",
        )
    return burst.start, burst.end
