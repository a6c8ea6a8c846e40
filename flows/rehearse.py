"""Rehearse on a schedule, so that the first run is never the real one, and notice a drift."""

import asyncio
import re
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    aupdate_progress_artifact,
)
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from recovery.drift import RehearsalResult, drift, drift_markdown
from recovery.errors import RecoveryError
from recovery.policy import load_policy
from tasks.case import ROOT
from tasks.rehearse import Ended, Rehearsal, keep, last_measure, run_rehearsal

DESCRIPTION = """Run a whole incident in the rehearsal world on the worker's machine, and compare.

A world of its own with a Prefect server of its own, on loopback: no outside system is touched. The
result is kept below `var/rehearsals/`. A check that turned red, a figure that got worse than the
runbook's `drift` allows, or counts that changed for the same seed make this run **Failed**, with
the difference as an artifact. Cancel it and everything it has started ends.

Args:
    scenario: A scenario of the rehearsal world, such as mass-reset.
    seed: The same seed gives the same people, events and counts.
    accounts: How many accounts are affected.
    minutes: After so many minutes it is given up, and the run fails.
    accept: On: what is other than before is meant, and this result is the new measure.
"""

_STEPS = re.compile(r"^\d+:\d\d  (\w+) finished|^(hours pass|after 72 hours|respond ended)")
_ALL_STEPS = 11
"""Eight phases, the hours after, the report after 72 hours, the verdict."""


@flow(
    name="rehearse",
    flow_run_name="rehearse {scenario} seed {seed}",
    description=DESCRIPTION.partition("\nArgs:")[0],
    persist_result=False,
)
async def rehearse(
    scenario: Annotated[str, Field(pattern=r"^[a-z0-9-]{2,40}$")] = "mass-reset",
    seed: Annotated[int, Field(ge=0, le=1_000_000)] = 1,
    accounts: Annotated[int, Field(ge=20, le=100_000)] = 338,
    minutes: Annotated[int, Field(ge=1, le=600)] = 60,
    accept: bool = False,
) -> State[object]:
    wanted = Rehearsal(scenario, seed, accounts)
    before = last_measure(wanted)
    progress = _Progress(await acreate_progress_artifact(0.0, key="rehearse", description=""))
    try:
        async with asyncio.timeout(timedelta(minutes=minutes).total_seconds()):
            ended = await run_rehearsal(wanted, progress.heard)
    except TimeoutError:
        return Failed(message=f"Given up after {minutes} minutes; everything was ended.")
    if ended.result is None:
        get_run_logger().error("%s", ended.last_lines)
        return Failed(message=f"No result (status {ended.status}): {_last_line(ended)}")
    try:
        return await _judged(before, ended, ended.result, accept)
    except RecoveryError as error:
        return Failed(message=str(error))


rehearse.__doc__ = DESCRIPTION


async def _judged(
    before: RehearsalResult | None, ended: Ended, result: RehearsalResult, accept: bool
) -> State[object]:
    """Compares, keeps, shows; the state says it in one line."""
    policy, _ = load_policy(ROOT / "runbooks" / f"{result.runbook}.yaml")
    found = drift(before, result, policy.drift) if before else ()
    shown = result.model_copy(update={"drift": found})
    keep(ended.path, result if accept else shown)
    await acreate_markdown_artifact(
        drift_markdown(shown, before),
        key=f"rehearsal-{result.scenario}",
        description=f"Rehearsal of {result.scenario}, seed {result.seed}",
    )
    for line in found:
        get_run_logger().warning("%s", line)
    red = [check.name for check in result.checks if not check.passed]
    if not result.good:
        return Failed(
            message=f"The rehearsal ended as {result.state}; red: {'; '.join(red) or '-'}"
        )
    if found and not accept:
        return Failed(message=f"Drift: {'; '.join(found)}"[:1000])
    compared = "the first of its kind" if before is None else "no drift"
    if found:
        compared = f"{len(found)} differences accepted as the new measure"
    return Completed(
        message=f"{len(result.checks)} checks passed in {result.seconds:.0f} s, {compared}."
    )


def _last_line(ended: Ended) -> str:
    return ended.last_lines.rsplit("\n", 1)[-1][:300] or "it said nothing"


class _Progress:
    """Counts what the rehearsal prints into one progress artifact, and logs a line a step."""

    def __init__(self, artifact: UUID) -> None:
        self._artifact, self._done = artifact, 0

    async def heard(self, line: str) -> None:
        if _STEPS.match(line) is None:
            return
        self._done = min(self._done + 1, _ALL_STEPS)
        get_run_logger().info("%s", line)
        await aupdate_progress_artifact(
            self._artifact, 100.0 * self._done / _ALL_STEPS, description=line[:200]
        )
