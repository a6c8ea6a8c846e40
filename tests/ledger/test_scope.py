"""From sightings to admitted accounts: idempotent, complete, counted."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from recovery.accounts import (
    Priority,
    PriorityReason,
    Quarantined,
    Sighting,
    Stage,
    account_ref,
)
from recovery.incident import ClientRecord


def test_sightings_keep_first_last_and_most(world: Any) -> None:
    seen = world.sighting(1, resets=2)
    assert world.ledger.record_sightings(world.incident, [seen]) == 1
    head = world.ledger.audit_head()
    assert world.ledger.record_sightings(world.incident, [seen]) == 0
    assert world.ledger.audit_head() == head, "a repeated read changes nothing"
    earlier = world.sighting(
        1, first_seen=seen.first_seen - timedelta(hours=1), resets=1, source="other"
    )
    later = world.sighting(1, last_seen=seen.last_seen + timedelta(seconds=1), resets=7)
    assert world.ledger.record_sightings(world.incident, [earlier, later]) == 0
    assert world.ledger.unadmitted(world.incident) == [
        Sighting("u000001", earlier.first_seen, later.last_seen, 7, "siem")
    ]


def test_the_same_account_twice_in_one_read_is_one(world: Any) -> None:
    assert world.ledger.record_sightings(world.incident, [world.sighting(4)] * 3) == 1
    assert world.ledger.scope(world.incident).sighted == 1


def test_sightings_are_written_while_they_are_read(world: Any, connect: Any) -> None:
    """A slow source must not hold the ledger's lock: others write between two of its items."""
    other = connect()

    def slow() -> Iterator[Sighting]:
        for number in range(2500):
            if number == 2400:
                other.mark(world.incident, "written meanwhile")
                assert other.scope(world.incident).sighted == 2000
            yield world.sighting(number)

    assert world.ledger.record_sightings(world.incident, slow()) == 2500
    assert len(world.ledger.unadmitted(world.incident, limit=5000)) == 2500
    assert len(world.ledger.unadmitted(world.incident)) == 1000
    assert len(world.ledger.unadmitted(world.incident, limit=None)) == 2500
    ids = [sighting.account_id for sighting in world.ledger.unadmitted(world.incident, limit=10)]
    assert ids == [f"u{number:06d}" for number in range(10)]


def test_unattributed_counts_replace_each_other(world: Any) -> None:
    for count in (7, 3, 3):
        world.ledger.record_unattributed(world.incident, "siem", count)
    world.ledger.record_unattributed(world.incident, "proxy", 10)
    assert world.ledger.scope(world.incident).unattributed_events == 13
    assert world.events().count("scope.unattributed") == 3


def test_quarantine_is_idempotent_and_marks_unrostered(world: Any) -> None:
    world.ledger.record_sightings(world.incident, [world.sighting(n) for n in range(3)])
    rows = [
        Quarantined("platform roster", 17, "email", "no mail address", "u000000"),
        Quarantined("platform roster", 17, "phone", "not dialable", "u000000"),
        Quarantined("platform roster", 0, "account_id", "not on the roster", "u000001"),
        Quarantined("platform roster", 9, "account_id", "empty"),
    ]
    assert world.ledger.quarantine(world.incident, [*rows, rows[0]]) == 4
    head = world.ledger.audit_head()
    assert world.ledger.quarantine(world.incident, rows) == 0
    assert world.ledger.audit_head() == head
    assert world.ledger.quarantined(world.incident) == rows
    left = [sighting.account_id for sighting in world.ledger.unadmitted(world.incident)]
    assert left == ["u000000", "u000002"]
    scope = world.ledger.scope(world.incident)
    assert (scope.sighted, scope.unrostered, scope.quarantined_fields) == (3, 1, 3)


def test_an_account_that_turns_up_on_the_roster_is_admitted_after_all(world: Any) -> None:
    world.ledger.record_sightings(world.incident, [world.sighting(1)])
    unknown = Quarantined("platform roster", 0, "account_id", "not on the roster", "u000001")
    world.ledger.quarantine(world.incident, [unknown])
    world.ledger.admit(world.incident, [world.placed(1)])
    scope = world.ledger.scope(world.incident)
    assert (scope.sighted, scope.admitted, scope.unrostered) == (1, 1, 0)


def test_admission_is_for_life(world: Any) -> None:
    placed = [world.placed(n, wave=n // 2, batch=n) for n in range(4)]
    assert world.ledger.admit(world.incident, placed) == (4, 0)
    moved = [world.placed(n, wave=9, batch=9) for n in range(6)]
    assert world.ledger.admit(world.incident, moved) == (2, 4)
    for number in range(4):
        account = world.ledger.account(world.ref(number))
        assert (account.wave, account.batch) == (number // 2, number)
    assert world.events().count("scope.admitted") == 6


def test_an_account_comes_back_as_it_was_admitted(world: Any) -> None:
    placed = world.placed(
        3, wave=1, batch=2, priority=Priority.HIGH, reasons=(PriorityReason.ADMIN,)
    )
    world.ledger.admit(world.incident, [placed])
    ref = account_ref(world.key, world.incident, "u000003")
    account = world.ledger.account(ref)
    for name in (
        *("account_id", "handle", "email", "phone", "last_active", "linked_apps", "locale"),
        *("priority", "reasons", "first_seen", "last_seen", "resets", "excluded"),
    ):
        assert getattr(account, name) == getattr(placed.account, name), name
    assert (account.ref, account.stage, account.wave, account.batch) == (ref, Stage.SCOPED, 1, 2)
    assert account.stage_reason == ""


def test_excluded_accounts_are_kept_apart(world: Any) -> None:
    world.ledger.record_sightings(world.incident, [world.sighting(n) for n in range(3)])
    world.ledger.admit(
        world.incident,
        [
            world.placed(0, priority=Priority.HIGH, reasons=(PriorityReason.BRAND,)),
            world.placed(1, excluded="break-glass", priority=Priority.HIGH),
            world.placed(2, reasons=(PriorityReason.BRAND, PriorityReason.BILLING)),
        ],
    )
    assert world.stage(world.ref(1)) is Stage.EXCLUDED
    assert world.account(world.ref(1)).excluded == "break-glass"
    scope = world.ledger.scope(world.incident)
    assert (scope.sighted, scope.admitted, scope.excluded) == (3, 2, 1)
    assert scope.high_priority == 1
    assert scope.reasons == {"brand": 2, "linked billing": 1}
    assert world.ledger.unadmitted(world.incident) == []


def test_a_sighting_after_admission_is_not_work_again(world: Any) -> None:
    world.admitted(1)
    world.ledger.record_sightings(world.incident, [world.sighting(0)])
    assert world.ledger.unadmitted(world.incident) == []


def test_the_same_account_in_two_incidents_is_two_refs(world: Any) -> None:
    world.open("INC-2")
    world.admitted(1)
    world.admitted(1, incident="INC-2")
    assert world.ref(0) != world.ref(0, "INC-2")
    assert world.ledger.scope("INC-2").admitted == 1


def test_clients_are_admitted_once_and_ordered(world: Any) -> None:
    records = [
        ClientRecord("crm", "CRM", "sales", "high", ("crm-web", "crm-jobs"), 40, 1),
        ClientRecord("bi", "BI", "data", "low", (), 2, 0, "no known consumer"),
        ClientRecord("app", "App", "web", "low", ("app",), 9, 1),
    ]
    assert world.ledger.admit_clients(world.incident, records) == 3
    changed = ClientRecord("crm", "CRM", "sales", "low", (), 0, 5)
    assert world.ledger.admit_clients(world.incident, [changed]) == 0
    assert world.ledger.clients(world.incident) == [records[1], records[2], records[0]]
    assert world.events().count("scope.client") == 3


@pytest.mark.parametrize("text", ["nul\x00byte", "lone \ud800 surrogate"])
def test_a_handle_no_database_takes_does_not_stop_a_batch(world: Any, text: str) -> None:
    odd = world.placed(1)
    odd = replace(odd, account=replace(odd.account, handle=text))
    assert world.ledger.admit(world.incident, [world.placed(0), odd]) == (2, 0)
    assert world.account(world.ref(1)).handle in ("nulbyte", "lone ? surrogate")
