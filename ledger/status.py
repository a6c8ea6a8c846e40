"""Which incident is public, in which approved words. The flow decides at the notify gate; the
portal reads."""

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa

from ledger import schema
from ledger.transaction import Core
from recovery.incident import Mark
from recovery.status import PublicStatus, PublicStep, StatusText, public_steps

PUBLIC_MARK = "status.public"
REMEMBERED = timedelta(days=90)
"""How long a closed incident stays on the page."""

_table = schema.public_texts
_incidents = schema.incidents
_marks = schema.marks


class Status(Core):
    """The incident status page."""

    def publish_status(
        self, incident_id: str, texts: Mapping[str, StatusText], *, digest: str
    ) -> None:
        """Make an incident public in exactly these words; `digest` is that of the approved texts.

        The same digest again changes nothing, another one replaces the words. Raises Refused for a
        closed incident.
        """
        with self._write() as tx:
            tx.open_incident(incident_id, "publishing the status")
            of_incident = _table.c.incident_id == incident_id
            known = set(tx.conn.scalars(sa.select(_table.c.digest).where(of_incident)))
            if known == {digest}:
                return
            tx.conn.execute(sa.delete(_table).where(of_incident))
            tx.conn.execute(
                sa.insert(_table),
                [
                    {
                        "incident_id": incident_id,
                        "locale": locale,
                        "texts": _spelled(text),
                        "digest": digest,
                        "at": tx.now,
                    }
                    for locale, text in texts.items()
                ],
            )
            marked = tx.conn.scalar(
                sa.select(_marks.c.at).where(
                    _marks.c.incident_id == incident_id, _marks.c.name == PUBLIC_MARK
                )
            )
            if marked is None:
                tx.conn.execute(
                    sa.insert(_marks).values(incident_id=incident_id, name=PUBLIC_MARK, at=tx.now)
                )
            tx.log(incident_id, "status.published", facts={"digest": digest})

    def public_statuses(self) -> list[PublicStatus]:
        """The incidents that are public, the newest first."""
        now = self._clock()
        with self._read() as conn:
            published = conn.execute(
                sa.select(_marks.c.incident_id, _marks.c.at, _incidents.c.closed_at)
                .join(_incidents, _incidents.c.incident_id == _marks.c.incident_id)
                .where(_marks.c.name == PUBLIC_MARK)
                .order_by(_marks.c.at.desc(), _marks.c.incident_id)
            ).all()
            shown = [
                row
                for row in published
                if row.closed_at is None or now - row.closed_at <= REMEMBERED
            ]
            ids = [row.incident_id for row in shown]
            texts: defaultdict[str, dict[str, StatusText]] = defaultdict(dict)
            for row in conn.execute(sa.select(_table).where(_table.c.incident_id.in_(ids))):
                texts[row.incident_id][row.locale] = _read(row.texts)
            marks: defaultdict[str, list[Mark]] = defaultdict(list)
            for row in conn.execute(sa.select(_marks).where(_marks.c.incident_id.in_(ids))):
                marks[row.incident_id].append(Mark(row.name, row.at))
        return [
            PublicStatus(
                incident_id=row.incident_id,
                published_at=row.at,
                texts=texts[row.incident_id],
                steps=public_steps(marks[row.incident_id], row.closed_at),
            )
            for row in shown
        ]


def _spelled(text: StatusText) -> str:
    steps = {step.value: sentence for step, sentence in text.steps.items()}
    return json.dumps({"title": text.title, "body": text.body, "steps": steps}, ensure_ascii=False)


def _read(stored: str) -> StatusText:
    found = json.loads(stored)
    steps = {PublicStep(name): sentence for name, sentence in found["steps"].items()}
    return StatusText(found["title"], found["body"], steps)
