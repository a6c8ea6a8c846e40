"""One phase over the waves of an incident: batches of a wave side by side, a gate between waves."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prefect import get_run_logger

from flows.approve import passed_mark
from flows.progress import Progress
from flows.settle import settling
from recovery.accounts import BatchRef
from recovery.approvals import Decision, GatePlan, standing
from recovery.gates import Hold, gate
from recovery.incident import Phase, Tally
from recovery.plans import hold_situation, overrule_plan
from tasks.case import BATCHES_AT_ONCE, Case
from tasks.counts import BatchCounts

BatchWork = Callable[[Case, BatchRef], Awaitable[BatchCounts]]


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What a phase's flow returns: counts, and where it holds. `held` names the gate to pass."""

    phase: Phase
    counts: BatchCounts
    held: str = ""
    reason: str = ""


def everyone(tally: Tally, step: str, wave: int) -> int:
    """Every account of the wave must have an outcome."""
    return sum(n for (w, _), n in tally.stages.items() if w == wave)


def begun(tally: Tally, step: str, wave: int) -> int:
    """Only what was intended must have an outcome: not everybody needs this step."""
    return sum(
        n
        for (s, w, _), n in tally.verdicts.items()
        if w == wave and (s == step or s.startswith(step + "."))
    )


async def over_waves(
    case: Case,
    phase: Phase,
    step: str,
    work: BatchWork,
    *,
    expected: Callable[[Tally, str, int], int] = begun,
) -> PhaseResult:
    """Works wave by wave; after each the pure gate decides by the ledger's tally of `step`.

    A wave that was promoted before is worked for late-comers only and not judged again. A hold
    ends the phase with the gate's name, unless an approval that overrules it stands.
    """
    with settling():
        return await _over(case, phase, step, work, expected)


async def _over(
    case: Case, phase: Phase, step: str, work: BatchWork, expected: Callable[[Tally, str, int], int]
) -> PhaseResult:
    ledger, incident_id = case.ledger, case.incident_id
    await asyncio.to_thread(ledger.mark, incident_id, f"{phase}.started")
    batches = await asyncio.to_thread(ledger.batches, incident_id)
    batches = [b for b in batches if b.wave >= 0]
    promoted = {m.name for m in await asyncio.to_thread(ledger.marks, incident_id)}
    progress = await Progress.start(case, phase, step, batches)
    total = BatchCounts()
    for wave in sorted({b.wave for b in batches}):
        members = [b for b in batches if b.wave == wave]
        await progress.wave(wave)
        total = total + await _work_wave(case, members, work, progress)
        await progress.draw()
        name = f"{phase}.wave.{wave}.promoted"
        if name in promoted:
            continue
        tally = await asyncio.to_thread(ledger.tally, incident_id)
        due = expected(tally, step, wave)
        decision = gate(tally, case.policy.gates, step=step, wave=wave, expected=due)
        held = hold_gate(phase, wave)
        if isinstance(decision, Hold) and not await overruled(case, held, decision):
            get_run_logger().warning("%s wave %s holds: %s", phase, wave, decision.reason)
            return PhaseResult(phase, total, held, decision.reason)
        await asyncio.to_thread(ledger.mark, incident_id, name)
    await asyncio.to_thread(ledger.mark, incident_id, f"{phase}.finished")
    await progress.draw()
    return PhaseResult(phase, total)


async def _work_wave(
    case: Case, batches: Sequence[BatchRef], work: BatchWork, progress: Progress
) -> BatchCounts:
    limit = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def one(batch: BatchRef) -> BatchCounts:
        async with limit:
            await case.brake.check()
            counts = await work(case, batch)
        await progress.advance(batch)
        return counts

    # Every batch is let finish and settle before the first error stops the phase.
    results = await asyncio.gather(*(one(batch) for batch in batches), return_exceptions=True)
    total = BatchCounts()
    for result in results:
        if isinstance(result, BaseException):
            raise result
        total = total + result
    return total


def hold_gate(phase: Phase, wave: int) -> str:
    """The gate at which a person may overrule a hold of this phase and wave."""
    return f"hold.{phase}.{wave}"


async def overruled(case: Case, gate_name: str, hold: Hold) -> bool:
    """True where a person approved going on in spite of exactly this reason."""
    attempts = await asyncio.to_thread(case.ledger.approvals, case.incident_id, gate_name)
    plan = await hold_plan(case, gate_name, hold.reason)
    if await case.marked(passed_mark(gate_name, plan.digest)):
        return True
    needed = case.policy.approvals.hold.approvals_needed
    stands = standing(attempts, plan.digest, case.ledger.now(), needed=needed)
    return stands.decision is Decision.APPROVE


async def hold_plan(case: Case, gate_name: str, reason: str) -> GatePlan:
    """What an approver of going on in spite of a hold is asked, by the ledger's counts."""
    _, phase, wave = gate_name.split(".")
    tally = await asyncio.to_thread(case.ledger.tally, case.incident_id)
    situation = hold_situation(case.policy, tally, Phase(phase), int(wave))
    return overrule_plan(case.incident_id, gate=gate_name, reason=reason, situation=situation)
