"""`python -m rehearsal run|up|down`: a whole incident, or a world left running for the UI."""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

from rich.console import Console

from recovery.files import write_private
from rehearsal.board import Board
from rehearsal.drive import INCIDENT, Drive
from rehearsal.prefect_server import ROOT
from rehearsal.stage import REQUESTER, Stage
from rehearsal.summary import show_summary, write_result
from rehearsal.verdict import passed
from rehearsal.world.scenarios import SCENARIOS

FOLDER = ROOT / "var" / "rehearsal"
UP_FOLDER = ROOT / "var" / "up"
READY_FILE = ROOT / "var" / "up.ready"
UP_LOG = ROOT / "var" / "up.log"
LOCK = ROOT / "var" / "rehearsal.lock"
UI_PORT = 4200
UP_TIMEOUT = 180.0
DOWN_TIMEOUT = 40.0
LONGEST_LIFE = timedelta(days=7)
LOG_WIDTH = 120


def main() -> int:
    chosen = _arguments()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)
    # A plain kill ends a rehearsal as Ctrl-C does: with everything stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    match chosen.command:
        case "down":
            return _down(console)
        case "up":
            return _up(console, chosen)
        case "serve":
            return _whole_life(console, chosen, UP_FOLDER, _serve)
        case _:
            with _alone(console) as alone:
                work = partial(_run, result=chosen.result)
                return _whole_life(console, chosen, FOLDER, work) if alone else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="rehearsal", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "run a whole incident and judge it by the world's own truth"),
        ("up", "start everything and leave it running"),
        ("serve", "the same in the foreground"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--scenario", choices=sorted(SCENARIOS), default="mass-reset")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--accounts", type=int, default=338)
        command.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
        command.add_argument("--ui-port", type=int, default=UI_PORT, help="for up and serve")
        command.add_argument("--result", type=Path, help="for run: a JSON file of how it ended")
    commands.add_parser("down", help="stop what `up` started")
    return parser.parse_args()


def _whole_life(
    console: Console,
    chosen: argparse.Namespace,
    folder: Path,
    work: Callable[[Stage, Console], Awaitable[int]],
) -> int:
    """From nothing to nothing: whatever happens, no process is left behind."""
    stage = Stage(
        folder,
        scenario=SCENARIOS[chosen.scenario],
        seed=chosen.seed,
        accounts=chosen.accounts,
        database=chosen.database,
    )
    try:
        stage.prepare(ui_port=chosen.ui_port if folder is UP_FOLDER else None)
        return asyncio.run(_awaited(work, stage, console))
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
        return 130
    except (RuntimeError, TimeoutError) as error:
        console.print(f"The rehearsal could not go on: {str(error) or type(error).__name__}")
        return 1
    finally:
        stage.release()


async def _awaited(
    work: Callable[[Stage, Console], Awaitable[int]], stage: Stage, console: Console
) -> int:
    return await work(stage, console)


@contextmanager
def _alone(console: Console) -> Iterator[bool]:
    """False where another `run` is under way: its folder and its reports are the same. The kernel
    gives the lock back, however the process ends."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Another rehearsal is running here. Wait for its end, or stop it.")
            yield False
            return
        yield True


async def _run(stage: Stage, console: Console, *, result: Path | None = None) -> int:
    began = time.monotonic()
    title = f"{INCIDENT}  {stage.scenario.name}, seed {stage.seed}, {stage.accounts} accounts"
    console.rule(title)
    try:
        await stage.up(console.print)
        with Board(console, INCIDENT) as board:
            drive = Drive(stage, board)
            try:
                finished = await drive.whole()
                good = finished.run.type == "COMPLETED" and passed(finished.checks)
                seconds = time.monotonic() - began
                show_summary(console, stage, drive.ledger, finished, seconds)
                if result is not None:
                    write_result(result, stage, drive.ledger, finished, seconds)
            finally:
                await drive.close()
    finally:
        await stage.down()
    return 0 if good else 1


def _up(console: Console, chosen: argparse.Namespace) -> int:
    """Starts `serve` in the background and returns when it is ready."""
    if _running() is not None:
        console.print("Already up. Stop it with: make down")
        return 1
    UP_LOG.parent.mkdir(parents=True, exist_ok=True)
    READY_FILE.unlink(missing_ok=True)
    with UP_LOG.open("wb") as log:
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "rehearsal", "serve"),
                *("--scenario", chosen.scenario),
                *("--seed", str(chosen.seed)),
                *("--accounts", str(chosen.accounts)),
                *("--database", chosen.database),
                *("--ui-port", str(chosen.ui_port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            start_new_session=True,
        )
    console.print("Starting the rehearsal world, about half a minute …")
    deadline = time.monotonic() + UP_TIMEOUT
    while child.poll() is None and time.monotonic() < deadline:
        if READY_FILE.exists():
            console.print(json.loads(READY_FILE.read_text())["text"], soft_wrap=True)
            return 0
        time.sleep(0.2)
    child.terminate()
    console.print(f"It did not come up:\n{UP_LOG.read_text(errors='replace')}")
    return 1


async def _serve(stage: Stage, console: Console) -> int:
    """The world until it is told to end; people act on what they get meanwhile."""
    try:
        await stage.up(console.print)
        keys = UP_FOLDER / "approvers.json"
        write_private(
            keys, json.dumps({n: a.otpauth_url for n, a in stage.world.approvers.items()}, indent=2)
        )
        write_private(
            READY_FILE, json.dumps({"pid": os.getpid(), "text": _explanation(stage)}, indent=2)
        )
        await stage.people.run_prompt(asyncio.Event(), longest=LONGEST_LIFE)
    finally:
        READY_FILE.unlink(missing_ok=True)
        await stage.down()
    return 0


def _explanation(stage: Stage) -> str:
    """What a person needs to play through it in the browser."""
    return f"""
Prefect UI   {stage.prefect.url}   asks for what stands in {stage.auth_file}
             (the prefect command: export PREFECT_API_URL={stage.prefect.api}
              PREFECT_API_AUTH_STRING="$(cat {stage.auth_file})")
Portal       {stage.portal_url}

In the UI: Deployments > respond > Run > Custom run, with
  incident {INCIDENT}, runbook {stage.scenario.runbook}, requested by {REQUESTER},
  dry run on for the plan, off to act.
At a gate: Resume on the run's page. A one-time code of an approver:
  .venv/bin/python -m rehearsal.codes maya        (contain, retire; also jonas)
  .venv/bin/python -m rehearsal.codes legal       (notify; also pr)
Stop everything: make down"""


def _running() -> int | None:
    """The pid of what `up` started, or None."""
    try:
        pid = int(json.loads(READY_FILE.read_text())["pid"])
        os.kill(pid, 0)
    except (OSError, ValueError, KeyError):
        return None
    return pid


def _down(console: Console) -> int:
    pid = _running()
    if pid is None:
        console.print("Nothing is up.")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_TIMEOUT
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists() and _running() is None:
            console.print("Stopped.")
            return 0
        time.sleep(0.2)
    console.print(f"Process {pid} is still there; look at var/up.log.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
