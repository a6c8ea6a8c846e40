"""The kill harness in its short form: one incident in which flow, worker and server are each killed
once, at moments that are worst. `python -m rehearsal.kills` does the same at fifty seeded ones."""

import pytest

from rehearsal.kill_drive import Ended
from rehearsal.kill_points import Edge, Point, Trigger, Victim
from rehearsal.kills import UNHARMED, incident

POINTS = [
    Point(1, Victim.SERVER, Trigger.ENTRY, 0.3, away=2.0),
    Point(2, Victim.FLOW, Trigger.ACT, 0.55, "text message", 3, Edge.DONE),
    Point(3, Victim.FLOW, Trigger.ACT, 0.65, "create secret", 1, Edge.DONE),
    Point(4, Victim.WORKER, Trigger.GATE, 0.82, "retire"),
]

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return incident(
        POINTS,
        UNHARMED,
        seed=11,
        accounts=24,
        say=print,
        folder=tmp_path_factory.mktemp("kills"),
    )


def test_every_moment_came(ended: Ended) -> None:
    assert [struck.point for struck in ended.kills] == POINTS
    assert ended.missed == []


def test_nobody_was_harmed_after_any_of_them(ended: Ended) -> None:
    assert [struck.wrong for struck in ended.kills] == [[]] * len(POINTS)


def test_the_incident_ends_with_nothing_lost_and_nothing_doubled(ended: Ended) -> None:
    assert ended.run.type == "COMPLETED", ended.run.message
    assert ended.wrong == []
