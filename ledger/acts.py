"""Write the plan before the act and the outcome after it; between the two lies the world.

What a crash leaves intended and not settled is found here again, and never taken for failed.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ledger import schema
from ledger.accounts import PATH, among
from ledger.bulk import insert_rows, one_of, update_rows
from ledger.stages import move
from ledger.transaction import PAGE, Core, Transaction, chunks, incident_row, storable, unique
from recovery.accounts import Act, Channel, Outcome, Stage, Verdict
from recovery.audit import Fact
from recovery.errors import NotFound, Refused
from recovery.incident import ActRecord, Intention

_acts = schema.acts
_accounts = schema.accounts
_CLIENT_WAVE = -1

RECORD = (
    _acts.c.id,
    _acts.c.subject,
    _acts.c.step,
    _acts.c.generation,
    _acts.c.verdict,
    _acts.c.detail,
    _acts.c.receipt,
    _acts.c.counts,
    _acts.c.intended_at,
    _acts.c.settled_at,
)


class Acts(Core):
    """Intentions and outcomes."""

    def intend(self, incident_id: str, acts: Sequence[Act]) -> Intention:
        """Write down what is about to be tried and say what was already known of it.

        Only `fresh` may be acted on without further thought. Raises Refused where an account is
        EXCLUDED or the incident closed, NotFound for a ref that was never admitted.
        """
        wanted = unique(acts)
        fresh: list[Act] = []
        unsettled: list[Act] = []
        refused: list[Act] = []
        settled: list[Act] = []
        with self._write() as tx:
            tx.open_incident(incident_id, "intending acts")
            waves = _waves(tx.conn, incident_id, unique([act.subject for act in wanted]))
            known = _known(tx.conn, incident_id, wanted)
            again: list[int] = []
            for act in wanted:
                row = known.get(act)
                if row is None:
                    fresh.append(act)
                elif row.reopened_at is not None:
                    fresh.append(act)
                    again.append(row.id)
                elif _open(row.verdict):
                    unsettled.append(act)
                elif row.verdict == Verdict.REFUSED:
                    refused.append(act)
                else:
                    settled.append(act)
            new = [act for act in fresh if act not in known]
            insert_rows(tx.conn, _acts, [_new(tx, incident_id, act, waves) for act in new])
            for ids in chunks(again):
                tx.conn.execute(
                    sa.update(_acts)
                    .where(_acts.c.id.in_(ids))
                    .values(
                        verdict=None,
                        detail="",
                        receipt="",
                        counts="{}",
                        intended_at=tx.now,
                        settled_at=None,
                        reopened_at=None,
                    )
                )
            for act in fresh:
                tx.log(incident_id, "intend", subject=act.subject, facts=_named(act))
        return Intention(tuple(fresh), tuple(unsettled), tuple(refused), tuple(settled))

    def settle(
        self, incident_id: str, outcomes: Sequence[Outcome], *, advance: Stage | None = None
    ) -> None:
        """Write down what came of it. DONE, ALREADY and REFUSED are final: settling such an act
        again changes nothing. Raises Refused for an act that was never intended.

        An account goes forward to `advance` if every one of its outcomes given in this call stands
        settled well; never backward, never out of EXCLUDED or MANUAL. What must not hold an
        account back is settled in a call of its own.
        """
        if advance is not None and advance not in PATH[1:]:
            raise ValueError(f"no outcome moves an account to {advance}")
        told: dict[Act, Outcome] = {}
        for outcome in outcomes:
            if outcome.act not in told or _open(told[outcome.act].verdict):
                told[outcome.act] = outcome
        with self._write() as tx:
            tx.known_incident(incident_id)
            known = _known(tx.conn, incident_id, list(told))
            for act in told:
                if act not in known:
                    raise Refused(
                        "settling an act",
                        code="never intended",
                        subject=f"{act.subject} {act.step} {act.generation}",
                        advice="Call intend() before acting; this outcome has no plan.",
                    )
            changed = [o for o in told.values() if _differs(known[o.act], o)]
            _store(tx, known, changed)
            moved: Collection[str] = ()
            if advance is not None:
                moved = move(tx, incident_id, _all_well(known, told), advance)
            for outcome in changed:
                facts = _facts(outcome)
                if advance is not None and outcome.act.subject in moved:
                    facts["stage"] = advance.value
                tx.log(
                    incident_id,
                    "settle",
                    subject=outcome.act.subject,
                    verdict=outcome.verdict.value,
                    facts=facts,
                )
            if advance is not None:
                logged = {outcome.act.subject for outcome in changed}
                for ref in moved:
                    if ref not in logged:
                        tx.log(incident_id, "stage", subject=ref, facts={"stage": advance.value})

    def reopen(self, incident_id: str, acts: Sequence[Act]) -> int:
        """Let refused acts be fresh at the next intend, because their cause was mended. Returns
        how many; acts that are not REFUSED stay as they are."""
        wanted = unique(acts)
        with self._write() as tx:
            tx.open_incident(incident_id, "reopening refused acts")
            known = _known(tx.conn, incident_id, wanted)
            mended = [
                act
                for act in wanted
                if (row := known.get(act)) is not None
                and row.verdict == Verdict.REFUSED
                and row.reopened_at is None
            ]
            for ids in chunks(known[act].id for act in mended):
                tx.conn.execute(
                    sa.update(_acts).where(_acts.c.id.in_(ids)).values(reopened_at=tx.now)
                )
            for act in mended:
                tx.log(incident_id, "reopen", subject=act.subject, facts=_named(act))
        return len(mended)

    def withdraw(self, incident_id: str, acts: Sequence[Act]) -> int:
        """Take back what was intended and certainly never begun, because the brake was pulled in
        between: it is as if it had never been intended. Acts with an outcome stay."""
        wanted = unique(acts)
        with self._write() as tx:
            known = _known(tx.conn, incident_id, wanted)
            gone = [a for a in wanted if (row := known.get(a)) is not None and row.verdict is None]
            for ids in chunks(known[act].id for act in gone):
                tx.conn.execute(
                    sa.delete(_acts).where(_acts.c.id.in_(ids), _acts.c.verdict.is_(None))
                )
            for act in gone:
                tx.log(incident_id, "withdraw", subject=act.subject, facts=_named(act))
        return len(gone)

    def messages_without_link(
        self, incident_id: str, refs: Sequence[str]
    ) -> dict[str, dict[Channel, int]]:
        """How many such messages each of these people got, or may have got, over which channel."""
        counts: dict[str, dict[Channel, int]] = {}
        steps = {f"notify_manual.{channel}": channel for channel in Channel}
        with self._read() as conn:
            for chunk in chunks(unique(refs)):
                rows = conn.execute(
                    sa.select(_acts.c.subject, _acts.c.step, sa.func.count())
                    .where(
                        _acts.c.incident_id == incident_id,
                        one_of(_acts.c.subject, chunk),
                        _acts.c.step.in_(list(steps)),
                        sa.func.coalesce(_acts.c.verdict, "") != Verdict.REFUSED.value,
                    )
                    .group_by(_acts.c.subject, _acts.c.step)
                )
                for subject, step, number in rows:
                    counts.setdefault(subject, {})[steps[step]] = number
        return counts

    def acts(self, incident_id: str, step: str) -> Iterator[ActRecord]:
        """Acts of a step, or of a phase ("notify" takes in "notify.email"), by time of intention;
        a page in memory at a time."""
        with self._read() as conn:
            incident_row(conn, incident_id)
        query = (
            sa.select(*RECORD)
            .where(_acts.c.incident_id == incident_id, of_step(step))
            .order_by(_acts.c.intended_at, _acts.c.id)
            .limit(PAGE)
        )
        place = sa.tuple_(_acts.c.intended_at, _acts.c.id)
        page = self._rows(query)
        while page:
            yield from (to_record(row) for row in page)
            page = self._rows(query.where(place > (page[-1].intended_at, page[-1].id)))

    def spans(self, step: str) -> list[tuple[datetime, datetime]]:
        """For each incident, from the first intention of exactly this step to its last outcome, the
        oldest first."""
        last = sa.func.max(sa.func.coalesce(_acts.c.settled_at, _acts.c.intended_at))
        first = sa.func.min(_acts.c.intended_at)
        query = (
            sa.select(first, last)
            .where(_acts.c.step == step)
            .group_by(_acts.c.incident_id)
            .order_by(first)
        )
        return [(row[0], row[1]) for row in self._rows(query)]

    def unsettled(self, incident_id: str) -> list[ActRecord]:
        """Acts whose outcome is not known, by time of intention: reconcile them, don't repeat."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(*RECORD)
                .where(_acts.c.incident_id == incident_id, sa.text(schema.OPEN_ACT))
                .order_by(_acts.c.intended_at, _acts.c.id)
            )
            return [to_record(row) for row in rows]

    def _rows(self, query: sa.Select[Any]) -> Sequence[Row[Any]]:
        with self._read() as conn:
            return conn.execute(query).all()


def of_step(step: str) -> sa.ColumnElement[bool]:
    """The step itself or any step below it."""
    return sa.or_(_acts.c.step == step, _acts.c.step.startswith(step + ".", autoescape=True))


def to_record(row: Row[Any]) -> ActRecord:
    """A row of the columns in RECORD as a value."""
    return ActRecord(
        act=Act(row[1], row[2], row[3]),
        verdict=Verdict(row[4]) if row[4] is not None else None,
        detail=row[5],
        receipt=row[6],
        counts=json.loads(row[7]),
        intended_at=row[8],
        settled_at=row[9],
    )


def _open(verdict: str | None) -> bool:
    return verdict is None or verdict == Verdict.UNKNOWN


def _named(act: Act) -> dict[str, Fact]:
    return {"step": act.step, "generation": act.generation}


def _new(tx: Transaction, incident_id: str, act: Act, waves: dict[str, int]) -> dict[str, Any]:
    return {
        "incident_id": incident_id,
        "subject": act.subject,
        "step": act.step,
        "generation": act.generation,
        "wave": waves.get(act.subject, _CLIENT_WAVE),
        "intended_at": tx.now,
    }


def _waves(conn: Connection, incident_id: str, subjects: list[str]) -> dict[str, int]:
    waves: dict[str, int] = {}
    for chunk in chunks(subjects):
        for row in conn.execute(
            sa.select(_accounts.c.ref, _accounts.c.wave, _accounts.c.stage).where(
                *among(incident_id, chunk)
            )
        ).all():
            if row.stage == Stage.EXCLUDED:
                raise Refused(
                    "intending an act",
                    code="excluded",
                    subject=row.ref,
                    advice="An excluded account is never touched; leave it out of the plan.",
                )
            waves[row.ref] = row.wave
    for subject in subjects:
        if subject.startswith("acc-") and subject not in waves:
            raise NotFound("intending an act", subject=subject, code="not admitted")
    return waves


def _known(conn: Connection, incident_id: str, acts: Sequence[Act]) -> dict[Act, Row[Any]]:
    steps = unique([act.step for act in acts])
    known: dict[Act, Row[Any]] = {}
    for subjects in chunks(unique([act.subject for act in acts])):
        for row in conn.execute(
            sa.select(
                _acts.c.id,
                _acts.c.subject,
                _acts.c.step,
                _acts.c.generation,
                _acts.c.verdict,
                _acts.c.detail,
                _acts.c.receipt,
                _acts.c.reopened_at,
            ).where(
                _acts.c.incident_id == incident_id,
                one_of(_acts.c.subject, subjects),
                _acts.c.step.in_(steps),
            )
        ).all():
            known[Act(row.subject, row.step, row.generation)] = row
    return known


def _differs(row: Row[Any], outcome: Outcome) -> bool:
    if not _open(row.verdict):
        return False
    stored = (row.verdict, row.detail, row.receipt)
    return stored != (outcome.verdict.value, outcome.detail, outcome.receipt)


def _store(tx: Transaction, known: dict[Act, Row[Any]], outcomes: list[Outcome]) -> None:
    update_rows(
        tx.conn,
        _acts,
        ("id",),
        [
            {
                "id": known[outcome.act].id,
                "verdict": outcome.verdict.value,
                "detail": storable(outcome.detail),
                "receipt": storable(outcome.receipt),
                "counts": json.dumps(dict(outcome.counts)) if outcome.counts else "{}",
                "settled_at": tx.now,
            }
            for outcome in outcomes
        ],
    )


def _all_well(known: dict[Act, Row[Any]], told: dict[Act, Outcome]) -> list[str]:
    well: dict[str, bool] = {}
    for act, outcome in told.items():
        stored = known[act].verdict
        stands = outcome.verdict if _open(stored) else Verdict(stored)
        well[act.subject] = well.get(act.subject, True) and stands.settled_well
    return [subject for subject, all_well in well.items() if all_well]


def _facts(outcome: Outcome) -> dict[str, Fact]:
    facts = _named(outcome.act)
    if outcome.detail:
        facts["detail"] = outcome.detail
    if outcome.receipt:
        facts["receipt"] = outcome.receipt
    for name, number in outcome.counts:
        facts[f"count.{name}"] = number
    return facts
