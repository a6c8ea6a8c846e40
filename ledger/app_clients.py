"""App clients whose secrets the incident touches. Their acts are ordinary acts by client id."""

import json
from collections.abc import Sequence

import sqlalchemy as sa

from ledger import schema
from ledger.bulk import insert_rows, one_of
from ledger.transaction import Core, chunks, incident_row
from recovery.incident import ClientRecord

_clients = schema.clients


class AppClients(Core):
    """The clients in scope."""

    def admit_clients(self, incident_id: str, records: Sequence[ClientRecord]) -> int:
        """Admit clients for life as they are described now; returns how many are new."""
        new = 0
        with self._write() as tx:
            tx.open_incident(incident_id, "admitting clients")
            for chunk in chunks({record.client_id: record for record in records}.values()):
                known = set(
                    tx.conn.scalars(
                        sa.select(_clients.c.client_id).where(
                            _clients.c.incident_id == incident_id,
                            one_of(_clients.c.client_id, [record.client_id for record in chunk]),
                        )
                    )
                )
                fresh = [record for record in chunk if record.client_id not in known]
                if not fresh:
                    continue
                insert_rows(
                    tx.conn,
                    _clients,
                    [
                        {
                            "incident_id": incident_id,
                            "client_id": record.client_id,
                            "name": record.name,
                            "owner": record.owner,
                            "risk": record.risk,
                            "consumers": json.dumps(list(record.consumers)),
                            "linked_accounts": record.linked_accounts,
                            "wave": record.wave,
                            "untouched_reason": record.untouched_reason,
                        }
                        for record in fresh
                    ],
                )
                for record in fresh:
                    tx.log(
                        incident_id,
                        "scope.client",
                        subject=record.client_id,
                        facts={"wave": record.wave, "untouched": record.untouched_reason},
                    )
                new += len(fresh)
        return new

    def clients(self, incident_id: str) -> list[ClientRecord]:
        """The admitted clients by wave and client id."""
        columns = _clients.c
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_clients)
                .where(columns.incident_id == incident_id)
                .order_by(columns.wave, columns.client_id)
            )
            return [
                ClientRecord(
                    client_id=row.client_id,
                    name=row.name,
                    owner=row.owner,
                    risk=row.risk,
                    consumers=tuple(json.loads(row.consumers)),
                    linked_accounts=row.linked_accounts,
                    wave=row.wave,
                    untouched_reason=row.untouched_reason,
                )
                for row in rows
            ]
