"""Reading admitted accounts: by batch, by the stage they still have to reach, by ref."""

import json
from collections.abc import Collection, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.bulk import one_of
from ledger.transaction import PAGE, Core, chunks, incident_row
from recovery.accounts import Account, BatchRef, Priority, PriorityReason, Stage
from recovery.errors import NotFound

PATH = (
    Stage.SCOPED,
    Stage.CONTAINED,
    Stage.TOKEN_ISSUED,
    Stage.NOTIFIED,
    Stage.ENROLLED,
    Stage.VALIDATED,
)
"""The stages in their order; EXCLUDED and MANUAL stand beside it."""

_table = schema.accounts
_COLUMNS = (
    _table.c.ref,
    _table.c.account_id,
    _table.c.handle,
    _table.c.email,
    _table.c.phone,
    _table.c.locale,
    _table.c.last_active,
    _table.c.linked_apps,
    _table.c.priority,
    _table.c.reasons,
    _table.c.wave,
    _table.c.batch,
    _table.c.stage,
    _table.c.excluded,
    _table.c.first_seen,
    _table.c.last_seen,
    _table.c.resets,
    _table.c.stage_reason,
)


class Accounts(Core):
    """The work list."""

    def waves(self, incident_id: str) -> dict[int, int]:
        """How many batches each wave has. Batches of excluded accounts alone do not count."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_table.c.wave, sa.func.count(_table.c.batch.distinct()))
                .where(_table.c.incident_id == incident_id, _table.c.stage != Stage.EXCLUDED.value)
                .group_by(_table.c.wave)
                .order_by(_table.c.wave)
            )
            return {row[0]: row[1] for row in rows}

    def batches(self, incident_id: str, wave: int | None = None) -> list[BatchRef]:
        """The batches by wave and number, of one wave or of all."""
        query = (
            sa.select(_table.c.wave, _table.c.batch)
            .where(_table.c.incident_id == incident_id, _table.c.stage != Stage.EXCLUDED.value)
            .distinct()
            .order_by(_table.c.wave, _table.c.batch)
        )
        if wave is not None:
            query = query.where(_table.c.wave == wave)
        with self._read() as conn:
            incident_row(conn, incident_id)
            return [BatchRef(incident_id, row.wave, row.batch) for row in conn.execute(query).all()]

    def due(self, batch: BatchRef, stage: Stage) -> list[Account]:
        """The batch's accounts exactly one step before `stage`, high priority first. Asked again
        after an interruption it is what is left. ValueError for a stage that nobody walks to."""
        if stage not in PATH[1:]:
            raise ValueError(f"no account becomes due for {stage}")
        before = PATH[PATH.index(stage) - 1]
        with self._read() as conn:
            incident_row(conn, batch.incident_id)
            rows = conn.execute(
                sa.select(*_COLUMNS)
                .where(
                    _table.c.incident_id == batch.incident_id,
                    _table.c.wave == batch.wave,
                    _table.c.batch == batch.batch,
                    _table.c.stage == before.value,
                )
                .order_by(
                    sa.case((_table.c.priority == Priority.HIGH.value, 0), else_=1), _table.c.ref
                )
            )
            return [to_account(row) for row in rows]

    def accounts(
        self,
        incident_id: str,
        *,
        stages: Collection[Stage] | None = None,
        wave: int | None = None,
        refs: Collection[str] | None = None,
    ) -> Iterator[Account]:
        """Accounts by wave, batch and ref, a page in memory at a time. What changes its stage
        while this runs may or may not be seen; nothing comes twice."""
        with self._read() as conn:
            incident_row(conn, incident_id)
        query = sa.select(*_COLUMNS)
        if stages is not None:
            query = query.where(_table.c.stage.in_([stage.value for stage in stages]))
        if wave is not None:
            query = query.where(_table.c.wave == wave)
        if refs is not None:
            yield from self._named(incident_id, query, refs)
            return
        query = query.where(_table.c.incident_id == incident_id)
        place = sa.tuple_(_table.c.wave, _table.c.batch, _table.c.ref)
        query = query.order_by(_table.c.wave, _table.c.batch, _table.c.ref).limit(PAGE)
        page = self._page(query)
        while page:
            yield from page
            last = page[-1]
            page = self._page(query.where(place > (last.wave, last.batch, last.ref)))

    def account(self, ref: str) -> Account:
        """One account of any incident. Raises NotFound."""
        with self._read() as conn:
            row = conn.execute(sa.select(*_COLUMNS).where(_table.c.ref == ref)).one_or_none()
        if row is None:
            raise NotFound("looking for the account", subject=ref, code="unknown ref")
        return to_account(row)

    def _named(
        self, incident_id: str, query: sa.Select[Any], refs: Collection[str]
    ) -> Iterator[Account]:
        places: list[tuple[int, int, str]] = []
        for chunk in chunks(dict.fromkeys(refs)):
            with self._read() as conn:
                found = conn.execute(
                    sa.select(_table.c.wave, _table.c.batch, _table.c.ref).where(
                        *among(incident_id, chunk)
                    )
                )
                places.extend((row.wave, row.batch, row.ref) for row in found)
        for part in chunks(sorted(places)):
            page = self._page(query.where(one_of(_table.c.ref, [ref for _, _, ref in part])))
            yield from sorted(page, key=lambda account: (account.wave, account.batch, account.ref))

    def _page(self, query: sa.Select[Any]) -> list[Account]:
        with self._read() as conn:
            return [to_account(row) for row in conn.execute(query).all()]


def folded(identifier: str) -> str:
    """A handle or mail address as it is compared: no blanks around, no leading @, any case.

    Folded here and not by the database, whose lower() knows only ASCII in SQLite.
    """
    return identifier.strip().removeprefix("@").casefold()


def among(incident_id: str, refs: Collection[str]) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions for these accounts of an incident, found by their refs.

    The concatenation hides the incident's column from SQLite's planner, which without statistics
    would rather walk the whole incident than look up five hundred refs.
    """
    return one_of(_table.c.ref, refs), _table.c.incident_id.concat("") == incident_id


def to_account(row: Row[Any]) -> Account:
    """A row of this module's columns as a value."""
    return Account(
        ref=row[0],
        account_id=row[1],
        handle=row[2],
        email=row[3],
        phone=row[4],
        locale=row[5],
        last_active=row[6],
        linked_apps=tuple(json.loads(row[7])),
        priority=Priority(row[8]),
        reasons=tuple(PriorityReason(reason) for reason in json.loads(row[9])),
        wave=row[10],
        batch=row[11],
        stage=Stage(row[12]),
        excluded=row[13],
        first_seen=row[14],
        last_seen=row[15],
        resets=row[16],
        stage_reason=row[17],
    )
