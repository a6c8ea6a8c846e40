"""What goes wrong in a rehearsed rotation, and at which step: drawn from a seed, struck when the
run comes to the step, mended before the second run."""

import dataclasses
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from recovery.rotate import Move
from rehearsal.rotation.field import Field
from rehearsal.rotation.turn import AFTER, BEFORE, MIDDLE, Death
from rehearsal.world.faults import CloseAfter, Status
from rehearsal.world.registry import ClientSeed


class Kind(StrEnum):
    CREATE_LOST = "create answer lost"
    CAS_CONFLICT = "CAS conflict by another writer"
    SEALED = "Vault sealed"
    CI_RED = "CI red"
    CI_HANGS = "CI hangs"
    CANARY_UNHEALTHY = "canary unhealthy"
    REFUSED = "platform refuses"
    KILLED = "process killed"


ORDINARY = (
    Move.CREATE_SECRET,
    Move.PROMOTE,
    Move.RESTART,
    Move.PROVE,
    Move.DEACTIVATE,
    Move.WATCH,
    Move.DELETE,
    Move.DROP_PREVIOUS,
)
"""The moves of an undisturbed rotation, in their order."""

STEPS: Mapping[Kind, tuple[tuple[Move, str], ...]] = {
    Kind.CREATE_LOST: ((Move.CREATE_SECRET, BEFORE),),
    Kind.CAS_CONFLICT: tuple(
        (move, BEFORE) for move in (Move.CREATE_SECRET, Move.PROMOTE, Move.DROP_PREVIOUS)
    ),
    Kind.SEALED: tuple((move, moment) for move in ORDINARY for moment in (BEFORE, AFTER)),
    Kind.CI_RED: ((Move.RESTART, BEFORE),),
    Kind.CI_HANGS: ((Move.RESTART, BEFORE),),
    Kind.CANARY_UNHEALTHY: ((Move.RESTART, BEFORE),),
    Kind.REFUSED: tuple(
        (move, BEFORE) for move in (Move.CREATE_SECRET, Move.DEACTIVATE, Move.DELETE)
    ),
    Kind.KILLED: (
        *((move, moment) for move in ORDINARY for moment in (BEFORE, AFTER)),
        (Move.CREATE_SECRET, MIDDLE),
    ),
}
"""Where each fault can strike: the move, and whether before it, in its middle or after it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One fault at one step of one client."""

    kind: Kind
    client_id: str
    move: Move
    moment: str
    variant: int
    """Which of the ways in which this fault comes: another consumer, another status."""

    def __str__(self) -> str:
        return f"{self.kind}, {self.moment} {self.move} of {self.client_id}"

    @property
    def death(self) -> Death:
        return Death(self.client_id, self.move.value, self.moment)


def draw(rng: Random, clients: Mapping[str, ClientSeed], kind: Kind | None = None) -> Plan:
    kind = kind or rng.choice(list(Kind))
    move, moment = rng.choice(STEPS[kind])
    return Plan(kind, rng.choice(sorted(clients)), move, moment, rng.randrange(6))


@dataclass(slots=True)
class Striker:
    """Strikes once, when the run comes to the plan's step; `mend` undoes what lasts."""

    field: Field
    plan: Plan
    struck: bool = False
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __call__(self, client_id: str, move: str, moment: str) -> None:
        """A `Hook`: called in a thread of the run's, while the act is about to be done."""
        with self._lock:
            there = (client_id, move, moment)
            plan = self.plan
            if self.struck or there != (plan.client_id, plan.move.value, plan.moment):
                return
            self.struck = True
        self._strikes()[plan.kind]()

    def mend(self) -> None:
        """Everything that was broken from outside works again."""
        self.field.platform.faults.clear()
        if self.plan.kind is Kind.SEALED and self.struck:
            self.field.bao.unseal()
        self.field.shop.red.clear()
        self.field.shop.let_go.set()
        for consumer in self.field.fleet:
            consumer.stuck = consumer.sickens = False

    def _strikes(self) -> Mapping[Kind, Callable[[], None]]:
        return {
            Kind.CREATE_LOST: self._lose_the_answer,
            Kind.CAS_CONFLICT: self._write_between,
            Kind.SEALED: self.field.bao.seal,
            Kind.CI_RED: self._fail_builds,
            Kind.CI_HANGS: self._hang_builds,
            Kind.CANARY_UNHEALTHY: self._make_ill,
            Kind.REFUSED: self._refuse,
            # A child kills itself (`turn.Death`).
            Kind.KILLED: lambda: None,
        }

    @property
    def _consumers(self) -> list[str]:
        names = [c.name for c in self.field.population.clients[self.plan.client_id].consumers]
        begin = self.plan.variant % len(names)
        return [*names[begin:], *names[:begin]]

    def _lose_the_answer(self) -> None:
        self.field.platform.faults.inject(
            CloseAfter(),
            rf"POST /admin/clients/{self.plan.client_id}/secrets$",
            times=1 + self.plan.variant % 2,
        )

    def _write_between(self) -> None:
        """Somebody adds a note to the entry after we have looked and before we write."""
        path = f"apps/{self.plan.client_id}"
        entry = self.field.contents.read(path)
        self.field.contents.put(path, {**entry, "note": f"reviewed {self.plan.variant}"})

    def _fail_builds(self) -> None:
        self.field.shop.red[self._consumers[0]] = 1 + self.plan.variant % 2

    def _hang_builds(self) -> None:
        self.field.shop.hung.add(self._consumers[0])

    def _make_ill(self) -> None:
        consumer = self.field.fleet[self._consumers[0]]
        if self.plan.variant % 2:
            consumer.stuck = True
        else:
            consumer.sickens = True

    def _refuse(self) -> None:
        call = {
            Move.CREATE_SECRET: r"POST /admin/clients/{}/secrets$",
            Move.DEACTIVATE: r"POST /admin/clients/{}/secrets/[^/]+/deactivate$",
            Move.DELETE: r"DELETE /admin/clients/{}/secrets/",
        }[self.plan.move]
        status = (403, 409, 400)[self.plan.variant % 3]
        pattern = call.format(self.plan.client_id)
        self.field.platform.faults.inject(Status(status), pattern, times=None)
