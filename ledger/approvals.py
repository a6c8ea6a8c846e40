"""What people decided at the gates, refused attempts included."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.transaction import Core, incident_row
from recovery.audit import Fact, stamp
from recovery.errors import Conflict
from recovery.incident import ApprovalAttempt

_approvals = schema.approvals


class Approvals(Core):
    """Attempts at gates."""

    def record_approval(self, incident_id: str, attempt: ApprovalAttempt) -> None:
        """Keep one attempt. The same again does nothing; another one under its number raises
        Conflict, because an approval is never rewritten."""
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
                )
            )
            facts: dict[str, Fact] = {
                "gate": attempt.gate,
                "attempt": attempt.attempt,
                "digest": attempt.digest,
                "decision": attempt.decision,
                "reason": attempt.reason,
                "refusal": attempt.refusal,
                "decided_at": stamp(attempt.at),
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
    )
