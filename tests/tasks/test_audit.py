"""Checkpoints end to end: a real ledger, Vault's own signature, a folder as the second place."""

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from pydantic import SecretStr

from clients.checkpoint_folder import CheckpointFolder
from clients.vault import VaultClient
from ledger import Ledger
from recovery.audit import Tampered
from recovery.checkpoint import opened
from recovery.errors import Misconfigured, Unverified
from recovery.merkle import check_inclusion, leaf_hash
from rehearsal.world.openbao_contents import CHECKPOINT_KEY
from tasks.audit import AuditDesk, Held, export_log, keep_checkpoint, verify_log
from tasks.case import ROOT

INCIDENT = "INC-2026-0142"
START = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
OPENED: dict[str, Any] = {
    "window_start": START - timedelta(hours=3),
    "window_end": START - timedelta(hours=1),
    "runbook_digest": "5" * 64,
    "runbook_commit": "0123abcd",
    "requested_by": "on-call",
}


class Moment:
    now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with disable_run_logger():
        yield


@pytest.fixture
async def desk(bao: Any, tmp_path: Path) -> AsyncIterator[AuditDesk]:
    login = bao.contents.issue("recovery-flows")
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", key=b"k" * 32, clock=Moment())
    ledger.migrate()
    (tmp_path / "ledger.db").chmod(0o600)
    ledger.open_incident(INCIDENT, **OPENED)
    async with VaultClient(
        bao.address, role_id=login.role_id, secret_id=SecretStr(login.secret_id)
    ) as vault:
        places = [CheckpointFolder(tmp_path / "one"), CheckpointFolder(tmp_path / "other")]
        yield AuditDesk(ledger, vault, places, key=CHECKPOINT_KEY, directory=tmp_path / "out")
    ledger.close()


async def kept(desk: AuditDesk) -> int:
    return await keep_checkpoint.fn(desk)


async def verified(desk: AuditDesk) -> Held:
    return await verify_log.fn(desk)


def note(desk: AuditDesk, count: int) -> None:
    for number in range(count):
        desk.ledger.note(INCIDENT, "remark", actor="mona", facts={"n": number})


def change(tmp_path: Path, *statements: str) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        for statement in statements:
            db.execute(statement)


async def test_a_checkpoint_is_kept_once_in_every_place_and_again_when_the_log_grew(
    desk: AuditDesk, tmp_path: Path
) -> None:
    note(desk, 5)
    first = await kept(desk)
    assert await kept(desk) == first
    note(desk, 3)
    assert await kept(desk) == first + 3
    note(desk, 2)
    assert await verified(desk) == Held(desk.ledger.audit_head(), 4, first + 3)
    for place in ("one", "other"):
        files = sorted((tmp_path / place).iterdir())
        assert [f.suffix for f in files] == [".leaves", ".note"] * 2
        assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)


async def test_one_entry_is_proven_by_the_note_and_without_the_rest(desk: AuditDesk) -> None:
    note(desk, 9)
    size = await kept(desk)
    keys = await desk.secrets.public_keys(CHECKPOINT_KEY)
    checkpoint = opened((await desk.stores[0].kept()).notes[-1], keys)
    shown = desk.ledger.inclusion(4, size)
    check_inclusion(leaf_hash(shown.record), 3, size, shown.proof, checkpoint.root)
    with pytest.raises(Unverified):
        check_inclusion(leaf_hash(shown.record + b" "), 3, size, shown.proof, checkpoint.root)


async def test_a_log_cut_together_with_its_head_is_found_and_never_signed(
    desk: AuditDesk, tmp_path: Path
) -> None:
    note(desk, 6)
    size = await kept(desk)
    change(
        tmp_path,
        f"DELETE FROM audit WHERE seq > {size - 2}",
        "UPDATE audit_head SET seq = (SELECT max(seq) FROM audit), "
        "hash = (SELECT hash FROM audit ORDER BY seq DESC LIMIT 1)",
    )
    desk.ledger.verify_audit()  # whole in itself
    for look in (verified, kept):
        with pytest.raises(Tampered) as found:
            await look(desk)
        assert found.value.seq == size - 1
    assert len(list((tmp_path / "one").glob("*.note"))) == 1


async def test_an_older_copy_of_the_ledger_is_found(desk: AuditDesk, tmp_path: Path) -> None:
    note(desk, 4)
    old = await kept(desk)
    desk.ledger.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    note(desk, 4)
    await kept(desk)
    desk.ledger.close()
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "copy.db", tmp_path / "ledger.db")
    with pytest.raises(Tampered) as found:
        await verified(desk)
    assert found.value.seq == old + 1


async def test_a_forged_note_is_refused(desk: AuditDesk, tmp_path: Path) -> None:
    note(desk, 2)
    await kept(desk)
    [path] = (tmp_path / "one").glob("*.note")
    path.write_bytes(path.read_bytes().replace(b"time 2026", b"time 2027"))
    with pytest.raises(Unverified):
        await verified(desk)


async def test_a_rotated_signing_key_still_opens_older_notes(desk: AuditDesk, bao: Any) -> None:
    note(desk, 2)
    await kept(desk)
    root = bao.server.root()
    root.secrets.transit.rotate_key(CHECKPOINT_KEY)
    root.adapter.close()
    note(desk, 2)
    await kept(desk)
    assert (await verified(desk)).checkpoints == 4


async def test_without_a_second_place_the_chain_alone_is_proven(desk: AuditDesk) -> None:
    alone = AuditDesk(desk.ledger, desk.secrets, (), key=desk.key, directory=desk.directory)
    assert (await verified(alone)).covered == 0
    with pytest.raises(Misconfigured, match=r"systems\.checkpoints"):
        await kept(alone)


async def test_an_auditor_proves_an_export_by_the_command_alone(
    desk: AuditDesk, tmp_path: Path
) -> None:
    note(desk, 6)
    size = await kept(desk)
    entries = await export_log.fn(desk)
    assert entries == size
    out = tmp_path / "out"
    said = await proven(out, tmp_path / "one")
    assert said == (0, f"{size} entries hold against 1 checkpoints; {size} are covered.\n")
    lines = (out / "audit.jsonl").read_text().splitlines(keepends=True)
    del lines[3]
    (out / "audit.jsonl").write_text("".join(lines))
    status, text = await proven(out, tmp_path / "one")
    assert status == 1
    assert text.startswith("The first bad entry is 4.")


async def proven(out: Path, checkpoints: Path) -> tuple[int, str]:
    """Status and words of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clients.exported_log", str(out / "audit.jsonl")),
        *("--checkpoints", str(checkpoints), "--keys", str(out / "checkpoint-keys.txt")),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()
