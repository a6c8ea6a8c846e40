"""The one way to write: a transaction that holds the chain's lock and carries its audit entries.

Entries are collected while the state changes and appended just before the commit, so neither can
be there without the other. The rules for what may stand in an entry are applied here.
"""

import contextlib
import hmac
import itertools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ledger import schema
from ledger.bulk import insert_rows
from ledger.connection import Database
from recovery.accounts import Clock
from recovery.audit import (
    Fact,
    Head,
    Tampered,
    canonical_facts,
    link,
    record,
    stamp,
    subject_of,
)
from recovery.errors import Misconfigured, NotFound, Refused
from recovery.redaction import WITHHELD

CHUNK = 500
"""Keys looked up at once."""

PAGE = 1_000
"""Rows fetched at once where a method streams."""

_CONTACT = re.compile(r"[^\s@]*@[^\s@]+|\+\d[\d ().\-]{6,}\d")
_LONGEST = 500
_SAID = ("incident_id", "at", "actor", "event", "subject", "verdict", "facts")
_HASH = re.compile("[0-9a-f]{64}")
_KEY_CHECK = b"this is the key of this ledger"

T = TypeVar("T")


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def storable(text: str) -> str:
    """Foreign text as both databases take it: no NUL, no lone surrogate."""
    if text.isascii():
        return text.replace("\x00", "")
    return text.encode("utf-8", "replace").decode().replace("\x00", "")


def scrubbed(text: str) -> str:
    """Text that may enter the log: no address, no @handle, no phone number, bounded.

    A last line of defence; callers must not pass such text in the first place.
    """
    if "@" in text or "+" in text:
        text = _CONTACT.sub(WITHHELD, text)
    return storable(text)[:_LONGEST]


class Transaction:
    """An open write transaction under the chain's lock; `now` is its one moment."""

    def __init__(self, conn: Connection, key: bytes, now: datetime, actor: str) -> None:
        self.conn = conn
        self.now = now
        self._key = key
        self._actor = actor
        self._stamp = stamp(now)
        self._entries: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}

    def log(
        self,
        incident_id: str,
        event: str,
        *,
        subject: str = "",
        verdict: str = "",
        actor: str = "",
        facts: Mapping[str, Fact] | None = None,
    ) -> None:
        """Add an audit entry to this transaction. `subject` is given plain and stored as HMAC."""
        spelled = canonical_facts(
            {
                name: scrubbed(value) if isinstance(value, str) else operator.index(value)
                for name, value in (facts or {}).items()
            }
        )
        self._entries.append(
            {
                "incident_id": incident_id,
                "at": self._stamp,
                "actor": self._named(actor or self._actor),
                "event": event,
                "subject": subject_of(self._key, subject),
                "verdict": str(verdict),
                "facts": spelled,
            }
        )

    def append(self, head: Head) -> None:
        """Link the collected entries to `head` and store them with the new head."""
        if not self._entries:
            return
        seq, end = head
        for seq, row in enumerate(self._entries, start=head.seq + 1):
            said = record(seq, *(row[name] for name in _SAID))
            row["seq"], row["prev"] = seq, end
            row["hash"] = end = link(end, said)
        insert_rows(self.conn, schema.audit, self._entries)
        self.conn.execute(sa.update(schema.audit_head).values(seq=seq, hash=end))

    def incident(self, incident_id: str) -> Row[tuple[object, ...]]:
        """The incident's row. Raises NotFound."""
        return incident_row(self.conn, incident_id)

    def known_incident(self, incident_id: str) -> datetime | None:
        """When it was closed. Raises NotFound. The portal may read no more of it."""
        columns = schema.incidents.c
        row = self.conn.execute(
            sa.select(columns.closed_at).where(columns.incident_id == incident_id)
        ).one_or_none()
        if row is None:
            raise _unknown(incident_id)
        closed_at: datetime | None = row.closed_at
        return closed_at

    def open_incident(self, incident_id: str, attempted: str) -> None:
        """Raises NotFound, or Refused where the incident is closed and takes no new work."""
        if self.known_incident(incident_id) is not None:
            raise Refused(
                attempted,
                code="incident closed",
                subject=incident_id,
                advice="Open a new incident; a closed one is evidence.",
            )

    def _named(self, actor: str) -> str:
        # Who decided must be recognisable, but a mail address is personal data here too.
        if actor not in self._names:
            personal = _CONTACT.search(actor) is not None
            self._names[actor] = (
                "person-" + subject_of(self._key, actor)[:16] if personal else scrubbed(actor)
            )
        return self._names[actor]


class Core:
    """What every part of the ledger stands on: the database, the key, the clock."""

    def __init__(self, url: str, *, key: bytes, clock: Clock, actor: str = "recovery") -> None:
        if len(key) < 32:
            raise Misconfigured(
                "opening the ledger",
                expected="a key of at least 32 bytes",
                got=f"{len(key)} bytes",
                advice="Create one with secrets.token_bytes(32) and keep it as a secret.",
            )
        self._db = Database(url)
        self._key = key
        self._clock = clock
        self._actor = actor

    def __repr__(self) -> str:
        return f"Ledger({self._db.name})"

    def now(self) -> datetime:
        """The time by which everything here is stamped."""
        return self._clock()

    def key_check(self) -> str:
        """A fingerprint of the key, which says nothing about it: another key, another one."""
        return hmac.digest(self._key, _KEY_CHECK, "sha256").hex()

    def close(self) -> None:
        """Close the connections. The next call opens new ones."""
        self._db.close()

    @contextlib.contextmanager
    def _write(self) -> Iterator[Transaction]:
        with self._db.write() as conn:
            head = locked_head(conn)
            # The clock is read under the lock, so that times do not run against the numbers.
            transaction = Transaction(conn, self._key, self._clock(), self._actor)
            yield transaction
            transaction.append(head)

    def _read(self) -> contextlib.AbstractContextManager[Connection]:
        return self._db.read()


def locked_head(conn: Connection) -> Head:
    """The chain's head, locked until commit: one writer at a time, on every database.

    SQLite locked the whole file at BEGIN IMMEDIATE and ignores FOR UPDATE.
    """
    row = conn.execute(
        sa.select(schema.audit_head.c.seq, schema.audit_head.c.hash).with_for_update()
    ).one_or_none()
    if row is None:
        raise Tampered(0, "the row that holds the head is missing")
    if not _HASH.fullmatch(row.hash):
        raise Tampered(row.seq, "the head holds no hash")
    return Head(row.seq, row.hash)


def incident_row(conn: Connection, incident_id: str) -> Row[tuple[object, ...]]:
    row = conn.execute(
        sa.select(schema.incidents).where(schema.incidents.c.incident_id == incident_id)
    ).one_or_none()
    if row is None:
        raise _unknown(incident_id)
    return row


def _unknown(incident_id: str) -> NotFound:
    return NotFound("looking for the incident", subject=incident_id, code="unknown incident")


def unique(items: Sequence[T]) -> list[T]:
    """The items once each, in their first order."""
    return list(dict.fromkeys(items))
