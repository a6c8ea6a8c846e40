"""What mail and SMS providers say later about messages: once per event id, in any order."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from ledger import schema
from ledger.bulk import insert_rows, one_of
from ledger.transaction import Core, Transaction, chunks, incident_row, storable, unique
from recovery.accounts import Act, Channel, Stage
from recovery.errors import Refused
from recovery.incident import Delivery, DeliveryEvent, FailedChannels
from recovery.messages import read_notice_id

EVENTS = frozenset(event.value for event in DeliveryEvent)
"""The events that are kept."""

_table = schema.deliveries
_acts = schema.acts
_accounts = schema.accounts
_enrollments = schema.enrollments
_ACT = (_acts.c.incident_id, _acts.c.subject, _acts.c.step, _acts.c.generation)
_TEXTED = ("notify.sms", "notify_manual.sms")
_LINK_STEPS = ("notify.email", "notify.in_app")
_FAILURES = [event.value for event in DeliveryEvent if event.is_final]


class Deliveries(Core):
    """Delivery webhooks."""

    def settle_delivery(self, receipt: str, *, event: str, dedupe: str) -> bool:
        """Record an event about the message with this receipt; False where `dedupe` was seen.

        Raises Refused for an event not in EVENTS.
        """
        if event not in EVENTS:
            raise Refused("recording a delivery", code="unknown event", expected=", ".join(EVENTS))
        return self.settle_deliveries([Delivery(receipt, DeliveryEvent(event), dedupe)]) == 1

    def settle_deliveries(self, deliveries: Sequence[Delivery]) -> int:
        """Record events; how many were new. All of them or none.

        A provider may be faster than the settling of its own message, so an unknown receipt is
        kept and counts as soon as the act has it. A notice that we never intended is no notice.
        """
        told = {delivery.dedupe: delivery for delivery in deliveries}
        if not told:
            return 0
        with self._write() as tx:
            for dedupe in _seen(tx.conn, told):
                del told[dedupe]
            known = _known(tx.conn, told.values())
            rows = [_row(tx, delivery, known.get(delivery.dedupe)) for delivery in told.values()]
            insert_rows(tx.conn, _table, rows)
            for delivery in told.values():
                act = known.get(delivery.dedupe)
                tx.log(
                    act.incident_id if act is not None else "",
                    "delivery",
                    subject=act.subject if act is not None and act.subject else delivery.receipt,
                    facts={"delivery": delivery.event.value, "receipt": delivery.receipt},
                )
        return len(told)

    def deliveries(self, incident_id: str) -> dict[str, int]:
        """How many events of each kind came for the incident's messages."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_table.c.event, sa.func.count())
                .where(
                    sa.or_(
                        sa.exists().where(
                            _acts.c.receipt == _table.c.receipt,
                            _acts.c.receipt != "",
                            _acts.c.incident_id == incident_id,
                        ),
                        sa.exists().where(
                            _accounts.c.ref == _table.c.subject,
                            _accounts.c.incident_id == incident_id,
                        ),
                    )
                )
                .group_by(_table.c.event)
                .order_by(_table.c.event)
            )
            return {row[0]: row[1] for row in rows}

    def unreachable(self, incident_id: str, refs: Sequence[str] | None = None) -> FailedChannels:
        """Over which channels a message to a person came back, or the person wants none: of these
        refs, or of all. A later success does not undo it: what bounced once is not trusted."""
        failed: defaultdict[str, dict[Channel, DeliveryEvent]] = defaultdict(dict)
        with self._read() as conn:
            incident_row(conn, incident_id)
            for subject, step, event in _failures(conn, incident_id, refs):
                # Acts of the notify phase alone have such steps: `notify.email`.
                failed[subject][Channel(step.rpartition(".")[2])] = DeliveryEvent(event)
        return dict(failed)

    def lost_links(self, incident_id: str) -> list[str]:
        """Refs of people who count as told, while a message with their present link came back."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            return list(
                conn.scalars(
                    sa.select(_accounts.c.ref)
                    .join(_enrollments, _enrollments.c.ref == _accounts.c.ref)
                    .where(
                        _accounts.c.incident_id == incident_id,
                        _accounts.c.stage == Stage.NOTIFIED.value,
                        _enrollments.c.redeemed_at.is_(None),
                        _enrollments.c.superseded_at.is_(None),
                        sa.exists().where(
                            _table.c.subject == _accounts.c.ref,
                            _table.c.step.in_(_LINK_STEPS),
                            _table.c.generation == _enrollments.c.generation,
                            _table.c.event.in_(_FAILURES),
                        ),
                    )
                    .order_by(_accounts.c.ref)
                )
            )


def _failures(
    conn: Connection, incident_id: str, refs: Sequence[str] | None
) -> Iterable[tuple[str, str, str]]:
    by_notice = (
        sa.select(_table.c.subject, _table.c.step, _table.c.event)
        .join(_accounts, _accounts.c.ref == _table.c.subject)
        .where(
            _accounts.c.incident_id == incident_id,
            _table.c.event.in_(_FAILURES),
            _table.c.step.like("notify%"),
        )
        .order_by(_table.c.at)
    )
    # Where the receipt was not known yet as the event came. A text message has one of its own; the
    # receipt of an email stands for everybody in its request.
    by_receipt = (
        sa.select(_acts.c.subject, _acts.c.step, _table.c.event)
        .join(_acts, _acts.c.receipt == _table.c.receipt)
        .where(
            _acts.c.incident_id == incident_id,
            _acts.c.receipt != "",
            _table.c.subject == "",
            _table.c.event.in_(_FAILURES),
            _acts.c.step.in_(_TEXTED),
        )
        .order_by(_table.c.at)
    )
    if refs is None:
        yield from (_triple(row) for row in conn.execute(by_notice))
        yield from (_triple(row) for row in conn.execute(by_receipt))
        return
    for chunk in chunks(unique(refs)):
        rows = conn.execute(by_notice.where(one_of(_table.c.subject, chunk)))
        yield from (_triple(row) for row in rows)
        rows = conn.execute(by_receipt.where(one_of(_acts.c.subject, chunk)))
        yield from (_triple(row) for row in rows)


def _triple(row: Row[Any]) -> tuple[str, str, str]:
    return row[0], row[1], row[2]


def _seen(conn: Connection, told: dict[str, Delivery]) -> list[str]:
    seen: list[str] = []
    for chunk in chunks(list(told)):
        seen += conn.scalars(sa.select(_table.c.dedupe).where(one_of(_table.c.dedupe, chunk)))
    return seen


def _known(conn: Connection, deliveries: Iterable[Delivery]) -> dict[str, Row[Any]]:
    """By `dedupe`, the act that an event is about; with an empty subject where its receipt stands
    for several messages of one request, of which none is singled out."""
    found: dict[str, Row[Any]] = {}
    for delivery in deliveries:
        act = read_notice_id(delivery.notice)
        row = _by_notice(conn, act) if act is not None else None
        row = row or _by_receipt(conn, delivery.receipt)
        if row is not None:
            found[delivery.dedupe] = row
    return found


def _by_notice(conn: Connection, act: Act) -> Row[Any] | None:
    return conn.execute(
        sa.select(*_ACT)
        .join(_accounts, _accounts.c.ref == _acts.c.subject)
        .where(
            _acts.c.incident_id == _accounts.c.incident_id,
            _acts.c.subject == act.subject,
            _acts.c.step == act.step,
            _acts.c.generation == act.generation,
        )
    ).one_or_none()


def _by_receipt(conn: Connection, receipt: str) -> Row[Any] | None:
    rows = conn.execute(
        sa.select(*_ACT).where(_acts.c.receipt == receipt, _acts.c.receipt != "").limit(2)
    ).all()
    if len(rows) < 2:
        return rows[0] if rows else None
    several = sa.select(
        _acts.c.incident_id,
        sa.literal("").label("subject"),
        sa.literal("").label("step"),
        sa.literal(0).label("generation"),
    )
    return conn.execute(several.where(_acts.c.receipt == receipt).limit(1)).one()


def _row(tx: Transaction, delivery: Delivery, act: Row[Any] | None) -> dict[str, Any]:
    return {
        "dedupe": storable(delivery.dedupe),
        "receipt": storable(delivery.receipt),
        "event": delivery.event.value,
        "at": tx.now,
        "subject": act.subject if act is not None else "",
        "step": act.step if act is not None else "",
        "generation": act.generation if act is not None else 0,
    }
