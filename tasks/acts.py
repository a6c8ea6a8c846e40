"""The middle of every task's recipe: intend, act, settle; and what an error makes of an act."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.errors import RateLimited, Refused, Stopped, Unknown, Unreachable
from tasks.case import Case
from tasks.spread import Spread, spread

NO_ACCOUNT = "the platform does not know the account"
UNFINISHED = (Unknown, Unreachable, RateLimited)
"""Errors after which an act may or may not have happened, or may be tried again."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What was worked now, and which acts were settled well by an earlier run."""

    now: Spread[Outcome]
    before: tuple[Act, ...]


async def carry_out(
    case: Case,
    acts: Iterable[Act],
    do: Callable[[Act], Awaitable[Outcome]],
    *,
    width: int,
    advance: Stage | None = None,
) -> Carried:
    """Does what is fresh, and again what never got an outcome: for acts that repeating can't harm.

    The outcomes are settled whatever stopped the rest; raising `now.stopped_by` is the caller's.
    What the brake kept from beginning is withdrawn: nothing of it is left in doubt.
    """
    ledger, incident_id = case.ledger, case.incident_id
    await case.brake.check()
    intention = await asyncio.to_thread(ledger.intend, incident_id, list(acts))
    queue = [*intention.fresh, *intention.unsettled]
    worked = await spread(queue, do, width=width, before=case.brake.check)
    await asyncio.to_thread(ledger.settle, incident_id, worked.results, advance=advance)
    if isinstance(worked.stopped_by, Stopped):
        begun = {outcome.act for outcome in worked.results}
        unbegun = [act for act in intention.fresh if act not in begun]
        await asyncio.to_thread(ledger.withdraw, incident_id, unbegun)
    return Carried(worked, intention.settled)


def failed(act: Act, error: Refused | Unknown | Unreachable | RateLimited) -> Outcome:
    """REFUSED with the other side's code, or UNKNOWN with the kind of error."""
    if isinstance(error, Refused):
        return Outcome(act, Verdict.REFUSED, error.code)
    return Outcome(act, Verdict.UNKNOWN, type(error).__name__)
