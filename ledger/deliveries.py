"""What mail and SMS providers say later about messages: once per event id, in any order."""

import sqlalchemy as sa

from ledger import schema
from ledger.transaction import Core, incident_row
from recovery.errors import Refused

EVENTS = frozenset({"delivered", "bounced", "dropped", "optout"})
"""The events that are kept."""

_table = schema.deliveries
_acts = schema.acts


class Deliveries(Core):
    """Delivery webhooks."""

    def settle_delivery(self, receipt: str, *, event: str, dedupe: str) -> bool:
        """Record an event about the message with this receipt; False where `dedupe` was seen.

        A provider may be faster than the settling of its own message, so an unknown receipt is
        kept and counts as soon as the act has it. Raises Refused for an event not in EVENTS.
        """
        if event not in EVENTS:
            raise Refused("recording a delivery", code="unknown event", expected=", ".join(EVENTS))
        with self._write() as tx:
            seen = tx.conn.scalar(sa.select(_table.c.dedupe).where(_table.c.dedupe == dedupe))
            if seen is not None:
                return False
            tx.conn.execute(
                sa.insert(_table).values(dedupe=dedupe, receipt=receipt, event=event, at=tx.now)
            )
            # One receipt may stand for several messages of one request; then none is singled out.
            known = tx.conn.execute(
                sa.select(_acts.c.incident_id, _acts.c.subject, _acts.c.step)
                .where(_acts.c.receipt == receipt, _acts.c.receipt != "")
                .limit(2)
            ).all()
            incident_id = known[0].incident_id if known else ""
            tx.log(
                incident_id,
                "delivery",
                subject=known[0].subject if len(known) == 1 else receipt,
                facts={"delivery": event, "receipt": receipt},
            )
            return True

    def deliveries(self, incident_id: str) -> dict[str, int]:
        """How many events of each kind came for the incident's messages."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_table.c.event, sa.func.count())
                .where(
                    sa.exists().where(
                        _acts.c.receipt == _table.c.receipt,
                        _acts.c.receipt != "",
                        _acts.c.incident_id == incident_id,
                    )
                )
                .group_by(_table.c.event)
                .order_by(_table.c.event)
            )
            return {row[0]: row[1] for row in rows}
