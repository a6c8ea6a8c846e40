"""Who has enrolled and was not yet told so: NIST SP 800-63B-4, 4.2.3 has every recovery notified.

Nothing is queued: the binding's own act is the order, and a message about it the receipt, so
neither can be lost without the other.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa

from ledger import schema
from ledger.acts import of_step
from ledger.bulk import one_of
from ledger.transaction import Core, chunks, incident_row, unique
from recovery.accounts import Channel, Verdict

_acts = schema.acts
_bound = schema.acts.alias("bound")
BOUND_STEP = "enroll.bind"
TOLD_STEP = "notify_enrolled"
UNTOLD_STEP = "skip_enrolled"
_MESSAGES = ("notify", "notify_manual", TOLD_STEP)
_WELL = [verdict.value for verdict in Verdict if verdict.settled_well]


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """An enrollment that its person was not told of. `sent` counts messages by channel that went
    or may have gone; `refused` are channels over which this very notice was refused."""

    ref: str
    generation: int
    sent: Mapping[Channel, int] = field(default_factory=dict)
    refused: frozenset[Channel] = frozenset()


class Confirmations(Core):
    """Notices after an enrollment."""

    def unconfirmed(self, incident_id: str, *, limit: int = 500) -> list[Unconfirmed]:
        """The longest wait first. Whose notice has an unknown outcome comes again, to be asked
        for; who could not be told at all (`skip_enrolled`) does not."""
        told = (
            sa.select(sa.literal(1))
            .where(
                _acts.c.incident_id == _bound.c.incident_id,
                _acts.c.subject == _bound.c.subject,
                _acts.c.generation == _bound.c.generation,
                sa.or_(
                    sa.and_(of_step(TOLD_STEP), _acts.c.verdict.in_(_WELL)),
                    _acts.c.step == UNTOLD_STEP,
                ),
            )
            .exists()
        )
        with self._read() as conn:
            incident_row(conn, incident_id)
            rows = conn.execute(
                sa.select(_bound.c.subject, _bound.c.generation)
                .where(
                    _bound.c.incident_id == incident_id,
                    _bound.c.step == BOUND_STEP,
                    _bound.c.verdict.in_(_WELL),
                    ~told,
                )
                .order_by(_bound.c.settled_at, _bound.c.id)
                .limit(limit)
            ).all()
            refs = unique([row.subject for row in rows])
            sent: defaultdict[str, Counter[Channel]] = defaultdict(Counter)
            refused: defaultdict[tuple[str, int], set[Channel]] = defaultdict(set)
            for chunk in chunks(refs):
                for act in conn.execute(
                    sa.select(
                        _acts.c.subject, _acts.c.step, _acts.c.generation, _acts.c.verdict
                    ).where(
                        _acts.c.incident_id == incident_id,
                        one_of(_acts.c.subject, chunk),
                        sa.or_(*(of_step(step) for step in _MESSAGES)),
                    )
                ).all():
                    kind, _, channel = act.step.rpartition(".")
                    if act.verdict != Verdict.REFUSED:
                        # This notice itself, begun and not answered, does not use up its budget.
                        sent[act.subject][Channel(channel)] += kind != TOLD_STEP
                    elif kind == TOLD_STEP:
                        refused[act.subject, act.generation].add(Channel(channel))
        return [
            Unconfirmed(
                row.subject,
                row.generation,
                dict(sent[row.subject]),
                frozenset(refused[row.subject, row.generation]),
            )
            for row in rows
        ]
