"""What people were asked at the gates and what they decided, refused attempts included."""

from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.transaction import Core, incident_row
from recovery.audit import Fact, stamp
from recovery.errors import Conflict
from recovery.incident import ApprovalAttempt, GateRequest

_approvals = schema.approvals
_requests = schema.gate_requests


class Approvals(Core):
    """Requests and attempts at gates."""

    def request_approval(self, incident_id: str, request: GateRequest) -> GateRequest:
        """Write down that people are asked now; gives the request its number at this gate."""
        with self._write() as tx:
            tx.open_incident(incident_id, "asking for an approval")
            last = tx.conn.execute(
                sa.select(sa.func.max(_requests.c.number)).where(
                    _requests.c.incident_id == incident_id, _requests.c.gate == request.gate
                )
            ).scalar_one()
            kept = replace(request, number=(last or 0) + 1, asked_at=tx.now)
            tx.conn.execute(
                sa.insert(_requests).values(
                    incident_id=incident_id,
                    gate=kept.gate,
                    number=kept.number,
                    digest=kept.digest,
                    run_id=kept.run_id,
                    requester=kept.requester,
                    asked_at=kept.asked_at,
                    asked_again=int(kept.asked_again),
                    closed="",
                )
            )
            facts: dict[str, Fact] = {
                "gate": kept.gate,
                "request": kept.number,
                "digest": kept.digest,
                "run_id": kept.run_id,
            }
            if kept.asked_again:
                facts["asked_again"] = 1
            tx.log(incident_id, "approval.requested", actor=kept.requester, facts=facts)
            return kept

    def close_request(self, incident_id: str, request: GateRequest, why: str) -> None:
        """No answer to this request will come. Closing again changes nothing."""
        with self._write() as tx:
            closed = tx.conn.execute(
                sa.update(_requests)
                .where(
                    _requests.c.incident_id == incident_id,
                    _requests.c.gate == request.gate,
                    _requests.c.number == request.number,
                    _requests.c.closed == "",
                )
                .values(closed=why)
            ).rowcount
            if closed:
                tx.log(
                    incident_id,
                    "approval.unanswered",
                    facts={"gate": request.gate, "request": request.number, "why": why},
                )

    def gate_requests(self, incident_id: str, gate: str | None = None) -> list[GateRequest]:
        """When people were asked, at one gate or at all of them, by time."""
        query = sa.select(_requests).where(_requests.c.incident_id == incident_id)
        if gate is not None:
            query = query.where(_requests.c.gate == gate)
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(query.order_by(_requests.c.asked_at, _requests.c.number))
            return [_request(row) for row in rows]

    def attempts_of(self, approver: str, *, limit: int = 50) -> list[ApprovalAttempt]:
        """The newest attempts under one approver's name, at all gates of all incidents, the oldest
        first: wrong codes are counted over all of them."""
        with self._read() as conn:
            rows = conn.execute(
                sa.select(_approvals)
                .where(_approvals.c.approver == approver)
                .order_by(_approvals.c.at.desc())
                .limit(limit)
            ).all()
        return [_attempt(row) for row in reversed(rows)]

    def record_approval(
        self, incident_id: str, attempt: ApprovalAttempt, *, answers: GateRequest | None = None
    ) -> None:
        """Keep one attempt, and close the request it answers. The same again does nothing; another
        one under its number raises Conflict, because an approval is never rewritten."""
        columns = _approvals.c
        with self._write() as tx:
            tx.incident(incident_id)
            known = tx.conn.execute(
                sa.select(_approvals).where(
                    columns.incident_id == incident_id,
                    columns.gate == attempt.gate,
                    columns.attempt == attempt.attempt,
                )
            ).one_or_none()
            if known is not None:
                if _attempt(known) == attempt:
                    return
                raise Conflict(
                    "recording an approval",
                    code="attempt already recorded",
                    subject=f"{attempt.gate} {attempt.attempt}",
                    advice="Count the recorded attempts and take the next number.",
                )
            tx.conn.execute(
                sa.insert(_approvals).values(
                    incident_id=incident_id,
                    gate=attempt.gate,
                    attempt=attempt.attempt,
                    digest=attempt.digest,
                    approver=attempt.approver,
                    decision=attempt.decision,
                    reason=attempt.reason,
                    refusal=attempt.refusal,
                    at=attempt.at,
                    valid_until=attempt.valid_until,
                    run_id=attempt.run_id,
                    requester=attempt.requester,
                )
            )
            if answers is not None:
                tx.conn.execute(
                    sa.update(_requests)
                    .where(
                        _requests.c.incident_id == incident_id,
                        _requests.c.gate == answers.gate,
                        _requests.c.number == answers.number,
                    )
                    .values(closed="answered")
                )
            facts: dict[str, Fact] = {
                "gate": attempt.gate,
                "attempt": attempt.attempt,
                "digest": attempt.digest,
                "decision": attempt.decision,
                "reason": attempt.reason,
                "refusal": attempt.refusal,
                "decided_at": stamp(attempt.at),
                "run_id": attempt.run_id,
                "requester": attempt.requester,
            }
            if attempt.valid_until is not None:
                facts["valid_until"] = stamp(attempt.valid_until)
            tx.log(incident_id, "approval", actor=attempt.approver, facts=facts)

    def approvals(self, incident_id: str, gate: str) -> list[ApprovalAttempt]:
        """The attempts at one gate by their number."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_approvals)
                .where(_approvals.c.incident_id == incident_id, _approvals.c.gate == gate)
                .order_by(_approvals.c.attempt)
            )
            return [_attempt(row) for row in rows]


def _attempt(row: Row[Any]) -> ApprovalAttempt:
    return ApprovalAttempt(
        gate=row.gate,
        digest=row.digest,
        attempt=row.attempt,
        approver=row.approver,
        decision=row.decision,
        reason=row.reason,
        refusal=row.refusal,
        at=row.at,
        valid_until=row.valid_until,
        run_id=row.run_id,
        requester=row.requester,
    )


def _request(row: Row[Any]) -> GateRequest:
    return GateRequest(
        gate=row.gate,
        number=row.number,
        digest=row.digest,
        run_id=row.run_id,
        requester=row.requester,
        asked_at=row.asked_at,
        asked_again=bool(row.asked_again),
        closed=row.closed,
    )
