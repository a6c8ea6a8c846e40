"""Checkpoints of the audit log: verify, sign with Vault's key, keep in the second places."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from blocks.base import CheckpointBlock, CheckpointStore, SecretsBlock
from clients.vault import VaultClient
from ledger import Ledger
from recovery.audit import Head
from recovery.checkpoint import Checkpoint, opened, signed_note
from recovery.errors import Misconfigured
from recovery.files import write_private
from tasks.case import ROOT, Case, load_block, open_ledger
from tasks.retries import RETRIES


@dataclass(frozen=True, slots=True)
class Held:
    """A log that was proven against what the second places hold."""

    head: Head
    checkpoints: int
    covered: int
    """Entries that a checkpoint covers; the rest is proven by the chain alone."""


class AuditDesk:
    """What it takes to prove the log. A plain class, so that Prefect does not look inside it."""

    def __init__(
        self,
        ledger: Ledger,
        secrets: VaultClient,
        stores: Sequence[CheckpointStore],
        *,
        key: str,
        directory: Path,
    ) -> None:
        self.ledger = ledger
        self.secrets = secrets
        self.stores = tuple(stores)
        self.key = key
        self.directory = directory

    @classmethod
    def of(cls, case: Case) -> "AuditDesk":
        """The desk of an open case."""
        return cls(
            case.ledger,
            case.secrets,
            case.checkpoints,
            key=case.policy.audit.signing_key,
            directory=case.directory.parent,
        )


@asynccontextmanager
async def open_desk(runbook: str) -> AsyncIterator[AuditDesk]:
    """Ledger, Vault and second places of a runbook, and nothing else of it."""
    async with open_ledger(runbook) as (policy, ledger):
        names = policy.systems
        stores = [(await load_block(n, CheckpointBlock)).get_client() for n in names.checkpoints]
        secrets = await load_block(names.secrets, SecretsBlock)
        async with secrets.get_client() as vault:
            yield AuditDesk(
                ledger,
                vault,
                stores,
                key=policy.audit.signing_key,
                directory=ROOT / policy.report.directory,
            )


@task(task_run_name="keep checkpoint", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def keep_checkpoint(desk: AuditDesk) -> int:
    """Proves the log against the checkpoints of before, then signs and keeps one of now in every
    second place. Returns how many entries are covered; a place that has this one keeps it.

    Raises Tampered, and then signs nothing; Misconfigured where no second place is named.
    """
    if not desk.stores:
        raise Misconfigured(
            "Keep a checkpoint of the audit log",
            expected="a second place",
            got="none",
            advice="Create a Checkpoint Folder block and name it in systems.checkpoints.",
        )
    keys = await desk.secrets.public_keys(desk.key)
    covered = 0
    for store in desk.stores:
        known, leaves = await _kept(store, keys)
        checkpoint, fresh = await asyncio.to_thread(desk.ledger.checkpoint, known, leaves)
        covered = checkpoint.size
        if any(mark.size == covered for mark in known) or covered == 0:
            continue
        signature = await desk.secrets.sign(desk.key, checkpoint.text())
        note = signed_note(checkpoint, key=keys[0], signature=signature)
        await store.keep(checkpoint, note, fresh)
    get_run_logger().info(
        "checkpoint over %s audit entries in %s place(s)", covered, len(desk.stores)
    )
    return covered


@task(task_run_name="verify audit log", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def verify_log(desk: AuditDesk) -> Held:
    """Proves the whole log against every checkpoint of every second place; raises Tampered with
    the first bad entry."""
    if not desk.stores:
        _, head = await asyncio.to_thread(desk.ledger.verify_audit)
        return Held(head, 0, 0)
    keys = await desk.secrets.public_keys(desk.key)
    count = covered = 0
    head = Head(0, "")
    for store in desk.stores:
        known, leaves = await _kept(store, keys)
        head = await asyncio.to_thread(desk.ledger.verify_against, known, leaves)
        count += len(known)
        covered = max([covered, *(mark.size for mark in known)])
    get_run_logger().info(
        "%s audit entries hold against %s checkpoints, %s covered", head.seq, count, covered
    )
    return Held(head, count, covered)


@task(task_run_name="export audit log", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def export_log(desk: AuditDesk) -> int:
    """Writes the whole log as JSON Lines and the public keys of its checkpoints, owner-only;
    returns how many entries."""
    keys = await desk.secrets.public_keys(desk.key)
    desk.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = desk.directory / "audit.jsonl"
    entries = await asyncio.to_thread(desk.ledger.export_audit, path, None)
    write_private(
        desk.directory / "checkpoint-keys.txt",
        "".join(base64.b64encode(key).decode() + "\n" for key in keys),
    )
    get_run_logger().info("%s audit entries in %s", entries, path)
    return entries


async def _kept(store: CheckpointStore, keys: Sequence[bytes]) -> tuple[list[Checkpoint], bytes]:
    """The checkpoints of one place, every one of which must open, and the leaf hashes there."""
    kept = await store.kept()
    return [opened(note, keys) for note in kept.notes], kept.leaves
