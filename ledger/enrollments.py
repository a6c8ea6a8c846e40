"""Invitations to bind an authenticator: issued, armed when the message is composed, redeemed once.

Short-lived and single-use as NIST SP 800-63B asks of enrollment codes; the token itself is derived
from the row (recovery.tokens) and stands nowhere.
"""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ledger import schema
from ledger.accounts import among
from ledger.acts import of_step
from ledger.bulk import insert_rows, one_of
from ledger.stages import aside, move, return_to_issued
from ledger.transaction import Core, Transaction, chunks, unique
from recovery.accounts import Stage, Verdict
from recovery.errors import Conflict, NotFound, Unverified
from recovery.incident import AuthenticatorKind, Enrollment

_table = schema.enrollments
_accounts = schema.accounts
_acts = schema.acts
_sessions = schema.portal_sessions
_RECEIVES = frozenset({Stage.CONTAINED, Stage.TOKEN_ISSUED, Stage.NOTIFIED})


class Enrollments(Core):
    """The life of an enrollment."""

    def issue(self, incident_id: str, refs: Sequence[str]) -> list[Enrollment]:
        """Give accounts an enrollment and bring them to TOKEN_ISSUED; returns those they now have,
        in the order of `refs`.

        One not yet armed is kept, so repeating is harmless; anything else unredeemed is superseded
        by a fresh one, and a notified account then has to be notified again. Accounts before
        containment, enrolled already, or standing aside are left out of the answer. NotFound for
        a ref that was never admitted.
        """
        wanted = unique(refs)
        with self._write() as tx:
            tx.open_incident(incident_id, "issuing enrollments")
            stages = _stages(tx.conn, incident_id, wanted)
            entitled = [ref for ref in wanted if stages[ref] in _RECEIVES]
            newest = _newest(tx.conn, incident_id, entitled)
            kept = {ref: row for ref, row in newest.items() if _unarmed(row)}
            fresh = {
                ref: Enrollment(
                    incident_id=incident_id,
                    ref=ref,
                    jti=uuid.uuid4().hex,
                    generation=newest[ref].generation + 1 if ref in newest else 1,
                    created_at=tx.now,
                )
                for ref in entitled
                if ref not in kept
            }
            _supersede(tx, list(fresh))
            _insert(tx, list(fresh.values()))
            moved = move(tx, incident_id, entitled, Stage.TOKEN_ISSUED)
            back = return_to_issued(tx, incident_id, fresh)
            for ref in entitled:
                if ref in fresh:
                    facts: dict[str, str | int] = {"generation": fresh[ref].generation}
                    if ref in moved or ref in back:
                        facts["stage"] = Stage.TOKEN_ISSUED.value
                    tx.log(incident_id, "enrollment.issued", subject=ref, facts=facts)
                elif ref in moved:
                    tx.log(
                        incident_id, "stage", subject=ref, facts={"stage": Stage.TOKEN_ISSUED.value}
                    )
        return [fresh[ref] if ref in fresh else to_enrollment(kept[ref]) for ref in entitled]

    def arm(self, incident_id: str, refs: Sequence[str], *, ttl: timedelta) -> list[Enrollment]:
        """Start the clock of current enrollments, just before their message is composed; returns
        all current ones, in the order of `refs`.

        An armed one keeps its times, so that composing again derives the same token. An armed one
        that ran out is started again only where no message about it went out, or may have gone.
        """
        wanted = unique(refs)
        with self._write() as tx:
            tx.open_incident(incident_id, "arming enrollments")
            current = _current(tx.conn, incident_id, wanted)
            expired = [
                ref
                for ref, row in current.items()
                if row.redeemed_at is None
                and row.expires_at is not None
                and row.expires_at <= tx.now
            ]
            silent = set(expired) - _told(tx.conn, incident_id, expired, current)
            due = [
                ref
                for ref in wanted
                if ref in current and (_unarmed(current[ref]) or ref in silent)
            ]
            for chunk in chunks(current[ref].jti for ref in due):
                tx.conn.execute(
                    sa.update(_table)
                    .where(one_of(_table.c.jti, chunk))
                    .values(issued_at=tx.now, expires_at=tx.now + ttl)
                )
            for ref in due:
                tx.log(
                    incident_id,
                    "enrollment.armed",
                    subject=ref,
                    facts={
                        "generation": current[ref].generation,
                        "ttl_s": int(ttl.total_seconds()),
                    },
                )
            current = _current(tx.conn, incident_id, wanted)
        return [to_enrollment(current[ref]) for ref in wanted if ref in current]

    def enrollment(self, jti: str) -> Enrollment | None:
        """The enrollment of that id, whatever became of it."""
        with self._read() as conn:
            row = conn.execute(sa.select(_table).where(_table.c.jti == jti)).one_or_none()
        return to_enrollment(row) if row is not None else None

    def current_enrollments(self, incident_id: str, refs: Sequence[str]) -> list[Enrollment]:
        """The newest enrollment of each ref that was not superseded, in the order of `refs`."""
        wanted = unique(refs)
        with self._read() as conn:
            current = _current(conn, incident_id, wanted)
        return [to_enrollment(current[ref]) for ref in wanted if ref in current]

    def hand_over(self, incident_id: str, refs: Sequence[str], reason: str) -> int:
        """Give people whom no link reaches to other people (MANUAL) and revoke their enrollments.
        Only out of TOKEN_ISSUED and NOTIFIED; returns how many went."""
        with self._write() as tx:
            tx.open_incident(incident_id, "handing accounts over")
            gone = aside(tx, incident_id, refs, (Stage.TOKEN_ISSUED, Stage.NOTIFIED), reason)
            _supersede(tx, gone)
            return len(gone)

    @staticmethod
    def live(enrollment: Enrollment, at: datetime) -> bool:
        """Whether it can be redeemed at that time: armed, not run out, not used, not replaced."""
        return (
            enrollment.issued_at is not None
            and enrollment.expires_at is not None
            and at < enrollment.expires_at
            and enrollment.redeemed_at is None
            and enrollment.superseded_at is None
        )

    def redeem(
        self, jti: str, session_hash: str, *, method: AuthenticatorKind = AuthenticatorKind.TOTP
    ) -> Enrollment:
        """Use the enrollment up for this browser's session. Of any number of racers one wins; the
        winner may ask again and gets the same row. Everybody else: Unverified. Conflict for the
        winner who comes with another kind of authenticator than the one that it won with."""
        with self._write() as tx:
            session = tx.conn.execute(
                sa.select(_sessions.c.jti, _sessions.c.expires_at, _sessions.c.method).where(
                    _sessions.c.session_hash == session_hash
                )
            ).one_or_none()
            if session is None or session.jti != jti:
                raise Unverified("redeeming an enrollment", got="no session that began with it")
            won = False
            if tx.now < session.expires_at:
                won = (
                    tx.conn.execute(
                        sa.update(_table)
                        .where(
                            _table.c.jti == jti,
                            _table.c.redeemed_at.is_(None),
                            _table.c.superseded_at.is_(None),
                            _table.c.issued_at.is_not(None),
                            _table.c.expires_at > tx.now,
                        )
                        .values(redeemed_at=tx.now, redeemed_by=session_hash)
                    ).rowcount
                    == 1
                )
            row = tx.conn.execute(sa.select(_table).where(_table.c.jti == jti)).one()
            if not won and row.redeemed_by != session_hash:
                raise Unverified("redeeming an enrollment", subject=row.ref, got=_why_not(row))
            if not won and session.method not in ("", method):
                raise Conflict(
                    "redeeming an enrollment",
                    subject=row.ref,
                    code="another method",
                    got=f"redeemed with {session.method}",
                )
            if won:
                tx.conn.execute(
                    sa.update(_sessions)
                    .where(_sessions.c.session_hash == session_hash)
                    .values(method=method.value)
                )
                tx.log(
                    row.incident_id,
                    "enrollment.redeemed",
                    subject=row.ref,
                    facts={"generation": row.generation, "method": method.value},
                )
            return to_enrollment(row)


def to_enrollment(row: Row[Any]) -> Enrollment:
    return Enrollment(
        incident_id=row.incident_id,
        ref=row.ref,
        jti=row.jti,
        generation=row.generation,
        created_at=row.created_at,
        issued_at=row.issued_at,
        expires_at=row.expires_at,
        redeemed_at=row.redeemed_at,
        superseded_at=row.superseded_at,
    )


def _why_not(row: Row[Any]) -> str:
    if row.redeemed_at is not None:
        return "redeemed by another session"
    return "superseded" if row.superseded_at is not None else "run out or not armed"


def _unarmed(row: Row[Any]) -> bool:
    return row.issued_at is None and row.redeemed_at is None and row.superseded_at is None


def _stages(conn: Connection, incident_id: str, refs: list[str]) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}
    for chunk in chunks(refs):
        for row in conn.execute(
            sa.select(_accounts.c.ref, _accounts.c.stage).where(*among(incident_id, chunk))
        ):
            stages[row.ref] = Stage(row.stage)
    for ref in refs:
        if ref not in stages:
            raise NotFound("issuing an enrollment", subject=ref, code="not admitted")
    return stages


def _newest(conn: Connection, incident_id: str, refs: list[str]) -> dict[str, Row[Any]]:
    """Each ref's row of the highest generation, superseded or not."""
    newest: dict[str, Row[Any]] = {}
    for chunk in chunks(refs):
        for row in conn.execute(
            sa.select(_table)
            .where(_table.c.incident_id == incident_id, one_of(_table.c.ref, chunk))
            .order_by(_table.c.generation)
        ):
            newest[row.ref] = row
    return newest


def _current(conn: Connection, incident_id: str, refs: list[str]) -> dict[str, Row[Any]]:
    newest = _newest(conn, incident_id, refs)
    return {ref: row for ref, row in newest.items() if row.superseded_at is None}


def _told(
    conn: Connection, incident_id: str, refs: list[str], current: dict[str, Row[Any]]
) -> set[str]:
    told: set[str] = set()
    for chunk in chunks(refs):
        for row in conn.execute(
            sa.select(_acts.c.subject, _acts.c.intended_at).where(
                _acts.c.incident_id == incident_id,
                one_of(_acts.c.subject, chunk),
                of_step("notify"),
                _acts.c.verdict.in_([v.value for v in Verdict if v is not Verdict.REFUSED]),
            )
        ):
            # An older message carried an older token.
            if row.intended_at >= current[row.subject].created_at:
                told.add(row.subject)
    return told


def _supersede(tx: Transaction, refs: list[str]) -> None:
    for chunk in chunks(refs):
        tx.conn.execute(
            sa.update(_table)
            .where(
                one_of(_table.c.ref, chunk),
                _table.c.redeemed_at.is_(None),
                _table.c.superseded_at.is_(None),
            )
            .values(superseded_at=tx.now)
        )


def _insert(tx: Transaction, enrollments: list[Enrollment]) -> None:
    insert_rows(
        tx.conn,
        _table,
        [
            {
                "jti": enrollment.jti,
                "incident_id": enrollment.incident_id,
                "ref": enrollment.ref,
                "generation": enrollment.generation,
                "created_at": enrollment.created_at,
            }
            for enrollment in enrollments
        ],
    )
