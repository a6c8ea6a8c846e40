"""One trial: a world, a run with a fault, the fault mended, a second run, the world's verdict."""

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from recovery.errors import RecoveryError
from recovery.rotate import StepKind
from rehearsal.prefect_server import ROOT
from rehearsal.rotation.faults import Kind, Plan, Striker, draw
from rehearsal.rotation.field import Field
from rehearsal.rotation.opening import INCIDENT, opened
from rehearsal.rotation.turn import turn, watched
from rehearsal.world.openbao import OpenBao
from rehearsal.world.openbao_contents import VaultContents

CHILD_TIMEOUT = 120.0
RUNS = 2
"""The run with the fault and the one after it: no further one is allowed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one seed. `complaints` is empty where it recovered."""

    seed: int
    plan: Plan
    first: str
    """How the run with the fault ended, in words."""
    requests: int
    samples: int
    seconds: float
    complaints: tuple[str, ...]

    @property
    def recovered(self) -> bool:
        return not self.complaints


async def trial(
    bao: OpenBao, contents: VaultContents, seed: int, plan_of: Kind | Plan | None = None
) -> Verdict:
    """The seed alone decides the world, the fault and its step; `plan_of` fixes what is given."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rotation-") as folder:
        async with Field(bao, contents, Path(folder), seed=seed) as field:
            drawn = plan_of if isinstance(plan_of, Plan) else None
            kind = plan_of if isinstance(plan_of, Kind) else None
            plan = drawn or draw(Random(seed), field.population.clients, kind)
            striker = Striker(field, plan)
            try:
                first, struck = await _first_run(field, striker)
            finally:
                await asyncio.to_thread(striker.mend)
            found = [] if struck else [f"the fault never struck: {first}"]
            found += await _second_run(field)
            await field.some_traffic()
            found += await field.complaints()
            return Verdict(
                seed=seed,
                plan=plan,
                first=first,
                requests=field.fleet.requests,
                samples=field.sampler.samples,
                seconds=time.monotonic() - began,
                complaints=tuple(found),
            )


async def _first_run(field: Field, striker: Striker) -> tuple[str, bool]:
    """How it ended, and whether the fault struck."""
    if striker.plan.kind is Kind.KILLED:
        status = await _killed(field, striker.plan)
        return f"child ended with {status}", status == -9
    try:
        async with opened(field.door) as case:
            watched(case, striker)
            results = await turn(case)
    except RecoveryError as error:
        return f"stopped: {error.attempted}", striker.struck
    asking = sum(r.state is StepKind.ASK for r in results)
    return f"{len(results) - asking} rotated, {asking} left", striker.struck


async def _killed(field: Field, plan: Plan) -> int:
    """Runs the turn in a child that kills itself (SIGKILL) at the step."""
    told = {
        "door": field.door.told(),
        "death": {
            "client_id": plan.client_id,
            "move": plan.move.value,
            "moment": plan.moment,
        },
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rehearsal.rotation.turn"),
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=PIPE,
        cwd=ROOT,
    )
    try:
        _, said = await asyncio.wait_for(
            child.communicate(json.dumps(told).encode()), CHILD_TIMEOUT
        )
    except BaseException:
        child.kill()
        await child.wait()
        raise
    if child.returncode not in (0, -9):
        raise RuntimeError(f"the child failed:\n{said.decode(errors='replace')[-2000:]}")
    return child.returncode or 0


async def _second_run(field: Field) -> Sequence[str]:
    """Must finish everything. What it leaves is told in words."""
    try:
        async with opened(field.door) as case:
            results = await turn(case)
            case.ledger.verify_audit()
            unsettled = case.ledger.unsettled(INCIDENT)
    except RecoveryError as error:
        return [f"the second run stopped: {error}"]
    found = [f"{r.client_id}: {r.reason}" for r in results if r.state is not StepKind.DONE]
    found += [f"{a.act.subject} {a.act.step}: no outcome in the ledger" for a in unsettled]
    return found
