"""Who does a piece of work now, so that two runs never do one together: a claim with an end.

A claim is kept by wall-clock time, which the caller gives: a rehearsal's clock may jump. What it
protects, and what a paused process can still do, is in docs/decisions/0005-crash-safety.md.
"""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa

from ledger import schema
from ledger.bulk import one_of
from ledger.transaction import Core, chunks, unique
from recovery.incident import Claimed

_claims = schema.claims


class Claims(Core):
    """Claims on work: the people of a batch, one client's secrets."""

    def claim(
        self, incident_id: str, work: Sequence[str], *, holder: str, now: datetime, until: datetime
    ) -> Claimed:
        """Takes all of `work` for `holder`, or nothing where another claim on some of it lives.

        What nobody holds any more is free, and so is what its holder let lapse; the latter is told
        and logged, because that holder may have died with something under way.
        """
        wanted = unique(work)
        with self._write() as tx:
            found = [
                row
                for chunk in chunks(wanted)
                for row in tx.conn.execute(
                    sa.select(_claims).where(
                        _claims.c.incident_id == incident_id, one_of(_claims.c.work, chunk)
                    )
                )
                if row.holder != holder
            ]
            living = [row for row in found if now < row.until]
            if living:
                return Claimed(False, free_at=max(row.until for row in living))
            for chunk in chunks(wanted):
                tx.conn.execute(
                    sa.delete(_claims).where(
                        _claims.c.incident_id == incident_id, one_of(_claims.c.work, chunk)
                    )
                )
            tx.conn.execute(
                sa.insert(_claims),
                [
                    {"incident_id": incident_id, "work": name, "holder": holder, "until": until}
                    for name in wanted
                ],
            )
            for row in found:
                tx.log(incident_id, "claim.lapsed", facts={"work": row.work, "holder": row.holder})
            return Claimed(True, lapsed_at=max((row.until for row in found), default=None))

    def renew_claims(self, incident_id: str, holder: str, *, now: datetime, until: datetime) -> int:
        """Moves the end of all that `holder` still has; returns how much that is. What has lapsed
        stays lapsed: it must be claimed anew."""
        with self._write() as tx:
            return tx.conn.execute(
                sa.update(_claims)
                .where(
                    _claims.c.incident_id == incident_id,
                    _claims.c.holder == holder,
                    _claims.c.until > now,
                )
                .values(until=until)
            ).rowcount

    def drop_claims(self, incident_id: str, holder: str) -> None:
        """Lets go of all that `holder` still has; nothing of it is under way any more."""
        with self._write() as tx:
            tx.conn.execute(
                sa.delete(_claims).where(
                    _claims.c.incident_id == incident_id, _claims.c.holder == holder
                )
            )
