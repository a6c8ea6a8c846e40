"""The audit chain as pure values: what an entry says, how it is hashed, how a chain is verified.

Canonical form after RFC 8785 (sorted keys, no blanks, UTF-8; integers and strings only, so that
number formatting cannot differ); a domain byte stands before each hashed record as in RFC 6962.
"""

import hashlib
import hmac
import json
import json.encoder
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from recovery.errors import RecoveryError

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""

Fact = str | int

_RECORD = b"\x01"
_quoted = json.encoder.encode_basestring


class Tampered(RecoveryError):
    """The chain does not hold at entry `seq`; everything before it is still proven."""

    def __init__(self, seq: int, why: str) -> None:
        super().__init__(
            "verifying the audit chain",
            subject=f"entry {seq}",
            got=why,
            advice="Keep a copy of the ledger as it is and compare it with the last checkpoint.",
        )
        self.seq = seq
        self.why = why


class Head(NamedTuple):
    """The end of a chain: how many entries it has and the hash that covers all of them."""

    seq: int
    hash: str


class Link(NamedTuple):
    """One entry as the chain sees it: its place, its two hashes, its canonical record."""

    seq: int
    prev: str
    hash: str
    record: bytes


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One thing that happened. `subject` is an HMAC, `verdict` is empty where nothing was judged.

    `incident_id` is empty for what belongs to no incident that was known at the time.
    """

    seq: int
    incident_id: str
    at: datetime
    actor: str
    event: str
    subject: str = ""
    verdict: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    prev: str = GENESIS
    hash: str = ""


def subject_of(key: bytes, subject: str) -> str:
    """The name under which an account or client stands in the log: 128 bits of HMAC-SHA256.

    Whoever holds the ledger's key finds a subject again; nobody else can. Empty stays empty.
    """
    return hmac.digest(key, subject.encode(), "sha256").hex()[:32] if subject else ""


def stamp(at: datetime) -> str:
    """The one spelling of an instant inside the chain: UTC, microseconds, `Z`."""
    if at.tzinfo is None:
        raise ValueError("an audit entry needs an aware datetime")
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def canonical_facts(facts: Mapping[str, Fact]) -> str:
    """Facts as sorted JSON. Only strings and integers: floats and nesting have many spellings."""
    return "{" + ",".join([f"{_quoted(k)}:{_spelled(facts[k])}" for k in sorted(facts)]) + "}"


def canonical(entry: AuditEntry) -> bytes:
    """What is hashed: all that the entry says, without its place's `prev` and `hash`."""
    return record(
        entry.seq,
        entry.incident_id,
        stamp(entry.at),
        entry.actor,
        entry.event,
        entry.subject,
        entry.verdict,
        canonical_facts(entry.facts),
    )


def record(
    seq: int,
    incident_id: str,
    stamped: str,
    actor: str,
    event: str,
    subject: str,
    verdict: str,
    spelled_facts: str,
) -> bytes:
    """The canonical form out of its parts, the time by `stamp`, the facts by `canonical_facts`.

    Written out instead of encoded from a dict: this runs for every entry ever written or
    verified, and is three times as fast.
    """
    return (
        f'{{"actor":{_quoted(actor)},"at":"{stamped}","event":{_quoted(event)}'
        f',"facts":{spelled_facts},"incident_id":{_quoted(incident_id)},"seq":{seq:d}'
        f',"subject":{_quoted(subject)},"verdict":{_quoted(verdict)}}}'
    ).encode()


def link(prev_hash: str, record: bytes) -> str:
    """The hash of an entry: SHA-256 over 0x01, the predecessor's hash and the canonical record."""
    return hashlib.sha256(_RECORD + bytes.fromhex(prev_hash) + record).hexdigest()


def verify(entries: Iterable[AuditEntry]) -> Head:
    """Walk a whole chain from its first entry and return its head, or raise `Tampered`.

    Finds every edit, deletion, insertion and swap before the last entry. That the end was not cut
    off is only shown by comparing the head with one kept elsewhere.
    """
    return verify_links(link_in(entry) for entry in entries)


def verify_links(links: Iterable[Link]) -> Head:
    """`verify` for a store that keeps the canonical spelling and need not read it first."""
    head = Head(0, GENESIS)
    for each in links:
        if each.seq != head.seq + 1:
            raise Tampered(head.seq + 1, f"entry {each.seq} stands in its place")
        if each.prev != head.hash:
            raise Tampered(each.seq, "it does not name the entry before it")
        head = Head(each.seq, _proven(each))
    return head


def verify_extract(entries: Iterable[AuditEntry]) -> int:
    """Check the entries of one incident, taken out of a chain that holds others between them.

    Each entry must carry its own right hash, stand in order, and follow on where its neighbour is
    present. What was left out is not proven; only `verify` over the whole chain does that.
    """
    count = 0
    before = Head(0, GENESIS)
    for entry in entries:
        if entry.seq <= before.seq:
            raise Tampered(entry.seq, f"it stands after entry {before.seq}")
        if entry.seq == before.seq + 1 and entry.prev != before.hash:
            raise Tampered(entry.seq, "it does not name the entry before it")
        before = Head(entry.seq, _proven(link_in(entry)))
        count += 1
    return count


def to_line(entry: AuditEntry) -> str:
    """The entry as one line of an export (JSON Lines): its canonical form, then its hashes."""
    said = canonical(entry).decode()
    return f'{said[:-1]},"prev":{_quoted(entry.prev)},"hash":{_quoted(entry.hash)}}}'


def from_line(line: str) -> AuditEntry:
    """Read one line of an export. Raises ValueError where it is not one."""
    data = json.loads(line)
    if not isinstance(data, dict) or set(data) != _FIELDS:
        raise ValueError("not an audit entry: its fields are not the ones an export has")
    facts = data["facts"]
    if not isinstance(facts, dict) or type(data["seq"]) is not int:
        raise ValueError("not an audit entry: seq or facts has another type")
    texts = {name: data[name] for name in _FIELDS - {"seq", "facts", "at"}}
    if not all(isinstance(value, str) for value in texts.values()):
        raise ValueError("not an audit entry: a text field has another type")
    return AuditEntry(
        seq=data["seq"], at=datetime.fromisoformat(str(data["at"])), facts=facts, **texts
    )


_FIELDS = frozenset(AuditEntry.__dataclass_fields__)


def _spelled(fact: Fact) -> str:
    if type(fact) is str:
        return _quoted(fact)
    if type(fact) is int:
        return str(fact)
    raise TypeError(f"a fact must be a str or an int, not {type(fact).__name__}")


def link_in(entry: AuditEntry) -> Link:
    """The entry as a link. Raises Tampered where it cannot be spelled."""
    try:
        return Link(entry.seq, entry.prev, entry.hash, canonical(entry))
    except (TypeError, ValueError, AttributeError) as exc:
        raise Tampered(entry.seq, "it cannot be read as an entry") from exc


def _proven(each: Link) -> str:
    try:
        computed = link(each.prev, each.record)
    except (TypeError, ValueError) as exc:
        raise Tampered(each.seq, "it names no hash before it") from exc
    if computed != each.hash:
        raise Tampered(each.seq, "its content does not match its hash")
    return computed
