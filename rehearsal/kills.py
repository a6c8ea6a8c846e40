"""`python -m rehearsal.kills --seed S --points N`: kill -9 of flow, worker, server and portal at N
seeded moments of small incidents; each incident must end with nothing lost and nothing doubled.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recovery.files import write_private
from rehearsal.kill_drive import Ended, KillDrive, Size, Struck
from rehearsal.kill_points import Point, by_incident, draw
from rehearsal.prefect_server import ROOT
from rehearsal.stage import Stage
from rehearsal.world.scenarios import SCENARIOS

FOLDER = ROOT / "var" / "kills"
"""Of a process a folder of its own: two of them may run side by side."""
RESULT = ROOT / "var" / "kills.json"
ACCOUNTS = 24
EACH = 5
"""Kills in one incident."""
UNHARMED = Size(requests=430, entries=560)
"""Of an incident of this size without a kill. Moments are shares of it."""


_COLUMNS = ("point", "victim", "moment", "phase", "what happened", "on after")


def main() -> int:
    parser = argparse.ArgumentParser(prog="rehearsal.kills", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--each", type=int, default=EACH, help="kills in one incident")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of points, to see one again")
    parser.add_argument("--json", type=Path, default=RESULT)
    chosen = parser.parse_args()
    console = Console(highlight=False, width=150)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    points = draw(chosen.seed, chosen.points)
    if chosen.only:
        points = [point for point in points if point.number in chosen.only]
    began = time.monotonic()
    ended: list[Ended] = []
    try:
        _all(console, points, chosen, ended)
    except KeyboardInterrupt:
        console.print("Interrupted; everything is stopped.")
    return _conclude(console, points, ended, time.monotonic() - began, chosen.json)


def _all(
    console: Console, points: list[Point], chosen: argparse.Namespace, ended: list[Ended]
) -> None:
    """Incident after incident until every point was struck; what one incident missed goes to a
    later one, within a bound."""
    groups = by_incident(points, chosen.each)
    bound = 2 * len(groups) + 2
    while groups and len(ended) < bound:
        group = groups.pop(0)
        number = len(ended) + 1
        console.print(f"incident {number}: {', '.join(f'{p.number} {p.victim}' for p in group)}")
        seed = chosen.seed + number
        try:
            one = incident(group, UNHARMED, seed=seed, accounts=chosen.accounts, say=console.print)
        except (RuntimeError, TimeoutError) as error:
            # Before anything was killed; these points are tried again.
            console.print(f"  the stage did not come up: {error or type(error).__name__}")
            groups.append(group)
            bound -= 1
            continue
        ended.append(one)
        _show_end(console, one)
        if one.missed:
            groups.append(sorted(one.missed, key=lambda point: point.place))


def incident(
    points: list[Point],
    size: Size,
    *,
    seed: int,
    accounts: int,
    say: Callable[[str], None],
    folder: Path = FOLDER,
) -> Ended:
    """One incident on a stage of its own, from nothing to nothing."""
    stage = Stage(
        folder / str(os.getpid()), scenario=SCENARIOS["kills"], seed=seed, accounts=accounts
    )
    try:
        stage.prepare()
        return asyncio.run(_on(stage, points, size, say))
    finally:
        stage.release()


async def _on(stage: Stage, points: list[Point], size: Size, say: Callable[[str], None]) -> Ended:
    try:
        await stage.up(lambda _: None)
        drive = KillDrive(stage, points, size, say)
        try:
            return await drive.whole()
        finally:
            await drive.close()
    finally:
        await stage.down()


def _show_end(console: Console, one: Ended) -> None:
    console.print(
        f"  {one.run.state.lower()} after {one.seconds:.0f} s, {one.size.requests} requests, "
        f"{one.size.entries} audit entries; {one.run.message}"
    )
    for what in one.wrong:
        console.print(f"  [red]WRONG[/red] {what}")


def _conclude(
    console: Console, points: list[Point], ended: list[Ended], seconds: float, result: Path
) -> int:
    table = Table(*_COLUMNS, "")
    good = 0
    for one in ended:
        for struck in one.kills:
            passed = not struck.wrong and not one.wrong and one.run.type == "COMPLETED"
            good += passed
            table.add_row(*_row(struck), "[green]ok[/green]" if passed else "[red]WRONG[/red]")
    console.print(table)
    console.print(f"{good} of {len(points)} in {seconds / 60:.1f} minutes, {len(ended)} incidents")
    document = {
        "passed": good,
        "points": len(points),
        "seconds": round(seconds, 1),
        "incidents": [_plain(one) for one in ended],
    }
    result.parent.mkdir(parents=True, exist_ok=True)
    write_private(result, json.dumps(document, indent=2))
    return 0 if good == len(points) else 1


def _row(struck: Struck) -> tuple[str, ...]:
    point = struck.point
    return (
        str(point.number),
        point.victim,
        str(point),
        struck.phase,
        "; ".join([*struck.happened, *struck.wrong]) or "went on by itself",
        f"{struck.seconds:.1f} s" if struck.seconds else "-",
    )


def _plain(one: Ended) -> dict[str, object]:
    return {
        "run": one.run.state,
        "message": one.run.message,
        "seconds": round(one.seconds, 1),
        "wrong": one.wrong,
        "kills": [dict(zip(_COLUMNS, _row(struck), strict=True)) for struck in one.kills],
    }


if __name__ == "__main__":
    sys.exit(main())
