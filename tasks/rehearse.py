"""Run the whole rehearsal as a process of its own and keep what it ended with.

It brings its own Prefect server, worker and world on ports of their own; nothing of the server that
runs this task is touched. Whatever ends this process ends all of that.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import ValidationError

from recovery.drift import RehearsalResult
from recovery.files import write_private
from tasks.case import ROOT

FOLDER = ROOT / "var" / "rehearsals"
KEPT = 200
"""Results of one kind that are kept; the oldest go first."""
END_SECONDS = 25.0
"""Prefect kills a cancelled run's process after 30."""
_LAST_LINES = 12

Heard = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is rehearsed. Results of the same three are compared with each other."""

    scenario: str
    seed: int
    accounts: int

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.scenario}-{self.seed}-{self.accounts}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How the process ended. Without a result it says why in its last lines."""

    status: int
    result: RehearsalResult | None
    path: Path
    last_lines: str


@task(task_run_name="run the rehearsal", cache_policy=NO_CACHE, persist_result=False)
async def run_rehearsal(rehearsal: Rehearsal, heard: Heard) -> Ended:
    """The rehearsal from nothing to nothing; `heard` gets every line it prints."""
    rehearsal.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = rehearsal.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rehearsal", "run", "--result", str(path)),
        *("--scenario", rehearsal.scenario),
        *("--seed", str(rehearsal.seed), "--accounts", str(rehearsal.accounts)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=ROOT,
        env=_environment(),
        start_new_session=True,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            text = line.decode(errors="replace").rstrip()
            if text:
                lines = [*lines[1 - _LAST_LINES :], text]
                await heard(text)
        status = await process.wait()
    finally:
        await _end(process)
    return Ended(status, _read(path), path, "\n".join(lines))


def keep(path: Path, result: RehearsalResult) -> None:
    """Writes the result with its drift; the oldest of its kind beyond the last 200 go."""
    write_private(path, result.model_dump_json(indent=2))
    for old in sorted(path.parent.glob("*.json"))[:-KEPT]:
        old.unlink(missing_ok=True)


def last_measure(rehearsal: Rehearsal) -> RehearsalResult | None:
    """The newest result that was good and had no drift; what can't be read is passed over."""
    for path in sorted(rehearsal.folder.glob("*.json"), reverse=True):
        result = _read(path)
        if result is not None and result.measure:
            return result
    return None


def _read(path: Path) -> RehearsalResult | None:
    try:
        return RehearsalResult.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        get_run_logger().warning("%s is no result of a rehearsal: passed over", path.name)
        return None


def _environment() -> dict[str, str]:
    """Ours without what ties a process to the Prefect server we run under."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


async def _end(process: asyncio.subprocess.Process) -> None:
    """Politely, so that it takes its servers down; then for sure, and the kernel takes them."""
    if process.returncode is not None:
        return
    _signal(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), END_SECONDS)
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _die_with_parent() -> None:
    """Linux: the kernel ends the child when we are gone, however we went (PR_SET_PDEATHSIG)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
