"""Reading, proving and handing out the audit chain that every transaction appends to."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from ledger import schema
from ledger.transaction import PAGE, Core
from recovery.audit import AuditEntry, Head, Link, Tampered, record, to_line, verify_links
from recovery.files import replace_private

_audit = schema.audit
_head = schema.audit_head
_HASHES = re.compile("[0-9a-f]{128}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_STRING = r'"(?:[^"\\]|\\.)*"'
_FACT = rf"{_STRING}:(?:-?\d+|{_STRING})"
_FACTS = re.compile(rf"\{{(?:{_FACT}(?:,{_FACT})*)?\}}", re.ASCII)


class AuditLog(Core):
    """The log."""

    def audit(self, incident_id: str | None = None) -> Iterator[AuditEntry]:
        """The entries of one incident, or of the whole ledger, in order; a page in memory at a
        time. Raises Tampered for one that cannot be read; only `verify_audit` proves them."""
        after = 0
        while True:
            with self._read() as conn:
                rows = _rows(conn, after, incident_id)
            if not rows:
                return
            for row in rows:
                yield _entry(row)
            after = rows[-1].seq

    def audit_head(self) -> Head:
        """How many entries there are and the hash over all of them. Keep it outside the ledger:
        a log that was cut together with its head can only be told by such a copy."""
        with self._read() as conn:
            return stored_head(conn)

    def verify_audit(self) -> tuple[int, Head]:
        """Prove the whole chain against its head and return (entries, head), or raise Tampered.

        Works on a snapshot: others may go on writing meanwhile.
        """
        with self._read() as conn:
            head = stored_head(conn)
            found = verify_links(links_of(conn))
        same_end(found, head)
        return found.seq, head

    def export_audit(self, path: Path, incident_id: str | None) -> int:
        """Write the entries as JSON Lines and return how many. The file appears whole or not at
        all and only its owner may read it. None exports the whole chain, which alone can be
        proven without the ledger; one incident's entries prove what `verify_extract` says."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        count = 0

        def write(file: IO[str]) -> None:
            nonlocal count
            for entry in self.audit(incident_id):
                file.write(to_line(entry) + "\n")
                count += 1

        replace_private(path, write)
        return count


def stored_head(conn: Connection) -> Head:
    """Where the ledger says that its log ends. Raises Tampered where it says nothing."""
    row = conn.execute(sa.select(_head.c.seq, _head.c.hash)).one_or_none()
    if row is None:
        raise Tampered(0, "the row that holds the head is missing")
    return Head(row.seq, row.hash)


def same_end(found: Head, head: Head) -> None:
    """Raises Tampered where a verified chain does not end as the ledger says."""
    if found.seq != head.seq:
        raise Tampered(
            min(found.seq, head.seq) + 1,
            f"the head counts {head.seq} entries, the chain has {found.seq}",
        )
    if found.hash != head.hash:
        raise Tampered(head.seq, "the head names another hash")


def links_of(conn: Connection) -> Iterator[Link]:
    """The whole log as links, in its order; a page in memory at a time. Proves nothing itself."""
    # From below zero: an entry smuggled in before the first must be met, too.
    after = -(2**62)
    while rows := _rows(conn, after, None):
        for row in rows:
            yield _link(row)
        after = rows[-1].seq


def _rows(conn: Connection, after: int, incident_id: str | None) -> Sequence[Row[Any]]:
    query = sa.select(_audit).where(_audit.c.seq > after).order_by(_audit.c.seq).limit(PAGE)
    if incident_id is not None:
        query = query.where(_audit.c.incident_id == incident_id)
    try:
        return conn.execute(query).all()
    except DBAPIError as exc:
        # SQLite stores anything anywhere, even text that is none.
        if "UTF-8" in str(exc.orig):
            raise Tampered(after + 1, "it, or one soon after it, cannot be read") from exc
        raise


def _link(row: Row[Any]) -> Link:
    """The row as it was hashed. The two columns that enter the record unquoted must have their
    grammar, or a clever edit could move a border between columns and keep the hash."""
    seq, incident_id, at, actor, event, subject, verdict, facts, prev, own = row
    try:
        if not (_TIME.fullmatch(at) and _FACTS.fullmatch(facts) and _HASHES.fullmatch(prev + own)):
            raise ValueError("not canonical")
        said = record(seq, incident_id, at, actor, event, subject, verdict, facts)
    except (TypeError, ValueError) as exc:
        raise Tampered(seq, "it cannot be read as an entry") from exc
    return Link(seq, prev, own, said)


def _entry(row: Row[Any]) -> AuditEntry:
    _link(row)
    return AuditEntry(
        seq=row.seq,
        incident_id=row.incident_id,
        at=datetime.fromisoformat(row.at),
        actor=row.actor,
        event=row.event,
        subject=row.subject,
        verdict=row.verdict,
        facts=json.loads(row.facts),
        prev=row.prev,
        hash=row.hash,
    )
