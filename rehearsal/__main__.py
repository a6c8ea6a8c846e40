"""`python -m rehearsal run|up|down`: a whole incident, or a world left running for the UI."""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from rehearsal.board import Board
from rehearsal.drive import INCIDENT, Drive
from rehearsal.prefect_server import ROOT
from rehearsal.stage import REQUESTER, Stage
from rehearsal.summary import show_summary
from rehearsal.verdict import passed
from rehearsal.world.scenarios import SCENARIOS

FOLDER = ROOT / "var" / "rehearsal"
UP_FOLDER = ROOT / "var" / "up"
PID_FILE = UP_FOLDER / "up.pid"
UI_PORT = 4200
DOWN_TIMEOUT = 40.0
LOG_WIDTH = 120


def main() -> int:
    parser = argparse.ArgumentParser(prog="rehearsal", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("run", "run a whole incident and judge it by the world's own truth"),
        ("up", "start everything and leave it running"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--scenario", choices=sorted(SCENARIOS), default="mass-reset")
        command.add_argument("--seed", type=int, default=1)
        command.add_argument("--accounts", type=int, default=338)
    commands.add_parser("down", help="stop what `up` started")
    serve = commands.choices["up"]
    commands.add_parser("serve", parents=[serve], add_help=False, help="what `up` leaves running")
    chosen = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)
    # A plain kill ends a rehearsal as Ctrl-C does: with everything stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    if chosen.command == "down":
        return _down(console)
    folder = FOLDER if chosen.command == "run" else UP_FOLDER
    if chosen.command == "up" and _running() is not None:
        console.print("Already up. Stop it with: make down")
        return 1
    stage = Stage(
        folder,
        scenario=SCENARIOS[chosen.scenario],
        seed=chosen.seed,
        accounts=chosen.accounts,
    )
    work = _run if chosen.command == "run" else _up
    try:
        stage.prepare(ui_port=UI_PORT if chosen.command == "up" else None)
        return asyncio.run(work(stage, console))
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
        return 130
    except RuntimeError as error:
        console.print(f"[red]The rehearsal could not go on:[/red] {error}", markup=True)
        return 1
    finally:
        stage.release()


async def _run(stage: Stage, console: Console) -> int:
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
                show_summary(console, stage, drive.ledger, finished, time.monotonic() - began)
            finally:
                await drive.close()
    finally:
        await stage.down()
    return 0 if good else 1


async def _up(stage: Stage, console: Console) -> int:
    try:
        await stage.up(console.print)
        PID_FILE.write_text(json.dumps({"pid": os.getpid(), "ui": stage.prefect.url}))
        _explain(stage, console)
        stop = asyncio.Event()
        people = asyncio.create_task(stage.people.run_prompt(stop))
        try:
            await people
        finally:
            stop.set()
    finally:
        PID_FILE.unlink(missing_ok=True)
        await stage.down()
    return 0


def _explain(stage: Stage, console: Console) -> None:
    """What a person needs to play through it in the browser."""
    console.print(f"\nPrefect UI:  {stage.prefect.url}")
    console.print(f"Portal:      {stage.portal_url}")
    console.print(
        f"Start the deployment respond/respond with incident {INCIDENT}, runbook "
        f"{stage.scenario.runbook}, requested by {REQUESTER}, dry run off."
    )
    codes = UP_FOLDER / "approvers.json"
    codes.touch(mode=0o600)
    codes.write_text(
        json.dumps({n: a.otpauth_url for n, a in stage.world.approvers.items()}, indent=2)
    )
    console.print(
        f"The approvers' authenticator keys (otpauth addresses) are in {codes.relative_to(ROOT)}."
    )
    console.print("Codes at a gate:  .venv/bin/python -m rehearsal.codes maya")
    console.print("Stop with Ctrl-C here or: make down")


def _running() -> int | None:
    """The pid of what `up` started, or None."""
    try:
        pid = int(json.loads(PID_FILE.read_text())["pid"])
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
    console.print(f"Process {pid} is still there; look at var/up/logs.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
