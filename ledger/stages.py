"""Where accounts stand: the one function that moves them, standing aside, and the counts."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.accounts import PATH, among
from ledger.bulk import insert_rows, one_of
from ledger.transaction import PAGE, Core, Transaction, chunks, incident_row, unique
from recovery.accounts import Stage, Verdict
from recovery.incident import Tally

_accounts = schema.accounts
_changes = schema.stage_changes
_acts = schema.acts


class Stages(Core):
    """Standing aside and counting."""

    def stand_aside(self, incident_id: str, refs: Sequence[str], reason: str) -> int:
        """Give CONTAINED accounts to people (MANUAL) with the reason; the others stay. Returns
        how many went."""
        with self._write() as tx:
            tx.open_incident(incident_id, "standing accounts aside")
            return len(aside(tx, incident_id, refs, (Stage.CONTAINED,), reason))

    def release(self, incident_id: str, refs: Sequence[str], *, actor: str) -> int:
        """Take MANUAL accounts back onto the path, at CONTAINED. Returns how many came."""
        with self._write() as tx:
            tx.open_incident(incident_id, "releasing accounts")
            back = _shift(tx, incident_id, refs, Stage.CONTAINED, (Stage.MANUAL,))
            for ref in back:
                tx.log(incident_id, "stage.released", subject=ref, actor=actor)
            return len(back)

    def released(self, incident_id: str) -> frozenset[str]:
        """The refs that were ever given to people and taken back: a person has proofed them."""
        aside = sa.select(_changes.c.ref).where(
            _changes.c.incident_id == incident_id, _changes.c.stage == Stage.MANUAL.value
        )
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_accounts.c.ref).where(
                    _accounts.c.incident_id == incident_id,
                    _accounts.c.stage != Stage.MANUAL.value,
                    _accounts.c.ref.in_(aside),
                )
            )
            return frozenset(rows.scalars())

    def tally(self, incident_id: str) -> Tally:
        """All counts of one moment, made by the database."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            stages = conn.execute(
                sa.select(_accounts.c.wave, _accounts.c.stage, sa.func.count())
                .where(_accounts.c.incident_id == incident_id)
                .group_by(_accounts.c.wave, _accounts.c.stage)
            ).all()
            verdicts = conn.execute(
                sa.select(_acts.c.step, _acts.c.wave, _acts.c.verdict, sa.func.count())
                .where(_acts.c.incident_id == incident_id)
                .group_by(_acts.c.step, _acts.c.wave, _acts.c.verdict)
            ).all()
        return Tally(
            stages={(wave, Stage(stage)): number for wave, stage, number in stages},
            verdicts={
                (step, wave, Verdict(verdict) if verdict is not None else None): number
                for step, wave, verdict, number in verdicts
            },
        )

    def stage_times(self, incident_id: str) -> Iterator[tuple[str, Stage, datetime]]:
        """When each account first reached each stage it was ever at, by ref and time; a page in
        memory at a time."""
        with self._read() as conn:
            incident_row(conn, incident_id)
        query = (
            sa.select(_changes.c.ref, _changes.c.stage, sa.func.min(_changes.c.at).label("first"))
            .where(_changes.c.incident_id == incident_id)
            .group_by(_changes.c.ref, _changes.c.stage)
            .order_by(_changes.c.ref, _changes.c.stage)
            .limit(PAGE)
        )
        place = sa.tuple_(_changes.c.ref, _changes.c.stage)
        held: list[tuple[str, Stage, datetime]] = []
        page = self._changes(query)
        while page:
            for row in page:
                if held and held[0][0] != row.ref:
                    yield from sorted(held, key=lambda change: (change[2], change[1].rank))
                    held = []
                held.append((row.ref, Stage(row.stage), row.first))
            page = self._changes(query.where(place > (page[-1].ref, page[-1].stage)))
        yield from sorted(held, key=lambda change: (change[2], change[1].rank))

    def _changes(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        with self._read() as conn:
            return conn.execute(query).all()


def move(tx: Transaction, incident_id: str, refs: Iterable[str], stage: Stage) -> frozenset[str]:
    """Move accounts forward to a stage on the path and return those that moved.

    Whoever is already there or further, or stands beside the path, stays.
    """
    behind = PATH[: PATH.index(stage)]
    return frozenset(_shift(tx, incident_id, refs, stage, behind))


def return_to_issued(tx: Transaction, incident_id: str, refs: Iterable[str]) -> frozenset[str]:
    """The one step backward: a notified account with a fresh enrollment has to be told again."""
    return frozenset(_shift(tx, incident_id, refs, Stage.TOKEN_ISSUED, (Stage.NOTIFIED,)))


def aside(
    tx: Transaction, incident_id: str, refs: Iterable[str], out_of: Sequence[Stage], reason: str
) -> list[str]:
    """Out of these stages into people's hands; those that went."""
    gone = _shift(tx, incident_id, refs, Stage.MANUAL, out_of, reason)
    for ref in gone:
        tx.log(incident_id, "stage.manual", subject=ref, facts={"reason": reason})
    return gone


def _shift(
    tx: Transaction,
    incident_id: str,
    refs: Iterable[str],
    stage: Stage,
    out_of: Sequence[Stage],
    reason: str = "",
) -> list[str]:
    shifted: list[str] = []
    for chunk in chunks(unique(list(refs))):
        here = list(
            tx.conn.scalars(
                sa.select(_accounts.c.ref)
                .where(
                    *among(incident_id, chunk),
                    _accounts.c.stage.in_([s.value for s in out_of]),
                )
                .order_by(_accounts.c.ref)
            )
        )
        if not here:
            continue
        tx.conn.execute(
            sa.update(_accounts)
            .where(one_of(_accounts.c.ref, here))
            .values(stage=stage.value, stage_reason=reason)
        )
        insert_rows(
            tx.conn,
            _changes,
            [
                {"incident_id": incident_id, "ref": ref, "stage": stage.value, "at": tx.now}
                for ref in here
            ],
        )
        shifted += here
    return shifted
