"""The audit chain in the database: what it says, what it hides, and that no edit goes unseen."""

import json
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.audit import (
    GENESIS,
    Head,
    Tampered,
    canonical,
    from_line,
    link,
    record,
    stamp,
    subject_of,
    verify,
    verify_extract,
)
from recovery.errors import Conflict
from recovery.incident import ApprovalAttempt


@pytest.fixture
def chained(world: Any) -> Any:
    """A world whose log has some twenty entries of several kinds."""
    refs = world.contained(4)
    world.carry_out(refs[:2], "notify.email", Verdict.REFUSED)
    world.ledger.note(world.incident, "remark", actor="mona", facts={"a": "1", "b": 2})
    return world


def test_every_change_and_its_entry_are_one(world: Any, sql: Any) -> None:
    """If the log cannot be written, nothing changes."""
    refs = world.admitted(1)
    sql("DROP TABLE audit")
    calls: list[Callable[[], object]] = [
        lambda: world.ledger.intend(world.incident, [Act(refs[0], "contain.revoke")]),
        lambda: world.ledger.mark(world.incident, "x"),
        lambda: world.ledger.request_link(refs[0]),
        lambda: world.ledger.close_incident(world.incident),
    ]
    for call in calls:
        with pytest.raises(Exception, match="tables are missing"):
            call()
    assert list(world.ledger.acts(world.incident, "contain")) == []
    assert world.ledger.marks(world.incident) == []
    assert world.ledger.pending_link_requests(world.incident) == []
    assert world.ledger.incident(world.incident).closed_at is None


def test_the_chain_verifies_by_hand(chained: Any) -> None:
    entries = list(chained.ledger.audit())
    prev = GENESIS
    for number, entry in enumerate(entries, start=1):
        assert entry.seq == number
        assert entry.prev == prev
        prev = link(prev, canonical(entry))
        assert entry.hash == prev
    assert chained.ledger.audit_head() == Head(len(entries), prev)
    assert chained.ledger.verify_audit() == (len(entries), Head(len(entries), prev))
    assert verify(entries) == Head(len(entries), prev)


def test_an_empty_chain_is_valid(ledger: Any) -> None:
    assert ledger.audit_head() == Head(0, GENESIS)
    assert ledger.verify_audit() == (0, Head(0, GENESIS))
    assert list(ledger.audit()) == []


MUTATIONS = {
    "edit the event": "UPDATE audit SET event = 'other' WHERE seq = 7",
    "edit the actor": "UPDATE audit SET actor = 'somebody' WHERE seq = 7",
    "edit the verdict": "UPDATE audit SET verdict = 'DONE' WHERE verdict = 'REFUSED'",
    "edit the subject": "UPDATE audit SET subject = 'ffff' WHERE seq = 7",
    "edit the incident": "UPDATE audit SET incident_id = 'INC-9' WHERE seq = 7",
    "edit the time": "UPDATE audit SET at = '2020-01-01T00:00:00.000000Z' WHERE seq = 7",
    "spell the time otherwise": "UPDATE audit SET at = replace(at, 'Z', '+00:00') WHERE seq = 7",
    "edit a fact": """UPDATE audit SET facts = '{"a":"1","b":3}' WHERE event = 'remark'""",
    "spell a fact otherwise": """
        UPDATE audit SET facts = '{"b":2,"a":"1"}' WHERE event = 'remark'""",
    "break the facts": "UPDATE audit SET facts = 'gone' WHERE seq = 7",
    "break the time": "UPDATE audit SET at = 'yesterday' WHERE seq = 7",
    "edit the first": "UPDATE audit SET event = 'other' WHERE seq = 1",
    "edit the last": "UPDATE audit SET event = 'x' WHERE seq = (SELECT max(seq) FROM audit)",
    "edit a hash": f"UPDATE audit SET hash = '{'a' * 64}' WHERE seq = 7",
    "edit a link": f"UPDATE audit SET prev = '{'a' * 64}' WHERE seq = 7",
    "break a link": "UPDATE audit SET prev = 'none' WHERE seq = 7",
    "delete one": "DELETE FROM audit WHERE seq = 7",
    "delete the first": "DELETE FROM audit WHERE seq = 1",
    "cut the last": "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
    "cut the last five": "DELETE FROM audit WHERE seq > (SELECT max(seq) - 5 FROM audit)",
    "delete all": "DELETE FROM audit",
    "insert after the last": """
        INSERT INTO audit SELECT seq + 1, incident_id, at, actor, event, subject, verdict, facts,
        prev, hash FROM audit WHERE seq = (SELECT max(seq) FROM audit)""",
    "insert before the first": """
        INSERT INTO audit SELECT 0, incident_id, at, actor, event, subject, verdict, facts,
        prev, hash FROM audit WHERE seq = 1""",
    "insert far away": """
        INSERT INTO audit SELECT 9999, incident_id, at, actor, event, subject, verdict, facts,
        prev, hash FROM audit WHERE seq = 1""",
    "turn back the head": """
        UPDATE audit_head SET seq = seq - 1, hash = (SELECT hash FROM audit
        WHERE seq = (SELECT max(seq) - 1 FROM audit))""",
    "edit the head": f"UPDATE audit_head SET hash = '{'b' * 64}'",
    "delete the head": "DELETE FROM audit_head",
    "insert in the middle": """
        UPDATE audit SET seq = seq + 1000 WHERE seq > 6;
        INSERT INTO audit SELECT 7, incident_id, at, actor, 'smuggled', subject, verdict,
        facts, prev, hash FROM audit WHERE seq = 6;
        UPDATE audit SET seq = seq - 999 WHERE seq > 1000""",
    "swap two": """
        UPDATE audit SET seq = 5000 WHERE seq = 6;
        UPDATE audit SET seq = 6 WHERE seq = 7;
        UPDATE audit SET seq = 7 WHERE seq = 5000""",
}


def test_mutations_are_found(chained: Any, sql: Any) -> None:
    """Each of them on the same chain, which is put back in between."""
    sql("CREATE TABLE kept_audit AS SELECT * FROM audit")
    sql("CREATE TABLE kept_head AS SELECT * FROM audit_head")
    entry = replace(list(chained.ledger.audit())[6], actor="nobody")
    rehashed = link(entry.prev, canonical(entry))
    rewrite = f"UPDATE audit SET actor = 'nobody', hash = '{rehashed}' WHERE seq = 7"
    missed = []
    for name, statements in {**MUTATIONS, "rewrite one and its hash": rewrite}.items():
        chained.ledger.verify_audit()
        for statement in statements.split(";"):
            sql(statement)
        try:
            chained.ledger.verify_audit()
        except Tampered:
            pass
        else:
            missed.append(name)
        for table in ("audit", "head"):
            original = table if table == "audit" else "audit_head"
            sql(f"DELETE FROM {original}")
            sql(f"INSERT INTO {original} SELECT * FROM kept_{table}")
    sql("DROP TABLE kept_audit")
    sql("DROP TABLE kept_head")
    assert missed == []


def test_tampering_is_told_where_it_is(chained: Any, sql: Any) -> None:
    sql("UPDATE audit SET actor = 'somebody' WHERE seq = 7")
    with pytest.raises(Tampered, match="entry 7") as caught:
        chained.ledger.verify_audit()
    assert caught.value.seq == 7


def test_a_cut_with_its_head_shows_against_a_kept_one(chained: Any, sql: Any) -> None:
    """The one thing the ledger cannot tell about itself, and why checkpoints leave the house."""
    kept = chained.ledger.audit_head()
    sql("DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)")
    sql("""UPDATE audit_head SET seq = seq - 1, hash = (SELECT hash FROM audit
           WHERE seq = (SELECT max(seq) FROM audit))""")
    count, head = chained.ledger.verify_audit()
    assert head != kept
    assert count == kept.seq - 1


def test_a_broken_head_stops_the_writers(chained: Any, sql: Any) -> None:
    for statement in ("UPDATE audit_head SET hash = 'none'", "DELETE FROM audit_head"):
        sql(statement)
        with pytest.raises(Tampered):
            chained.ledger.mark(chained.incident, "x")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = X'00' WHERE seq = 7",
        "UPDATE audit SET hash = X'00' WHERE seq = 7",
        "UPDATE audit SET at = 5 WHERE seq = 7",
        "UPDATE audit SET facts = X'7b7d' WHERE seq = 7",
        "UPDATE audit SET event = CAST(X'ff' AS TEXT) WHERE seq = 7",
    ],
)
def test_values_of_another_type_are_found(
    chained: Any, sql: Any, backend: str, statement: str
) -> None:
    if backend != "sqlite":
        pytest.skip("PostgreSQL keeps its columns' types")
    sql(statement)
    with pytest.raises(Tampered):
        chained.ledger.verify_audit()
    with pytest.raises(Tampered):
        list(chained.ledger.audit())


def test_a_border_between_columns_cannot_be_moved(world: Any, sql: Any) -> None:
    """Time and facts enter the record unquoted; neither may swallow or give up a neighbour."""
    facts: dict[str, str | int] = {"a": "b", "event": "late", "facts": 1}
    world.ledger.note(world.incident, "early", actor="a", facts=facts)
    entry = list(world.ledger.audit())[-1]
    # The same bytes, cut in other places: the fact "event" becomes the event.
    at = stamp(entry.at) + '","event":"early","facts":{"a":"b'
    forged = record(entry.seq, entry.incident_id, at, entry.actor, "late", "", "", "1}")
    assert forged == canonical(entry), "the attack is a real one"
    sql(f"UPDATE audit SET at = '{at}', event = 'late', facts = '1}}' WHERE seq = {entry.seq}")
    with pytest.raises(Tampered, match="cannot be read"):
        world.ledger.verify_audit()


def test_subjects_are_found_again_with_the_key_only(chained: Any) -> None:
    ref = chained.ref(0)
    expected = subject_of(chained.key, ref)
    assert re.fullmatch("[0-9a-f]{32}", expected)
    assert expected != subject_of(b"another key of at least 32 bytes", ref)
    events = [e.event for e in chained.ledger.audit() if e.subject == expected]
    assert events == ["scope.admitted", "intend", "settle", "intend", "settle"]


def test_no_personal_data_in_the_log_or_its_export(world: Any, sql: Any, tmp_path: Path) -> None:
    """Even where callers are careless: details, reasons, actors, notes."""
    world.ledger.record_sightings(world.incident, [world.sighting(n) for n in range(3)])
    (enrollment,) = world.armed(1)
    ref, other = enrollment.ref, world.admitted(3)[1]
    careless = "mail to Person.0@mail.example or +49 170 1200000 / @Person.0 bounced"
    act = Act(other, "notify.email")
    world.ledger.intend(world.incident, [act])
    world.ledger.settle(world.incident, [Outcome(act, Verdict.REFUSED, careless)])
    world.ledger.note(world.incident, "n", actor="mona@corp.example", facts={"why": careless})
    world.ledger.release(world.incident, [ref], actor="mona@corp.example")
    now = world.clock.now
    attempt = ApprovalAttempt("g", "d", 1, "mona@corp.example", "promote", careless, "", now)
    world.ledger.record_approval(world.incident, attempt)
    world.ledger.request_link(ref)
    world.ledger.find_account("person.0@mail.example")
    world.ledger.throttle("person.0@mail.example", limit=1, per=timedelta(hours=1))
    path = tmp_path / "export.jsonl"
    assert world.ledger.export_audit(path, None) == world.ledger.audit_head().seq
    for text in (str(sql("SELECT * FROM audit")), path.read_text()):
        lowered = text.casefold()
        for value in ("mail.example", "corp.example", "person.0", "person.1", "1200000", "u000000"):
            assert value not in lowered, value
        assert ref not in text
        assert "[withheld]" in text
    actors = {entry.actor for entry in world.ledger.audit()}
    assert len([actor for actor in actors if actor.startswith("person-")]) == 1
    assert world.ledger.approvals(world.incident, "g") == [attempt], "the approval itself is whole"


def test_facts_are_strings_and_integers_only(world: Any) -> None:
    head = world.ledger.audit_head()
    for value in (1.5, None, ["x"], {"y": 1}):
        with pytest.raises(TypeError):
            world.ledger.note(world.incident, "n", actor="a", facts={"f": value})
    assert world.ledger.audit_head() == head
    text = 'quotes " and \\ and \n and \u2028 and \u00e9 and \U0001f600 and \x00'
    world.ledger.note(world.incident, "n", actor="a", facts={"f": text, "n": 10**18, "t": True})
    entry = list(world.ledger.audit())[-1]
    assert entry.facts == {"f": text.replace("\x00", ""), "n": 10**18, "t": 1}
    world.ledger.verify_audit()


def test_the_export_is_private_whole_and_provable(chained: Any, tmp_path: Path) -> None:
    chained.open("INC-2")
    chained.ledger.note(chained.incident, "remark", actor="a", facts={})
    path = tmp_path / "out" / "audit.jsonl"
    count = chained.ledger.export_audit(path, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["audit.jsonl"]
    lines = path.read_text().splitlines()
    entries = [from_line(line) for line in lines]
    assert count == len(lines)
    assert entries == list(chained.ledger.audit())
    assert verify(entries) == chained.ledger.audit_head()
    assert list(json.loads(lines[0])) == [
        *("actor", "at", "event", "facts", "incident_id", "seq", "subject", "verdict"),
        *("prev", "hash"),
    ]
    path.chmod(0o644)
    assert chained.ledger.export_audit(path, chained.incident) == count - 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    part = [from_line(line) for line in path.read_text().splitlines()]
    assert {entry.incident_id for entry in part} == {chained.incident}
    assert verify_extract(part) == count - 1
    with pytest.raises(Tampered):
        verify(part)


def test_approvals_are_recorded_and_never_rewritten(world: Any) -> None:
    first = ApprovalAttempt(
        "notify", "d" * 64, 1, "mona", "promote", "ok", "digest has changed", world.clock.now
    )
    second = replace(first, attempt=2, refusal="", valid_until=world.clock.now + timedelta(hours=1))
    for attempt in (second, first, first):
        world.ledger.record_approval(world.incident, attempt)
    with pytest.raises(Conflict):
        world.ledger.record_approval(world.incident, replace(first, refusal=""))
    world.ledger.record_approval(world.incident, replace(first, gate="rotate"))
    assert world.ledger.approvals(world.incident, "notify") == [first, second]
    entries = [entry for entry in world.ledger.audit() if entry.event == "approval"]
    assert len(entries) == 3
    assert entries[0].actor == "mona"
    assert entries[0].facts["gate"] == "notify"


def test_advancing_is_told_even_where_the_outcome_was_known(world: Any) -> None:
    refs = world.admitted(1)
    (act,) = world.carry_out(refs, "contain.revoke")
    world.ledger.settle(world.incident, [Outcome(act, Verdict.DONE)], advance=Stage.CONTAINED)
    last = list(world.ledger.audit())[-1]
    assert (last.event, last.facts) == ("stage", {"stage": "CONTAINED"})
