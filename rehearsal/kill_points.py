"""Where and whom the kill harness kills: a pure draw from a seed.

A moment is counted, not timed: the k-th request at the world, the k-th audit entry, one request of
a kind, a gate. So a slow machine meets the same moments as a fast one.
"""

import random
from dataclasses import dataclass
from enum import StrEnum


class Victim(StrEnum):
    FLOW = "flow"
    WORKER = "worker"
    SERVER = "server"
    PORTAL = "portal"
    FROZEN = "frozen flow"
    """Not killed but stopped: taken for dead, a new run works, and then it wakes up."""


class Trigger(StrEnum):
    """What is waited for before the kill."""

    REQUEST = "request"
    """A share of the requests that an unharmed incident makes at the world."""
    ENTRY = "entry"
    """A share of the audit entries that an unharmed incident writes."""
    ACT = "act"
    """One request of a kind."""
    GATE = "gate"
    """The run is suspended and nobody has answered yet."""
    RESUMED = "resumed"
    """The answer has just been accepted."""


class Edge(StrEnum):
    """Where the request stands when the process dies."""

    LOST = "lost"
    """Sent, and it never arrives: between intend and act."""
    DONE = "done"
    """It has had its effect, and its answer never arrives: between act and settle."""


@dataclass(frozen=True, slots=True)
class ActKind:
    """A kind of request, by what the turnstiles call it."""

    pattern: str
    order: float
    """Where it stands in an incident, about; to sort by."""
    many: int
    """One of so many is chosen."""
    victim: Victim | None = None
    """Whose request it is, where it is not the flow's."""


ACTS = {
    "search the SIEM": ActKind(r"^siem POST .*_search", 0.02, 2),
    "revoke": ActKind(r"^platform (DELETE|POST) /admin/accounts/[^/]+/\w+", 0.15, 60),
    "banner": ActKind(r"^platform POST /admin/accounts/[^/]+/banners", 0.5, 12),
    "email batch": ActKind(r"^sendgrid POST /v3/mail/send", 0.5, 5),
    "text message": ActKind(r"^twilio POST .*/Messages", 0.55, 12),
    "create secret": ActKind(r"^platform POST /admin/clients/[^/]+/secrets$", 0.65, 4),
    "restart a consumer": ActKind(r"^jenkins POST ", 0.7, 4),
    "deactivate secret": ActKind(r"^platform POST .*/deactivate$", 0.88, 3),
    "delete secret": ActKind(r"^platform DELETE /admin/clients/", 0.92, 3),
    "bind authenticator": ActKind(
        r"^platform POST /admin/accounts/[^/]+/authenticators", 0.6, 2, Victim.PORTAL
    ),
}
FROZEN_EVERY = 7
GATES = {"contain": 0.05, "notify": 0.45, "retire": 0.82}


@dataclass(frozen=True, slots=True)
class Point:
    """One kill. `place` is where in an incident it is, from 0 to 1."""

    number: int
    victim: Victim
    trigger: Trigger
    place: float
    what: str = ""
    """The kind of act or the gate."""
    skip: int = 0
    edge: Edge = Edge.DONE
    away: float = 1.0
    """Seconds until the victim is started again."""

    def __str__(self) -> str:
        match self.trigger:
            case Trigger.ACT:
                return f"{self.what} ({self.edge})"
            case Trigger.GATE:
                return f"waiting at {self.what}"
            case Trigger.RESUMED:
                return f"resumed at {self.what}"
            case _:
                return f"{self.trigger} at {self.place:.0%} ({self.edge})"


def draw(seed: int, count: int) -> list[Point]:
    """`count` kills: victims in equal parts, some of them frozen instead, places all over an
    incident, a third inside acts."""
    rng = random.Random(seed)
    victims = [Victim.FLOW, Victim.WORKER, Victim.SERVER] * (count // 3 + 1)
    victims = victims[:count]
    rng.shuffle(victims)
    for place in range(FROZEN_EVERY - 1, count, FROZEN_EVERY):
        victims[place] = Victim.FROZEN
    return [_one(rng, number, victim) for number, victim in enumerate(victims, start=1)]


def _one(rng: random.Random, number: int, victim: Victim) -> Point:
    edge = rng.choice(list(Edge))
    away = round(rng.uniform(0.2, 4.0), 1)
    trigger = rng.choices(list(Trigger), weights=[34, 24, 30, 6, 6])[0]
    match trigger:
        case Trigger.ACT:
            what = rng.choice(list(ACTS))
            kind = ACTS[what]
            skip = rng.randrange(kind.many)
            place = kind.order + 0.001 * skip
            return Point(number, kind.victim or victim, trigger, place, what, skip, edge, away)
        case Trigger.GATE | Trigger.RESUMED:
            # A flow that waits has no process to kill.
            gate = rng.choice(list(GATES))
            alive = victim in (Victim.WORKER, Victim.SERVER)
            whom = victim if alive else rng.choice([Victim.WORKER, Victim.SERVER])
            return Point(number, whom, trigger, GATES[gate], gate, 0, edge, away)
        case _:
            return Point(number, victim, trigger, rng.random(), "", 0, edge, away)


def by_incident(points: list[Point], each: int) -> list[list[Point]]:
    """The points of one incident after the other, in the order in which they come there."""
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return [sorted(group, key=lambda point: point.place) for group in groups]
