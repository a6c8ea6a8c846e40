"""Checkpoints: signed notes that open for the right key alone, and 10,000 forgeries found."""

import base64
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recovery.audit import (
    GENESIS,
    AuditEntry,
    Head,
    Tampered,
    canonical,
    from_line,
    link,
    link_in,
    to_line,
)
from recovery.checkpoint import Checkpoint, hold_against, opened, signed_note
from recovery.errors import Unverified
from recovery.merkle import Growing, leaf_hash

START = datetime(2026, 3, 14, 9, 26, 53, 589793, tzinfo=UTC)
ORIGIN = "recovery-ledger/0011223344556677"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
LENGTH = 48
MARKS = (7, 20, 33, LENGTH)
MUTATIONS = 10_000


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def linked(entries: list[AuditEntry]) -> list[AuditEntry]:
    """The entries numbered and hashed anew: what somebody with write access can do."""
    chain, prev = [], GENESIS
    for seq, entry in enumerate(entries, start=1):
        placed = replace(entry, seq=seq, prev=prev)
        prev = link(prev, canonical(placed))
        chain.append(replace(placed, hash=prev))
    return chain


def written(seed: int, length: int = LENGTH) -> list[AuditEntry]:
    rng = random.Random(seed)
    return linked(
        [
            AuditEntry(
                seq=0,
                incident_id="INC-2026-0142",
                at=START + timedelta(seconds=number),
                actor=rng.choice(("recovery", "portal", "maya")),
                event=rng.choice(("intend", "settle", "approval", "mark")),
                subject=f"{rng.getrandbits(128):032x}",
                verdict=rng.choice(("", "done", "refused")),
                facts={"step": f"contain.{rng.randrange(9)}", "n": rng.randrange(1000)},
            )
            for number in range(length)
        ]
    )


def checkpoint_of(entries: list[AuditEntry]) -> Checkpoint:
    tree = Growing()
    for entry in entries:
        tree.append(leaf_hash(canonical(entry)))
    return Checkpoint(ORIGIN, tree.size, tree.root(), entries[-1].hash, entries[-1].at)


def held(entries: list[AuditEntry], marks: list[Checkpoint], leaves: bytes = b"") -> Head:
    return hold_against((link_in(entry) for entry in entries), marks, leaves)


LOG = written(1)
LEAVES = b"".join(leaf_hash(canonical(entry)) for entry in LOG)
CHECKPOINTS = [checkpoint_of(LOG[:size]) for size in MARKS]


def note(checkpoint: Checkpoint = CHECKPOINTS[-1], key: Ed25519PrivateKey = KEY) -> bytes:
    return signed_note(checkpoint, key=public(key), signature=key.sign(checkpoint.text()))


def test_an_honest_log_holds_against_its_checkpoints_and_may_have_grown() -> None:
    assert held(LOG, CHECKPOINTS) == Head(LENGTH, LOG[-1].hash)
    assert held(LOG, CHECKPOINTS[:2]).seq == LENGTH
    assert held(LOG, []).seq == LENGTH


def test_a_note_opens_for_its_key() -> None:
    assert opened(note(), [public(OTHER), public(KEY)]) == CHECKPOINTS[-1]


def test_a_note_is_a_signed_note_of_the_published_form() -> None:
    """Checked by hand: text, empty line, em dash, name, base64 of key hash and signature."""
    text, mark = note().decode().split("\n\n")
    assert text.splitlines()[:2] == [ORIGIN, str(LENGTH)]
    assert base64.b64decode(text.splitlines()[2]) == CHECKPOINTS[-1].root
    assert mark.startswith(f"— {ORIGIN} ")
    raw = base64.b64decode(mark.split(" ")[2])
    KEY.public_key().verify(raw[4:], (text + "\n").encode())


@pytest.mark.parametrize(
    "forged",
    [
        note(key=OTHER),
        note().replace(b"\n48\n", b"\n47\n"),
        note().replace(b"head ", b"head 0", 1),
        note().split(b"\n\n")[0] + b"\n",
        note()[:-10] + b"\n",
        b"",
        b"\xff\xfe\n\n",
        note().replace(b"\n48\n", b"\n048\n"),
    ],
)
def test_a_forged_note_opens_for_nobody(forged: bytes) -> None:
    with pytest.raises(Unverified):
        opened(forged, [public(KEY)])


def test_every_flipped_bit_of_a_note_is_found() -> None:
    whole = note()
    for place in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        try:
            said = opened(bytes(flipped), [public(KEY)])
        except Unverified:
            continue
        # What does not carry meaning (the last newline) may differ; what it says may not.
        assert said == CHECKPOINTS[-1]


def test_leaf_hashes_that_no_checkpoint_signs_count_for_nothing() -> None:
    other = written(3)
    forged = b"".join(leaf_hash(canonical(entry)) for entry in other)
    assert held(LOG, CHECKPOINTS, forged).seq == LENGTH
    with pytest.raises(Tampered) as found:
        held(other, CHECKPOINTS, forged)
    assert found.value.seq == 1
    assert held(LOG, CHECKPOINTS, LEAVES[: 32 * 33] + forged[32 * 33 :]).seq == LENGTH


def test_two_checkpoints_that_contradict_each_other_are_found() -> None:
    other = checkpoint_of(written(2)[: MARKS[1]])
    with pytest.raises(Tampered):
        held(LOG, [*CHECKPOINTS, other])


Forged = tuple[list[AuditEntry], bool]
"""The mutated log, and whether whoever did it hashed everything anew."""


def edited(entry: AuditEntry, rng: random.Random) -> AuditEntry:
    return rng.choice(
        (
            lambda: replace(entry, actor=entry.actor + "x"),
            lambda: replace(entry, verdict="done" if entry.verdict != "done" else "refused"),
            lambda: replace(entry, at=entry.at + timedelta(microseconds=rng.randrange(1, 10**9))),
            lambda: replace(entry, facts={**entry.facts, "n": rng.randrange(1000, 2000)}),
            lambda: replace(entry, subject=f"{rng.getrandbits(128):032x}"),
        )
    )()


def edit(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    place = rng.randrange(len(log))
    return [*log[:place], edited(log[place], rng), *log[place + 1 :]]


def flip(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    """A bit of an exported line that still reads as another entry."""
    for _ in range(200):
        place = rng.randrange(len(log))
        line = bytearray(to_line(log[place]).encode())
        line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
        try:
            entry = from_line(line.decode())
        except ValueError:
            continue
        if entry != log[place]:
            return [*log[:place], entry, *log[place + 1 :]]
    raise AssertionError("no bit could be flipped")


def delete(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    start = rng.randrange(len(log) - 1)
    return log[:start] + log[start + rng.randrange(1, 4) :]


def insert(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    place = rng.randrange(len(log))
    return [*log[:place], edited(log[place], rng), *log[place:]]


def swap(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    one, other = sorted(rng.sample(range(len(log)), 2))
    changed = list(log)
    changed[one], changed[other] = log[other], log[one]
    return changed


def cut(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    """Also an older copy of the whole ledger put in its place."""
    return log[: rng.randrange(len(log))]


def replaced(log: list[AuditEntry], rng: random.Random) -> list[AuditEntry]:
    return written(rng.randrange(10, 10**9), length=len(log) + rng.randrange(3))


KINDS: dict[str, Callable[[list[AuditEntry], random.Random], list[AuditEntry]]] = {
    each.__name__: each for each in (edit, flip, delete, insert, swap, cut, replaced)
}


def first_difference(log: list[AuditEntry]) -> int:
    """The number of the first entry that is not the one that was written."""
    for number, (one, other) in enumerate(zip(LOG, log, strict=False), start=1):
        if one != other:
            return number
    return min(len(LOG), len(log)) + 1


def test_ten_thousand_mutations_are_found_and_the_first_bad_entry_is_named() -> None:
    rng = random.Random(20260314)
    counted: dict[str, int] = dict.fromkeys([*KINDS, "hashed anew"], 0)
    for number in range(MUTATIONS):
        log, kinds = LOG, rng.choices(list(KINDS), k=rng.choice((1, 1, 2, 3)))
        for kind in kinds:
            if len(log) > 8:
                log = KINDS[kind](log, rng)
                counted[kind] += 1
        anew = rng.random() < 0.4
        if anew:
            log = linked(log)
            counted["hashed anew"] += 1
        first = first_difference(log)
        if log == LOG:
            continue  # two swaps may undo each other
        where = f"mutation {number}: {kinds}, hashed anew: {anew}"
        with pytest.raises(Tampered) as found:
            held(log, CHECKPOINTS, LEAVES)
        assert found.value.seq == first, where
        with pytest.raises(Tampered) as found:
            held(log, CHECKPOINTS)
        if anew:
            proven = max((size for size in MARKS if size < first), default=0)
            assert found.value.seq == proven + 1, where
    assert min(counted.values()) > 500, counted
