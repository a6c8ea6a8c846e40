"""The pure chain: canonical bytes, hashes, and that every mutation of a chain is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.audit import (
    GENESIS,
    AuditEntry,
    Head,
    Tampered,
    canonical,
    canonical_facts,
    from_line,
    link,
    stamp,
    subject_of,
    to_line,
    verify,
    verify_extract,
)

AT = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
facts = st.dictionaries(text, text | st.integers(-(2**53), 2**53), max_size=4)
moments = st.datetimes(timezones=st.just(UTC))


def chain(count: int, *, incidents: int = 1) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    prev = GENESIS
    for seq in range(1, count + 1):
        entry = AuditEntry(
            seq=seq,
            incident_id=f"INC-{seq % incidents}",
            at=AT + timedelta(seconds=seq),
            actor="respond",
            event="settle",
            subject=f"{seq:032x}",
            verdict="DONE",
            facts={"step": "contain.revoke", "generation": seq},
            prev=prev,
        )
        prev = link(prev, canonical(entry))
        entries.append(replace(entry, hash=prev))
    return entries


def test_a_known_record_has_known_bytes_and_a_known_hash() -> None:
    """A verifier in another language must come to the same."""
    entry = AuditEntry(1, "INC-1", AT, "mona", "note", "ab", "", {"z": "\u00e9\n", "a": 7})
    assert canonical(entry) == (
        b'{"actor":"mona","at":"2026-03-14T09:26:53.589793Z","event":"note",'
        b'"facts":{"a":7,"z":"\xc3\xa9\\n"},"incident_id":"INC-1","seq":1,"subject":"ab",'
        b'"verdict":""}'
    )
    assert (
        link(GENESIS, canonical(entry))
        == "8bac4ec8696795998f053f91274216f66ee8e56dd2c829d25fc6f948c018c86d"
    )


@given(text, text, text, text, text, facts, moments, st.integers(1, 2**53))
def test_the_canonical_form_is_sorted_json(
    incident: str,
    actor: str,
    event: str,
    subject: str,
    verdict: str,
    some: dict[str, str | int],
    at: datetime,
    seq: int,
) -> None:
    entry = AuditEntry(seq, incident, at, actor, event, subject, verdict, some)
    expected = {
        "seq": seq,
        "incident_id": incident,
        "at": stamp(at),
        "actor": actor,
        "event": event,
        "subject": subject,
        "verdict": verdict,
        "facts": some,
    }
    spelled = json.dumps(expected, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert canonical(entry) == spelled.encode()
    sealed = replace(entry, hash=link(GENESIS, canonical(entry)))
    line = to_line(sealed)
    assert "\n" not in line
    assert from_line(line) == sealed


def test_an_instant_has_one_spelling() -> None:
    assert stamp(AT.astimezone(timezone(timedelta(hours=5)))) == stamp(AT)
    assert stamp(AT.replace(microsecond=0)) == "2026-03-14T09:26:53.000000Z"
    with pytest.raises(ValueError, match="aware"):
        stamp(AT.replace(tzinfo=None))


@pytest.mark.parametrize("value", [1.5, None, True, ["x"], {"y": 1}, b"x"])
def test_facts_have_two_types(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_facts({"f": value})  # type: ignore[dict-item]


def test_subjects_need_the_key() -> None:
    assert len(subject_of(b"k" * 32, "acc-1")) == 32
    assert subject_of(b"k" * 32, "acc-1") != subject_of(b"l" * 32, "acc-1")
    assert subject_of(b"k" * 32, "") == ""


def test_a_whole_chain_verifies_to_its_head() -> None:
    entries = chain(20)
    assert verify([]) == Head(0, GENESIS)
    assert verify(entries) == Head(20, entries[-1].hash)
    assert verify(entries[:7]) == Head(7, entries[6].hash), "a cut end shows in the head alone"


def _edit(**changes: object) -> Callable[[list[AuditEntry], int], list[AuditEntry]]:
    def mutate(entries: list[AuditEntry], at: int) -> list[AuditEntry]:
        changed = replace(entries[at], **changes)  # type: ignore[arg-type]
        return [*entries[:at], changed, *entries[at + 1 :]]

    return mutate


def _rehash(entries: list[AuditEntry], at: int) -> list[AuditEntry]:
    changed = replace(entries[at], actor="somebody")
    changed = replace(changed, hash=link(changed.prev, canonical(changed)))
    return [*entries[:at], changed, *entries[at + 1 :]]


def _swap(entries: list[AuditEntry], at: int) -> list[AuditEntry]:
    return [*entries[:at], entries[at + 1], entries[at], *entries[at + 2 :]]


def _swap_contents(entries: list[AuditEntry], at: int) -> list[AuditEntry]:
    one, two = entries[at], entries[at + 1]
    return [
        *entries[:at],
        replace(two, seq=one.seq, prev=one.prev),
        replace(one, seq=two.seq, prev=two.prev),
        *entries[at + 2 :],
    ]


MUTATIONS: dict[str, Callable[[list[AuditEntry], int], list[AuditEntry]]] = {
    "actor": _edit(actor="somebody"),
    "event": _edit(event="intend"),
    "verdict": _edit(verdict="REFUSED"),
    "subject": _edit(subject="0" * 32),
    "incident": _edit(incident_id="INC-9"),
    "time": _edit(at=AT),
    "facts": _edit(facts={}),
    "wrong type": _edit(facts={"x": 1.5}),
    "no text": _edit(actor=None),
    "hash": _edit(hash="a" * 64),
    "link": _edit(prev="a" * 64),
    "not a hash": _edit(prev="none"),
    "number": _edit(seq=1000),
    "delete": lambda entries, at: [*entries[:at], *entries[at + 1 :]],
    "insert": lambda entries, at: [*entries[:at], entries[at], *entries[at:]],
    "swap": _swap,
    "swap contents": _swap_contents,
    "rewrite with its hash": _rehash,
}


@pytest.mark.parametrize("name", MUTATIONS)
@given(at=st.integers(0, 17))
def test_every_mutation_before_the_end_is_found_where_it_is(name: str, at: int) -> None:
    with pytest.raises(Tampered) as caught:
        verify(MUTATIONS[name](chain(20), at))
    assert at + 1 <= caught.value.seq <= at + 2
    assert f"entry {caught.value.seq}" in str(caught.value)


def test_an_extract_proves_its_own_entries() -> None:
    entries = chain(30, incidents=3)
    mine = [entry for entry in entries if entry.incident_id == "INC-1"]
    assert verify_extract(mine) == 10
    assert verify_extract(entries) == 30
    for broken in (
        [*mine[:3], replace(mine[3], verdict="REFUSED"), *mine[4:]],
        [*mine[:3], mine[4], mine[3], *mine[5:]],
        [mine[0], *mine],
        [*entries[:4], replace(entries[4], prev="a" * 64), *entries[5:]],
    ):
        with pytest.raises(Tampered):
            verify_extract(broken)


@pytest.mark.parametrize(
    "line",
    [
        *("", "[]", "{}", "null"),
        to_line(chain(1)[0]).replace('"seq":1', '"seq":"1"'),
        to_line(chain(1)[0]).replace('"actor":"respond"', '"actor":5'),
        to_line(chain(1)[0]).replace("2026-", "x"),
    ],
)
def test_what_is_no_entry_is_not_read(line: str) -> None:
    with pytest.raises(ValueError):
        from_line(line)
