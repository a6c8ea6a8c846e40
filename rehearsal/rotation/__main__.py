"""`python -m rehearsal.rotation --seeds 100`: a random fault at a random step of the rotation of 14
clients, seed by seed; every one must be recovered by one more run, without one failed request."""

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter

from rich.console import Console
from rich.table import Table

from rehearsal.rotation.trial import Verdict, trial
from rehearsal.world.openbao import OpenBao
from rehearsal.world.openbao_contents import VaultContents


def main() -> int:
    parser = argparse.ArgumentParser(prog="rehearsal.rotation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    chosen = parser.parse_args()
    # A failed rotation is what is rehearsed here; the table tells it.
    logging.disable(logging.WARNING)
    console = Console(highlight=False, width=120)
    began = time.monotonic()
    verdicts: list[Verdict] = []
    with OpenBao() as bao:
        contents = VaultContents(bao)
        try:
            contents.set_up(())
            for seed in range(chosen.first, chosen.first + chosen.seeds):
                verdicts.append(asyncio.run(trial(bao, contents, seed)))
                _tell(console, verdicts[-1])
        finally:
            contents.close()
    console.print(_table(verdicts))
    recovered = sum(v.recovered for v in verdicts)
    console.print(
        f"{recovered} of {len(verdicts)} recovered; "
        f"{sum(v.requests for v in verdicts):,} requests of consumers, "
        f"{sum(v.samples for v in verdicts):,} samples, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0 if recovered == len(verdicts) else 1


def _tell(console: Console, verdict: Verdict) -> None:
    mark = "recovered" if verdict.recovered else "NOT RECOVERED"
    console.print(
        f"seed {verdict.seed:>4}  {mark}  {verdict.plan}  (first run: {verdict.first}; "
        f"{verdict.seconds:.1f} s)",
        soft_wrap=True,
    )
    for complaint in verdict.complaints[:8]:
        console.print(f"           {complaint}", soft_wrap=True)


def _table(verdicts: list[Verdict]) -> Table:
    table = Table("Fault", "Step", "Seeds", "Recovered")
    tried: Counter[tuple[str, str]] = Counter()
    well: Counter[tuple[str, str]] = Counter()
    for verdict in verdicts:
        place = (verdict.plan.kind.value, f"{verdict.plan.moment} {verdict.plan.move}")
        tried[place] += 1
        well[place] += verdict.recovered
    for place in sorted(tried):
        table.add_row(*place, str(tried[place]), str(well[place]))
    return table


if __name__ == "__main__":
    sys.exit(main())
