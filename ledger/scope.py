"""Who is affected: sightings from the SIEM, what had to be set aside, and admission for life."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from ledger import schema
from ledger.accounts import folded
from ledger.bulk import insert_rows, one_of, update_rows
from ledger.transaction import PAGE, Core, Transaction, chunks, incident_row, storable
from recovery.accounts import (
    Affected,
    Placed,
    Priority,
    Quarantined,
    Sighting,
    Stage,
    account_ref,
)
from recovery.incident import ScopeCounts

_sightings = schema.sightings
_quarantine = schema.quarantine
_accounts = schema.accounts

_OPEN, _ADMITTED, _UNROSTERED = "open", "admitted", "unrostered"


class Scope(Core):
    """From a sighting to an admitted account."""

    def record_sightings(self, incident_id: str, sightings: Iterable[Sighting]) -> int:
        """Remember what was seen and return how many accounts are new. The same account again
        keeps its earliest first, latest last and highest count, so a repeated read changes nothing.

        Written in chunks while the iterable is read, each in its own transaction: nobody waits
        for the source. An exception of the iterable leaves the chunks before it.
        """
        new = 0
        for chunk in chunks(sightings, PAGE):
            with self._write() as tx:
                tx.open_incident(incident_id, "recording sightings")
                new += _upsert(tx, incident_id, chunk)
        return new

    def record_unattributed(self, incident_id: str, source: str, count: int) -> None:
        """How many events of the source name no account. A later count replaces this one."""
        table = schema.unattributed
        where = (table.c.incident_id == incident_id, table.c.source == source)
        with self._write() as tx:
            tx.open_incident(incident_id, "recording unattributed events")
            known = tx.conn.execute(sa.select(table.c.events).where(*where)).scalar_one_or_none()
            if known == count:
                return
            if known is None:
                tx.conn.execute(
                    sa.insert(table).values(incident_id=incident_id, source=source, events=count)
                )
            else:
                tx.conn.execute(sa.update(table).where(*where).values(events=count))
            tx.log(incident_id, "scope.unattributed", facts={"source": source, "events": count})

    def unadmitted(self, incident_id: str, *, limit: int | None = 1000) -> list[Sighting]:
        """Sighted accounts nobody decided about yet, by account id: neither admitted or excluded,
        nor quarantined as unknown to the roster. All of them where `limit` is None."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(
                    _sightings.c.account_id,
                    _sightings.c.first_seen,
                    _sightings.c.last_seen,
                    _sightings.c.resets,
                    _sightings.c.source,
                )
                .where(_sightings.c.incident_id == incident_id, _sightings.c.place == _OPEN)
                .order_by(_sightings.c.account_id)
                .limit(limit)
            )
            return [Sighting(**row._mapping) for row in rows]

    def quarantine(self, incident_id: str, rows: Sequence[Quarantined]) -> int:
        """Keep what could not be used and return how many rows are new. A row about the field
        "account_id" that names an account marks its sighting as unknown to the roster."""
        with self._write() as tx:
            tx.open_incident(incident_id, "quarantining values")
            new = unrostered = 0
            for chunk in chunks(dict.fromkeys(rows)):
                added, marked = _quarantine_chunk(tx, incident_id, chunk)
                new += added
                unrostered += marked
            if new or unrostered:
                tx.log(
                    incident_id,
                    "scope.quarantined",
                    facts={"rows": new, "unrostered": unrostered},
                )
            return new

    def quarantined(self, incident_id: str) -> list[Quarantined]:
        """Everything set aside, in the order it was found."""
        columns = _quarantine.c
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(
                    columns.source, columns.row, columns.field, columns.reason, columns.account_id
                )
                .where(columns.incident_id == incident_id)
                .order_by(columns.id)
            )
            return [
                Quarantined(row[0], row[1], row[2], row[3], account_id=row[4] or None)
                for row in rows
            ]

    def admit(self, incident_id: str, placed: Sequence[Placed]) -> tuple[int, int]:
        """Admit accounts with the wave and batch they keep for life; returns (new, already there).

        SCOPED, or EXCLUDED where the account says why it is never touched.
        """
        new = already = 0
        with self._write() as tx:
            tx.open_incident(incident_id, "admitting accounts")
            for chunk in chunks({item.account.account_id: item for item in placed}.values()):
                fresh = _admit_chunk(tx, incident_id, chunk, self._key)
                new += fresh
                already += len(chunk) - fresh
        return new, already

    def scope(self, incident_id: str) -> ScopeCounts:
        """The scope in numbers: sighted = admitted + excluded + unrostered once all are decided."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            return _counts(conn, incident_id)


def _upsert(tx: Transaction, incident_id: str, chunk: list[Sighting]) -> int:
    seen: dict[str, Sighting] = {}
    for sighting in chunk:
        known = seen.get(sighting.account_id)
        seen[sighting.account_id] = _merged(known, sighting) if known else sighting
    stored: dict[str, Sighting] = {}
    placed: set[str] = set()
    for ids in chunks(seen):
        for row in tx.conn.execute(
            sa.select(_sightings).where(
                _sightings.c.incident_id == incident_id, one_of(_sightings.c.account_id, ids)
            )
        ):
            stored[row.account_id] = Sighting(
                row.account_id, row.first_seen, row.last_seen, row.resets, row.source
            )
        placed.update(
            tx.conn.scalars(
                sa.select(_accounts.c.account_id).where(
                    _accounts.c.incident_id == incident_id, one_of(_accounts.c.account_id, ids)
                )
            )
        )
    fresh = [
        {
            "incident_id": incident_id,
            "account_id": sighting.account_id,
            "first_seen": sighting.first_seen,
            "last_seen": sighting.last_seen,
            "resets": sighting.resets,
            "source": sighting.source,
            "place": _ADMITTED if sighting.account_id in placed else _OPEN,
        }
        for sighting in seen.values()
        if sighting.account_id not in stored
    ]
    changed = [
        {
            "incident_id": incident_id,
            "account_id": merged.account_id,
            "first_seen": merged.first_seen,
            "last_seen": merged.last_seen,
            "resets": merged.resets,
        }
        for known in stored.values()
        if (merged := _merged(known, seen[known.account_id])) != known
    ]
    insert_rows(tx.conn, _sightings, fresh)
    update_rows(tx.conn, _sightings, ("incident_id", "account_id"), changed)
    if fresh or changed:
        tx.log(
            incident_id, "scope.sighted", facts={"accounts": len(fresh), "changed": len(changed)}
        )
    return len(fresh)


def _merged(known: Sighting, seen: Sighting) -> Sighting:
    return Sighting(
        account_id=known.account_id,
        first_seen=min(known.first_seen, seen.first_seen),
        last_seen=max(known.last_seen, seen.last_seen),
        resets=max(known.resets, seen.resets),
        source=known.source,
    )


def _quarantine_chunk(
    tx: Transaction, incident_id: str, chunk: list[Quarantined]
) -> tuple[int, int]:
    columns = _quarantine.c
    known = {
        tuple(row)
        for row in tx.conn.execute(
            sa.select(
                columns.source, columns.row, columns.field, columns.account_id, columns.reason
            ).where(
                columns.incident_id == incident_id,
                columns.source.in_({item.source for item in chunk}),
                columns.row.in_([item.row for item in chunk]),
            )
        )
    }
    fresh = [
        {
            "incident_id": incident_id,
            "source": item.source,
            "row": item.row,
            "field": item.field,
            "account_id": item.account_id or "",
            "reason": item.reason,
        }
        for item in chunk
        if (item.source, item.row, item.field, item.account_id or "", item.reason) not in known
    ]
    insert_rows(tx.conn, _quarantine, fresh)
    unknown = [item.account_id for item in chunk if item.field == "account_id" and item.account_id]
    marked = 0
    if unknown:
        marked = tx.conn.execute(
            sa.update(_sightings)
            .where(
                _sightings.c.incident_id == incident_id,
                one_of(_sightings.c.account_id, unknown),
                _sightings.c.place == _OPEN,
            )
            .values(place=_UNROSTERED)
        ).rowcount
    return len(fresh), marked


def _admit_chunk(tx: Transaction, incident_id: str, chunk: list[Placed], key: bytes) -> int:
    ids = [item.account.account_id for item in chunk]
    known = set(
        tx.conn.scalars(
            sa.select(_accounts.c.account_id).where(
                _accounts.c.incident_id == incident_id, one_of(_accounts.c.account_id, ids)
            )
        )
    )
    rows = [
        _account_row(incident_id, item, account_ref(key, incident_id, item.account.account_id))
        for item in chunk
        if item.account.account_id not in known
    ]
    if not rows:
        return 0
    insert_rows(tx.conn, _accounts, rows)
    insert_rows(
        tx.conn,
        schema.stage_changes,
        [
            {"incident_id": incident_id, "ref": row["ref"], "stage": row["stage"], "at": tx.now}
            for row in rows
        ],
    )
    tx.conn.execute(
        sa.update(_sightings)
        .where(_sightings.c.incident_id == incident_id, one_of(_sightings.c.account_id, ids))
        .values(place=_ADMITTED)
    )
    for row in rows:
        tx.log(
            incident_id,
            "scope.admitted",
            subject=row["ref"],
            facts={
                "stage": row["stage"],
                "wave": row["wave"],
                "batch": row["batch"],
                "priority": row["priority"],
            },
        )
    return len(rows)


def _account_row(incident_id: str, placed: Placed, ref: str) -> dict[str, Any]:
    account: Affected = placed.account
    return {
        "ref": ref,
        "incident_id": incident_id,
        "account_id": account.account_id,
        "handle": storable(account.handle),
        "handle_folded": folded(storable(account.handle)),
        "email": account.email,
        "email_folded": folded(account.email) if account.email else None,
        "phone": account.phone,
        "locale": account.locale,
        "last_active": account.last_active,
        "linked_apps": json.dumps(list(account.linked_apps)),
        "priority": account.priority.value,
        "reasons": json.dumps([reason.value for reason in account.reasons]),
        "wave": placed.wave,
        "batch": placed.batch,
        "stage": (Stage.EXCLUDED if account.excluded else Stage.SCOPED).value,
        "excluded": account.excluded,
        "first_seen": account.first_seen,
        "last_seen": account.last_seen,
        "resets": account.resets,
    }


def _counts(conn: Connection, incident_id: str) -> ScopeCounts:
    places: Counter[str] = Counter()
    for place, number in conn.execute(
        sa.select(_sightings.c.place, sa.func.count())
        .where(_sightings.c.incident_id == incident_id)
        .group_by(_sightings.c.place)
    ):
        places[place] = number
    excluded = admitted = high = 0
    reasons: Counter[str] = Counter()
    for stage, priority, listed, number in conn.execute(
        sa.select(_accounts.c.stage, _accounts.c.priority, _accounts.c.reasons, sa.func.count())
        .where(_accounts.c.incident_id == incident_id)
        .group_by(_accounts.c.stage, _accounts.c.priority, _accounts.c.reasons)
    ):
        if stage == Stage.EXCLUDED:
            excluded += number
            continue
        admitted += number
        high += number if priority == Priority.HIGH else 0
        for reason in json.loads(listed):
            reasons[reason] += number
    fields = conn.scalar(
        sa.select(sa.func.count())
        .select_from(_quarantine)
        .where(
            _quarantine.c.incident_id == incident_id,
            sa.or_(_quarantine.c.field != "account_id", _quarantine.c.account_id == ""),
        )
    )
    unattributed = conn.scalar(
        sa.select(sa.func.sum(schema.unattributed.c.events)).where(
            schema.unattributed.c.incident_id == incident_id
        )
    )
    return ScopeCounts(
        sighted=places.total(),
        admitted=admitted,
        excluded=excluded,
        unrostered=places[_UNROSTERED],
        high_priority=high,
        quarantined_fields=fields or 0,
        unattributed_events=int(unattributed or 0),
        reasons=dict(reasons),
    )
