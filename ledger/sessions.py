"""One browser's way through an enrollment: begun, second channel proven, candidate kept, completed.

Codes and cookies are known here by their hashes alone. Limits are counted in the same transaction
that judges, so that no number of parallel tries gets more of them than the policy allows.
"""

import hmac
from dataclasses import replace
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.enrollments import Enrollments, to_enrollment
from ledger.transaction import Core, Transaction
from recovery.errors import Unverified
from recovery.incident import AuthenticatorKind, CodeCheck, PortalSession

_table = schema.portal_sessions


class Sessions(Core):
    """Portal sessions."""

    def begin(self, jti: str, *, session_hash: str, ttl: timedelta) -> PortalSession:
        """Open a session for a browser that showed a live enrollment's token. Several browsers
        may; the same one again gets its session. Raises Unverified."""
        with self._write() as tx:
            row = tx.conn.execute(
                sa.select(schema.enrollments).where(schema.enrollments.c.jti == jti)
            ).one_or_none()
            if row is None or not Enrollments.live(to_enrollment(row), tx.now):
                raise Unverified("beginning an enrollment", got="no live enrollment")
            known = _row(tx, session_hash)
            if known is not None:
                if known.jti != jti or known.expires_at <= tx.now:
                    raise Unverified("beginning an enrollment", got="a used session")
                return _session(known)
            tx.conn.execute(
                sa.insert(_table).values(
                    session_hash=session_hash,
                    incident_id=row.incident_id,
                    ref=row.ref,
                    jti=jti,
                    created_at=tx.now,
                    expires_at=tx.now + ttl,
                )
            )
            tx.log(row.incident_id, "portal.begun", subject=row.ref)
            return _session(_live(tx, session_hash, "beginning an enrollment"))

    def portal_session(self, session_hash: str) -> PortalSession | None:
        """The session, or None where there is none or its time ran out."""
        now = self._clock()
        with self._read() as conn:
            row = conn.execute(
                sa.select(_table).where(_table.c.session_hash == session_hash)
            ).one_or_none()
        if row is None or now >= row.expires_at:
            return None
        session = _session(row)
        open_challenge = row.challenge and now < row.challenge_expires_at
        return replace(session, challenge=row.challenge) if open_challenge else session

    def store_code(
        self, session_hash: str, *, code_hash: str, ttl: timedelta, max_sends: int
    ) -> bool:
        """Keep the hash of a code about to be sent, in place of the one before, with fresh
        attempts. False, and nothing kept, where the session used up its sends. Raises Unverified
        without a live session."""
        with self._write() as tx:
            row = _live(tx, session_hash, "storing a code")
            kept = tx.conn.execute(
                sa.update(_table)
                .where(_table.c.session_hash == session_hash, _table.c.code_sends < max_sends)
                .values(
                    code_hash=code_hash,
                    code_sent_at=tx.now,
                    code_expires_at=tx.now + ttl,
                    code_sends=_table.c.code_sends + 1,
                    code_attempts=0,
                )
            ).rowcount
            tx.log(
                row.incident_id,
                "portal.code_stored" if kept else "portal.code_withheld",
                subject=row.ref,
                facts={"sends": row.code_sends + kept},
            )
            return kept == 1

    def check_code(self, session_hash: str, code_hash: str, *, max_attempts: int) -> CodeCheck:
        """Judge a typed code by its hash. The attempt is counted first; an accepted code cannot
        be used again. Raises Unverified for a session that never was."""
        with self._write() as tx:
            row = _row(tx, session_hash)
            if row is None:
                raise Unverified("checking a code", got="no such session")
            result = _judge(tx, row, code_hash, max_attempts)
            tx.log(
                row.incident_id, "portal.code_checked", subject=row.ref, facts={"result": result}
            )
            return result

    def store_candidate(self, session_hash: str, sealed: bytes) -> None:
        """Keep the sealed secret shown to the person; the first one stays. Raises Unverified
        without a live session whose code was accepted."""
        with self._write() as tx:
            row = _live(tx, session_hash, "storing a candidate")
            if row.code_verified_at is None:
                raise Unverified("storing a candidate", subject=row.ref, got="no accepted code")
            if row.sealed_candidate is not None or row.completed_at is not None:
                return
            tx.conn.execute(
                sa.update(_table)
                .where(_table.c.session_hash == session_hash)
                .values(sealed_candidate=sealed)
            )
            tx.log(row.incident_id, "portal.candidate_stored", subject=row.ref)

    def store_challenge(self, session_hash: str, challenge: str, *, ttl: timedelta) -> None:
        """Keep the challenge that a new passkey has to sign, in place of the one before. Raises
        Unverified without a live session whose code was accepted, or with a passkey already."""
        with self._write() as tx:
            row = _live(tx, session_hash, "storing a challenge")
            if row.code_verified_at is None:
                raise Unverified("storing a challenge", subject=row.ref, got="no accepted code")
            if row.sealed_passkey is not None or row.completed_at is not None:
                raise Unverified("storing a challenge", subject=row.ref, got="a passkey already")
            _keep(tx, session_hash, challenge=challenge, challenge_expires_at=tx.now + ttl)
            tx.log(row.incident_id, "portal.challenge_stored", subject=row.ref)

    def burn_challenge(self, session_hash: str) -> None:
        """The session's challenge was answered wrongly: it is gone."""
        with self._write() as tx:
            row = _row(tx, session_hash)
            if row is not None and row.challenge:
                _keep(tx, session_hash, challenge="", challenge_expires_at=None)
                tx.log(row.incident_id, "portal.challenge_burned", subject=row.ref)

    def store_passkey(self, session_hash: str, sealed: bytes, *, challenge: str) -> None:
        """Keep the public half of a passkey that was verified for this challenge, which is used up
        by it; so a lost answer of the platform costs nothing. The first one stays: a second press
        of the same button changes nothing. Raises Unverified without a live session that has this
        very challenge."""
        with self._write() as tx:
            row = _live(tx, session_hash, "storing a passkey")
            if row.sealed_passkey is not None or row.completed_at is not None:
                return
            if not challenge or row.challenge != challenge or tx.now >= row.challenge_expires_at:
                raise Unverified("storing a passkey", subject=row.ref, got="no open challenge")
            _keep(tx, session_hash, sealed_passkey=sealed, challenge="", challenge_expires_at=None)
            tx.log(row.incident_id, "portal.passkey_stored", subject=row.ref)

    def complete(self, session_hash: str) -> None:
        """The authenticator is bound: close the session and forget the sealed secret. Repeating
        does nothing. Raises Unverified unless this session redeemed its enrollment."""
        with self._write() as tx:
            row = _row(tx, session_hash)
            if row is None:
                raise Unverified("completing an enrollment", got="no such session")
            winner = tx.conn.scalar(
                sa.select(schema.enrollments.c.redeemed_by).where(
                    schema.enrollments.c.jti == row.jti
                )
            )
            if winner != session_hash:
                raise Unverified("completing an enrollment", subject=row.ref, got="not redeemed")
            if row.completed_at is not None:
                return
            tx.conn.execute(
                sa.update(_table)
                .where(_table.c.session_hash == session_hash)
                .values(
                    completed_at=tx.now, sealed_candidate=None, sealed_passkey=None, challenge=""
                )
            )
            tx.log(row.incident_id, "portal.completed", subject=row.ref)


def _judge(tx: Transaction, row: Row[Any], code_hash: str, max_attempts: int) -> CodeCheck:
    open_code = row.code_hash and row.code_expires_at is not None and tx.now < row.code_expires_at
    if not open_code or row.expires_at <= tx.now:
        return CodeCheck.EXPIRED
    mine = _table.c.session_hash == row.session_hash
    counted = tx.conn.execute(
        sa.update(_table)
        .where(mine, _table.c.code_attempts < max_attempts)
        .values(code_attempts=_table.c.code_attempts + 1)
    ).rowcount
    if counted == 0:
        return CodeCheck.EXHAUSTED
    if not hmac.compare_digest(row.code_hash.encode(), code_hash.encode()):
        return CodeCheck.WRONG
    tx.conn.execute(sa.update(_table).where(mine).values(code_hash="", code_verified_at=tx.now))
    return CodeCheck.ACCEPTED


def _keep(tx: Transaction, session_hash: str, **values: Any) -> None:
    tx.conn.execute(sa.update(_table).where(_table.c.session_hash == session_hash).values(**values))


def _row(tx: Transaction, session_hash: str) -> Row[Any] | None:
    return tx.conn.execute(
        sa.select(_table).where(_table.c.session_hash == session_hash)
    ).one_or_none()


def _live(tx: Transaction, session_hash: str, attempted: str) -> Row[Any]:
    row = _row(tx, session_hash)
    if row is None or row.expires_at <= tx.now:
        raise Unverified(attempted, got="no live session")
    return row


def _session(row: Row[Any]) -> PortalSession:
    return PortalSession(
        session_hash=row.session_hash,
        incident_id=row.incident_id,
        ref=row.ref,
        jti=row.jti,
        created_at=row.created_at,
        expires_at=row.expires_at,
        code_sent_at=row.code_sent_at,
        code_verified_at=row.code_verified_at,
        sealed_candidate=row.sealed_candidate,
        completed_at=row.completed_at,
        sealed_passkey=row.sealed_passkey,
        method=AuthenticatorKind(row.method) if row.method else None,
    )
