"""Opening, closing and timing one incident, and notes to its log."""

from collections.abc import Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.transaction import Core, incident_row
from recovery.audit import Fact, stamp
from recovery.errors import Refused
from recovery.incident import Incident, Mark

_incidents = schema.incidents
_marks = schema.marks


class Incidents(Core):
    """The incidents themselves."""

    def open_incident(
        self,
        incident_id: str,
        *,
        window_start: datetime,
        window_end: datetime,
        runbook_digest: str,
        runbook_commit: str,
        requested_by: str,
    ) -> Incident:
        """Open it, or return it as it was opened (the arguments then change nothing). Raises
        Refused for a closed one and for a window that ends before it starts."""
        _check_window(incident_id, window_start, window_end)
        with self._write() as tx:
            found = tx.conn.execute(
                sa.select(_incidents).where(_incidents.c.incident_id == incident_id)
            ).one_or_none()
            if found is not None:
                tx.open_incident(incident_id, "opening the incident again")
                return _incident(found)
            incident = Incident(
                incident_id=incident_id,
                opened_at=tx.now,
                window_start=window_start,
                window_end=window_end,
                runbook_digest=runbook_digest,
                runbook_commit=runbook_commit,
                requested_by=requested_by,
            )
            tx.conn.execute(
                sa.insert(_incidents).values(
                    incident_id=incident_id,
                    opened_at=tx.now,
                    window_start=window_start,
                    window_end=window_end,
                    runbook_digest=runbook_digest,
                    runbook_commit=runbook_commit,
                    requested_by=requested_by,
                )
            )
            tx.log(
                incident_id,
                "incident.opened",
                actor=requested_by,
                facts={
                    "window_start": stamp(window_start),
                    "window_end": stamp(window_end),
                    "runbook_digest": runbook_digest,
                    "runbook_commit": runbook_commit,
                },
            )
            return incident

    def incident(self, incident_id: str) -> Incident:
        """Raises NotFound."""
        with self._read() as conn:
            return _incident(incident_row(conn, incident_id))

    def incidents(self) -> list[Incident]:
        """All of them, the oldest first."""
        with self._read() as conn:
            rows = conn.execute(
                sa.select(_incidents).order_by(_incidents.c.opened_at, _incidents.c.incident_id)
            )
            return [_incident(row) for row in rows]

    def set_window(self, incident_id: str, start: datetime, end: datetime) -> None:
        """Widen the window to take in `start` and `end`; it never becomes narrower."""
        _check_window(incident_id, start, end)
        with self._write() as tx:
            tx.open_incident(incident_id, "widening the window")
            known = _incident(tx.incident(incident_id))
            wider = (min(known.window_start, start), max(known.window_end, end))
            if wider == (known.window_start, known.window_end):
                return
            tx.conn.execute(
                sa.update(_incidents)
                .where(_incidents.c.incident_id == incident_id)
                .values(window_start=wider[0], window_end=wider[1])
            )
            tx.log(
                incident_id,
                "incident.window",
                facts={"window_start": stamp(wider[0]), "window_end": stamp(wider[1])},
            )

    def close_incident(self, incident_id: str, *, actor: str = "") -> None:
        """Close it and revoke every enrollment not yet redeemed. Closing again does nothing."""
        with self._write() as tx:
            if _incident(tx.incident(incident_id)).closed_at is not None:
                return
            tx.conn.execute(
                sa.update(_incidents)
                .where(_incidents.c.incident_id == incident_id)
                .values(closed_at=tx.now)
            )
            revoked = tx.conn.execute(
                sa.update(schema.enrollments)
                .where(
                    schema.enrollments.c.incident_id == incident_id,
                    schema.enrollments.c.redeemed_at.is_(None),
                    schema.enrollments.c.superseded_at.is_(None),
                )
                .values(superseded_at=tx.now)
            ).rowcount
            tx.log(
                incident_id,
                "incident.closed",
                actor=actor,
                facts={"enrollments_revoked": revoked},
            )

    def mark(self, incident_id: str, name: str) -> datetime:
        """When this first happened. The first call decides; later calls only read."""
        with self._write() as tx:
            tx.incident(incident_id)
            first: datetime | None = tx.conn.execute(
                sa.select(_marks.c.at).where(
                    _marks.c.incident_id == incident_id, _marks.c.name == name
                )
            ).scalar_one_or_none()
            if first is not None:
                return first
            tx.conn.execute(sa.insert(_marks).values(incident_id=incident_id, name=name, at=tx.now))
            tx.log(incident_id, "mark", facts={"name": name})
            return tx.now

    def marks(self, incident_id: str) -> list[Mark]:
        """The marks by time."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_marks.c.name, _marks.c.at)
                .where(_marks.c.incident_id == incident_id)
                .order_by(_marks.c.at, _marks.c.name)
            )
            return [Mark(name=row.name, at=row.at) for row in rows]

    def note(self, incident_id: str, event: str, *, actor: str, facts: Mapping[str, Fact]) -> None:
        """An audit entry of its own, for what changes no other state. Every call adds one."""
        with self._write() as tx:
            tx.incident(incident_id)
            tx.log(incident_id, event, actor=actor, facts=facts)


def _check_window(incident_id: str, start: datetime, end: datetime) -> None:
    if start > end:
        raise Refused(
            "setting the window", code="window ends before it starts", subject=incident_id
        )


def _incident(row: Row[tuple[object, ...]]) -> Incident:
    return Incident(**row._mapping)
