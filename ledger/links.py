"""What a person may ask without a token: who am I here, is this message yours, a new link."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from ledger import schema
from ledger.accounts import folded
from ledger.acts import RECORD, of_step, to_record
from ledger.bulk import one_of
from ledger.transaction import Core, chunks, incident_row, unique
from recovery.accounts import Stage, Verdict
from recovery.errors import NotFound
from recovery.incident import ActRecord, Visitor

_requests = schema.link_requests
_accounts = schema.accounts
_acts = schema.acts
_incidents = schema.incidents
_VISITOR = (
    _accounts.c.ref,
    _accounts.c.incident_id,
    _accounts.c.account_id,
    _accounts.c.handle,
    _accounts.c.email,
    _accounts.c.phone,
    _accounts.c.locale,
    _accounts.c.stage,
)


class Links(Core):
    """The portal's open questions."""

    def visitor(self, ref: str) -> Visitor:
        """One account as the portal may see it. Raises NotFound."""
        with self._read() as conn:
            row = conn.execute(sa.select(*_VISITOR).where(_accounts.c.ref == ref)).one_or_none()
        if row is None:
            raise NotFound("looking for the account", subject=ref, code="unknown ref")
        return _visitor(row)

    def find_account(self, identifier: str) -> list[Visitor]:
        """Accounts of open incidents by handle (with or without @) or mail address, in any case.

        Several, where incidents or persons share it. Excluded ones come too: look at `stage`.
        """
        wanted = folded(identifier)
        if not wanted:
            return []
        with self._read() as conn:
            rows = conn.execute(
                sa.select(*_VISITOR)
                .where(
                    sa.or_(_accounts.c.handle_folded == wanted, _accounts.c.email_folded == wanted),
                    _accounts.c.incident_id.in_(
                        sa.select(_incidents.c.incident_id).where(_incidents.c.closed_at.is_(None))
                    ),
                )
                .order_by(_accounts.c.ref)
            )
            return [_visitor(row) for row in rows]

    def request_link(self, ref: str) -> bool:
        """Note that the person asks for a new link. False where a request is pending already, the
        account is excluded, or the incident closed. Raises NotFound."""
        with self._write() as tx:
            account = tx.conn.execute(
                sa.select(_accounts.c.incident_id, _accounts.c.stage, _incidents.c.closed_at)
                .join(_incidents, _incidents.c.incident_id == _accounts.c.incident_id)
                .where(_accounts.c.ref == ref)
            ).one_or_none()
            if account is None:
                raise NotFound("requesting a link", subject=ref, code="unknown ref")
            if account.stage == Stage.EXCLUDED or account.closed_at is not None:
                return False
            pending = tx.conn.scalar(
                sa.select(_requests.c.id).where(
                    _requests.c.ref == ref, _requests.c.served_at.is_(None)
                )
            )
            if pending is not None:
                return False
            tx.conn.execute(
                sa.insert(_requests).values(
                    incident_id=account.incident_id, ref=ref, requested_at=tx.now
                )
            )
            tx.log(account.incident_id, "link.requested", subject=ref)
            return True

    def pending_link_requests(self, incident_id: str) -> list[str]:
        """Refs that wait for a new link, the longest wait first."""
        with self._read() as conn:
            incident_row(conn, incident_id)
            return list(
                conn.scalars(
                    sa.select(_requests.c.ref)
                    .where(_requests.c.incident_id == incident_id, _requests.c.served_at.is_(None))
                    .order_by(_requests.c.requested_at, _requests.c.id)
                )
            )

    def serve_link_requests(self, incident_id: str, refs: Sequence[str]) -> int:
        """The requests of these refs are answered; returns how many were pending."""
        served: list[str] = []
        with self._write() as tx:
            tx.incident(incident_id)
            for chunk in chunks(unique(refs)):
                where = (
                    _requests.c.incident_id == incident_id,
                    one_of(_requests.c.ref, chunk),
                    _requests.c.served_at.is_(None),
                )
                served += tx.conn.scalars(sa.select(_requests.c.ref).where(*where))
                tx.conn.execute(sa.update(_requests).where(*where).values(served_at=tx.now))
            for ref in served:
                tx.log(incident_id, "link.served", subject=ref)
        return len(served)

    def notices(self, ref: str) -> list[ActRecord]:
        """The messages that really went to this account, by time: what a person may compare the
        one in hand with."""
        with self._read() as conn:
            rows = conn.execute(
                sa.select(*RECORD)
                .where(
                    _acts.c.incident_id.in_(
                        sa.select(_accounts.c.incident_id).where(_accounts.c.ref == ref)
                    ),
                    _acts.c.subject == ref,
                    sa.or_(of_step("notify"), of_step("notify_manual"), of_step("notify_enrolled")),
                    _acts.c.verdict.in_([v.value for v in Verdict if v.settled_well]),
                )
                .order_by(_acts.c.settled_at, _acts.c.id)
            )
            return [to_record(row) for row in rows]


def _visitor(row: Row[Any]) -> Visitor:
    values = row._asdict()
    return Visitor(**{**values, "stage": Stage(values["stage"])})
