"""What the public learns: nothing before the gate, approved words after it, times by the hour."""

from typing import Any

import pytest

from ledger.status import PUBLIC_MARK, REMEMBERED
from recovery.errors import Refused
from recovery.status import PublicStep, StatusText, coarse

TEXTS = {
    tag: StatusText(f"Title {tag}", f"Body {tag}", {step: f"{step} {tag}" for step in PublicStep})
    for tag in ("en", "ja")
}


def test_nothing_is_public_before_the_gate(world: Any) -> None:
    world.ledger.mark(world.incident, "contain.finished")
    world.ledger.mark(world.incident, "notify.started")
    assert world.ledger.public_statuses() == []


def test_a_published_incident(world: Any) -> None:
    world.ledger.mark(world.incident, "contain.finished")
    world.ledger.mark(world.incident, "gate.retire.waiting")
    world.ledger.mark(world.incident, "rotate.started")
    world.clock.forward(hours=2)
    world.ledger.publish_status(world.incident, TEXTS, digest="d1")
    world.ledger.mark(world.incident, "notify.started")
    [status] = world.ledger.public_statuses()
    assert status.texts == TEXTS
    assert [step for step, _ in status.steps] == [PublicStep.PROTECTED, PublicStep.WRITING]
    for _, at in status.steps:
        assert (at.minute, at.second, at.microsecond) == (0, 0, 0)
    assert status.changed_at == coarse(world.clock.now)
    assert not status.closed


def test_publishing_again_changes_nothing_but_other_words_do(world: Any) -> None:
    world.ledger.publish_status(world.incident, TEXTS, digest="d1")
    before = world.ledger.audit_head()
    world.clock.forward(hours=1)
    world.ledger.publish_status(world.incident, {"en": TEXTS["ja"]}, digest="d1")
    assert world.ledger.audit_head() == before
    world.ledger.publish_status(world.incident, {"en": TEXTS["ja"]}, digest="d2")
    [status] = world.ledger.public_statuses()
    assert status.texts == {"en": TEXTS["ja"]}
    assert [mark.name for mark in world.ledger.marks(world.incident)] == [PUBLIC_MARK]
    assert world.events().count("status.published") == 2


def test_a_closed_incident_is_remembered_for_a_while(world: Any) -> None:
    world.ledger.publish_status(world.incident, TEXTS, digest="d1")
    world.ledger.close_incident(world.incident)
    [status] = world.ledger.public_statuses()
    assert status.closed
    with pytest.raises(Refused):
        world.ledger.publish_status(world.incident, TEXTS, digest="d2")
    world.clock.now += REMEMBERED
    assert world.ledger.public_statuses()
    world.clock.forward(seconds=1)
    assert world.ledger.public_statuses() == []


def test_the_newest_comes_first(world: Any) -> None:
    world.open("INC-2")
    world.ledger.publish_status(world.incident, TEXTS, digest="d1")
    world.clock.forward(hours=1)
    world.ledger.publish_status("INC-2", TEXTS, digest="d1")
    assert [s.incident_id for s in world.ledger.public_statuses()] == ["INC-2", world.incident]
