"""One run: every client is renewed and then retired, by the flows' own order and tasks.

`python -m rehearsal.rotation.turn` is the same in a child, which may be told to kill itself at a
step; its door comes by standard input.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flows.client_waves import RotateClient, over_clients
from ledger import Ledger
from recovery.accounts import Act, Outcome
from recovery.gates import Hold
from recovery.incident import Intention
from rehearsal.rotation.opening import Door, opened
from tasks import rotate as tasks
from tasks.case import Case
from tasks.inventory import merged_clients
from tasks.rotate import Rotated

Hook = Callable[[str, str, str], None]
"""Told of a client, a move and a moment (before, after), from a thread of its own."""

BEFORE, MIDDLE, AFTER = "before", "middle", "after"


async def turn(case: Case) -> list[Rotated]:
    """Inventory, renew all, retire all: what an incident does with an approval between."""
    await tasks.admit(case, await merged_clients(case, None))
    records = await tasks.rotatable(case)
    renewed = await over_clients(
        case, tasks.order_of(case, records), cast(RotateClient, tasks.renew_secret.fn), _go_on
    )
    retiring = [record for record, _ in await tasks.retiring_secrets(case)]
    retired = await over_clients(
        case, tasks.order_of(case, retiring), cast(RotateClient, tasks.retire_secret.fn), _go_on
    )
    last = {r.client_id: r for r in (*renewed.done, *retired.done)}
    return list(last.values())


async def _go_on(case: Case, gate: str, hold: Hold) -> bool:
    return True


class Watched:
    """The ledger, with somebody who is told of each act before it is done and after it."""

    def __init__(self, ledger: Ledger, hook: Hook) -> None:
        self._ledger = ledger
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def intend(self, incident_id: str, acts: Sequence[Act]) -> Intention:
        intention = self._ledger.intend(incident_id, acts)
        # A generation that is settled already is only asked for.
        for act in (*intention.fresh, *intention.unsettled):
            self._hook(act.subject, act.step.rpartition(".")[2], BEFORE)
        return intention

    def settle(self, incident_id: str, outcomes: Sequence[Outcome], **more: Any) -> None:
        for outcome in outcomes:
            self._hook(outcome.act.subject, outcome.act.step.rpartition(".")[2], AFTER)
        self._ledger.settle(incident_id, outcomes, **more)


@dataclass(frozen=True, slots=True)
class Death:
    """Where a child kills itself: at a client's move, before it, in its middle or after it."""

    client_id: str
    move: str
    moment: str

    def __call__(self, client_id: str, move: str, moment: str) -> None:
        if (client_id, move, moment) == (self.client_id, self.move, self.moment):
            os.kill(os.getpid(), signal.SIGKILL)


def watched(case: Case, hook: Hook) -> None:
    case.ledger = cast(Ledger, Watched(case.ledger, hook))


def _die_between_platform_and_vault(case: Case, death: Death) -> None:
    """In the middle of `create_secret`: the platform has answered, Vault was not asked yet."""
    stage = case.secrets.stage_pending

    async def stage_pending(path: str, *given: Any, **more: Any) -> int:
        death(path.rpartition("/")[2], "create_secret", MIDDLE)
        return await stage(path, *given, **more)

    case.secrets.stage_pending = stage_pending  # type: ignore[method-assign]


async def _child() -> None:
    told = json.load(sys.stdin)
    async with opened(Door(**told["door"])) as case:
        death = Death(**told["death"])
        watched(case, death)
        _die_between_platform_and_vault(case, death)
        await turn(case)


if __name__ == "__main__":
    asyncio.run(_child())
