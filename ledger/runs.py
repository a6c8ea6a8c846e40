"""Which runs work on an incident: who asked for them, which one may work now, and the stop order.

A lease is kept by wall-clock time, which the caller gives: a rehearsal's clock may jump.
"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.transaction import Core, incident_row
from recovery.incident import Lease, StopOrder

_runs = schema.runs
_leases = schema.leases
_stops = schema.stop_orders


class Runs(Core):
    """Runs, leases and stop orders."""

    def begin_run(
        self, incident_id: str, run_id: str, *, flow: str, requested_by: str, ask_again: bool
    ) -> bool:
        """Write down who requested this run; False where it is known, as after a resume."""
        with self._write() as tx:
            tx.incident(incident_id)
            known = tx.conn.execute(
                sa.select(_runs.c.run_id).where(
                    _runs.c.incident_id == incident_id, _runs.c.run_id == run_id
                )
            ).one_or_none()
            if known is not None:
                return False
            tx.conn.execute(
                sa.insert(_runs).values(
                    incident_id=incident_id,
                    run_id=run_id,
                    flow=flow,
                    requested_by=requested_by,
                    ask_again=int(ask_again),
                    began_at=tx.now,
                )
            )
            tx.log(
                incident_id,
                "run.began",
                actor=requested_by,
                facts={"run_id": run_id, "flow": flow, "ask_again": int(ask_again)},
            )
            return True

    def requesters(self, incident_id: str) -> list[str]:
        """Everybody who requested a run that acts on this incident, the first one first."""
        with self._read() as conn:
            first = incident_row(conn, incident_id)._mapping["requested_by"]
            later = conn.execute(
                sa.select(_runs.c.requested_by)
                .where(_runs.c.incident_id == incident_id)
                .order_by(_runs.c.began_at)
            ).scalars()
            return list(dict.fromkeys([str(first), *later]))

    def asks_again(self, incident_id: str, run_id: str) -> bool:
        """True where this run's requester said that a rejection is to be asked about once more."""
        with self._read() as conn:
            found = conn.execute(
                sa.select(_runs.c.ask_again).where(
                    _runs.c.incident_id == incident_id, _runs.c.run_id == run_id
                )
            ).scalar_one_or_none()
        return bool(found)

    def take_lease(self, wanted: Lease, *, from_run: str = "", now: datetime) -> Lease | None:
        """The incident's lane for one run, or the lease of the run that has it.

        It is free where nobody has it, where its time is over, where the same run had it, and
        where `from_run` has it: a run of which the caller knows that it works no more.
        """
        with self._write() as tx:
            row = tx.conn.execute(
                sa.select(_leases).where(
                    _leases.c.incident_id == wanted.incident_id, _leases.c.lane == wanted.lane
                )
            ).one_or_none()
            held = _lease(row) if row is not None else None
            if held is not None and held.run_id not in (wanted.run_id, from_run):
                if now < held.until:
                    return held
                tx.log(
                    wanted.incident_id,
                    "lease.expired",
                    facts={"lane": held.lane, "from_run": held.run_id, "run_id": wanted.run_id},
                )
            values = {
                "run_id": wanted.run_id,
                "flow": wanted.flow,
                "taken_at": wanted.taken_at,
                "until": wanted.until,
            }
            if held is None:
                tx.conn.execute(
                    sa.insert(_leases).values(
                        incident_id=wanted.incident_id, lane=wanted.lane, **values
                    )
                )
            else:
                tx.conn.execute(sa.update(_leases).where(*_of(wanted)).values(**values))
            return None

    def renew_lease(self, lease: Lease) -> bool:
        """Moves `until`; False where another run has taken the lane meanwhile."""
        with self._write() as tx:
            renewed = tx.conn.execute(
                sa.update(_leases)
                .where(*_of(lease), _leases.c.run_id == lease.run_id)
                .values(until=lease.until)
            ).rowcount
            return bool(renewed)

    def drop_lease(self, lease: Lease) -> None:
        """Lets go, where this run still has it."""
        with self._write() as tx:
            tx.conn.execute(sa.delete(_leases).where(*_of(lease), _leases.c.run_id == lease.run_id))

    def leases(self, incident_id: str) -> list[Lease]:
        """Who works on this incident now."""
        with self._read() as conn:
            rows = conn.execute(
                sa.select(_leases)
                .where(_leases.c.incident_id == incident_id)
                .order_by(_leases.c.lane)
            )
            return [_lease(row) for row in rows]

    def order_stop(self, incident_id: str, *, reason: str, ordered_by: str) -> StopOrder:
        """Nothing more is begun on this incident until the order is released. The first order
        stands; another one adds its entry to the log alone."""
        with self._write() as tx:
            tx.log(incident_id, "stop.ordered", actor=ordered_by, facts={"reason": reason})
            row = tx.conn.execute(
                sa.select(_stops).where(_stops.c.incident_id == incident_id)
            ).one_or_none()
            if row is not None:
                return StopOrder(**row._mapping)
            order = StopOrder(incident_id, reason, ordered_by, tx.now)
            tx.conn.execute(
                sa.insert(_stops).values(
                    incident_id=incident_id, reason=reason, ordered_by=ordered_by, at=tx.now
                )
            )
            return order

    def release_stop(self, incident_id: str, *, reason: str, released_by: str) -> bool:
        """Work may go on; False where no order stood."""
        with self._write() as tx:
            gone = tx.conn.execute(
                sa.delete(_stops).where(_stops.c.incident_id == incident_id)
            ).rowcount
            if gone:
                tx.log(incident_id, "stop.released", actor=released_by, facts={"reason": reason})
            return bool(gone)

    def standing_stop(self, incident_id: str) -> StopOrder | None:
        """The order that stands, or None."""
        with self._read() as conn:
            row = conn.execute(
                sa.select(_stops).where(_stops.c.incident_id == incident_id)
            ).one_or_none()
        return StopOrder(**row._mapping) if row is not None else None


def _of(lease: Lease) -> tuple[sa.ColumnElement[bool], ...]:
    return (_leases.c.incident_id == lease.incident_id, _leases.c.lane == lease.lane)


def _lease(row: Row[Any]) -> Lease:
    return Lease(**row._mapping)
