"""Client secrets wave by wave: freeze windows, a budget of failures, who goes beside whom.

Decides when; what is done to one client is handed in.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from flows.waves import hold_gate
from recovery.errors import Misconfigured, Outage, RecoveryError, Stopped, TakenOver
from recovery.freeze import holding
from recovery.gates import Hold
from recovery.incident import Phase
from tasks.case import Case
from tasks.rotate import Rotated, trouble

RotateClient = Callable[[Case, str], Awaitable[Rotated]]
MayGo = Callable[[Case, str, Hold], Awaitable[bool]]
"""Whether a person approved going on at this gate, in spite of exactly this reason."""

FREEZE_GATE = "hold.rotate.freeze"


@dataclass(frozen=True, slots=True)
class Worked:
    """Which clients were worked, and the gate that holds the others with its reason."""

    done: tuple[Rotated, ...]
    held: str = ""
    reason: str = ""


async def over_clients(
    case: Case, waves: Sequence[Sequence[str]], work: RotateClient, may_go: MayGo
) -> Worked:
    """Each wave when the one before has ended. Once as many rotations have failed as the runbook
    allows no further one begins: not in the next wave, and not in this one either."""
    done: list[Rotated] = []
    budget = _Budget(case.policy.rotate.max_failures)
    for number, wave in enumerate(waves):
        await case.brake.check()
        windows = [freeze.window() for freeze in case.policy.rotate.freeze]
        frozen = holding(windows, case.ledger.now())
        if frozen and not await may_go(case, FREEZE_GATE, Hold(frozen)):
            return Worked(tuple(done), FREEZE_GATE, frozen)
        waiting = list(wave)
        while waiting:
            worked = await _work(case, waiting, work, budget)
            done += worked
            waiting = waiting[len(worked) :]
            more = bool(waiting) or number < len(waves) - 1
            if not (budget.spent and more):
                break
            failed = sorted(r.client_id for r in done if r.failed)
            reason = f"{len(failed)} of {len(done)} rotations need a person: {', '.join(failed)}"
            held = hold_gate(Phase.ROTATE, number)
            if not await may_go(case, held, Hold(reason)):
                return Worked(tuple(done), held, reason)
            budget.renew()
    return Worked(tuple(done))


class _Budget:
    """Failures that are left before nothing further begins."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    @property
    def spent(self) -> bool:
        return self._left <= 0

    def note(self, result: Rotated) -> None:
        self._left -= result.failed

    def renew(self) -> None:
        """A person looked at what failed and lets it go on."""
        self._left = self._most


async def _work(
    case: Case, wave: Sequence[str], work: RotateClient, budget: _Budget
) -> list[Rotated]:
    """As many of the wave side by side as the runbook says, in its order, until the budget is
    spent; those begun are let finish. The results are of the first so many of the wave."""
    limit = asyncio.Semaphore(case.policy.rotate.at_once)

    async def one(client_id: str) -> Rotated | None:
        async with limit:
            if budget.spent:
                return None
            result = await _guarded(case, client_id, work)
            budget.note(result)
            return result

    # Every client is let finish and settle before what is wrong for all stops the phase.
    results = await asyncio.gather(*(one(c) for c in wave), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [r for r in results if isinstance(r, Rotated)]


async def _guarded(case: Case, client_id: str, work: RotateClient) -> Rotated:
    """One client's trouble is its own; what is wrong for all of them stops the phase."""
    try:
        return await work(case, client_id)
    except (Misconfigured, Outage, Stopped, TakenOver):
        raise
    except RecoveryError as error:
        return trouble(client_id, error)
