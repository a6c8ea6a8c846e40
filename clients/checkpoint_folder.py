"""Checkpoints of the audit log as files in a folder, best on other storage than the ledger's.

A note is written once and never again; what is there already is never touched. The folder may be a
mount that accepts new files only.
"""

import asyncio
import os
import re
from pathlib import Path

from recovery.checkpoint import Checkpoint, Kept
from recovery.errors import Misconfigured, Unreachable

NOTE, LEAVES = ".note", ".leaves"
_NAME = re.compile(r"[0-9]{12}-[0-9]{8}T[0-9]{12}Z\.(note|leaves)", re.ASCII)


def note_name(checkpoint: Checkpoint) -> str:
    """Sorts by size, then by time: `000000000042-20260314T092653589793Z.note`."""
    return f"{checkpoint.size:012d}-{checkpoint.at:%Y%m%dT%H%M%S%f}Z{NOTE}"


class CheckpointFolder:
    """One folder of notes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def keep(self, checkpoint: Checkpoint, note: bytes, leaves: bytes) -> None:
        """Writes the leaf hashes, then the note, each whole and synced; the same again is no
        error."""
        name = note_name(checkpoint)
        await asyncio.to_thread(self._keep, name.removesuffix(NOTE) + LEAVES, leaves)
        await asyncio.to_thread(self._keep, name, note)

    async def kept(self) -> Kept:
        """All that was kept, the oldest first; nothing where the folder is not there."""
        return await asyncio.to_thread(read_folder, self._folder)

    def _keep(self, name: str, content: bytes) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self._folder / f".{name}.{os.getpid()}.part"
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                # A link refuses an existing name, where a rename would replace it.
                os.link(part, self._folder / name)
            except FileExistsError:
                if (self._folder / name).read_bytes() != content:
                    raise Misconfigured(
                        "Keep a checkpoint of the audit log",
                        subject=name,
                        expected="a name that is free",
                        got="another one under it",
                        advice="Two ledgers write to one folder: give each its own.",
                    ) from None
            finally:
                part.unlink()
        except OSError as error:
            raise Unreachable(
                "Keep a checkpoint of the audit log",
                subject=str(self._folder),
                got=error.strerror or type(error).__name__,
                advice="Mend the folder of the checkpoint block; the log itself is whole.",
            ) from None


def read_folder(folder: Path) -> Kept:
    """All that was kept in a folder, the oldest first; nothing where it is not there."""
    try:
        names = sorted(n for n in os.listdir(folder) if _NAME.fullmatch(n))
        files = {name: (folder / name).read_bytes() for name in names}
    except FileNotFoundError:
        return Kept((), b"")
    except OSError as error:
        raise Unreachable(
            "Read the checkpoints of the audit log",
            subject=str(folder),
            got=error.strerror or type(error).__name__,
            advice="Mend the folder of the checkpoint block.",
        ) from None
    return Kept(
        tuple(text for name, text in files.items() if name.endswith(NOTE)),
        b"".join(part for name, part in files.items() if name.endswith(LEAVES)),
    )
