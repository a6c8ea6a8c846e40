"""How often something may be asked, counted across all processes that share the ledger.

An exact sliding window: at no moment do more than `limit` allowed calls lie within `per`. Limits
are no incident state, so this alone writes without an audit entry and without the chain's lock.
"""

import hmac
import json
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ledger import schema
from ledger.transaction import Core

_table = schema.throttle
_FORGOTTEN_AT_ONCE = 20
_MICROSECOND = timedelta(microseconds=1)


class Throttle(Core):
    """The portal's limits."""

    def throttle(self, key: str, *, limit: int, per: timedelta) -> bool:
        """True where this call is within the limit; it then counts. A refused call does not, so
        whoever keeps knocking is let in again once `per` has passed. `key` is kept as HMAC."""
        hashed = hmac.digest(self._key, b"throttle\x00" + key.encode(), "sha256").hex()
        insert = sqlite.insert if self._db.is_sqlite else postgresql.insert
        with self._db.write() as conn:
            now = self._clock()
            conn.execute(
                insert(_table)
                .values(key_hash=hashed, hits="[]", forget_at=now + per)
                .on_conflict_do_nothing()
            )
            stored = conn.execute(
                sa.select(_table.c.hits).where(_table.c.key_hash == hashed).with_for_update()
            ).scalar_one()
            # Whole microseconds: floats would blur the window's edge.
            at = int(now.timestamp()) * 1_000_000 + now.microsecond
            hits = [hit for hit in json.loads(stored) if hit > at - per // _MICROSECOND]
            allowed = len(hits) < limit
            if allowed:
                conn.execute(
                    sa.update(_table)
                    .where(_table.c.key_hash == hashed)
                    .values(hits=json.dumps([*hits, at]), forget_at=now + per)
                )
            stale = sa.select(_table.c.key_hash).where(
                _table.c.forget_at < now, _table.c.key_hash != hashed
            )
            # Rows another process holds are skipped: waiting for them could go in a circle.
            stale = stale.limit(_FORGOTTEN_AT_ONCE).with_for_update(skip_locked=True)
            conn.execute(sa.delete(_table).where(_table.c.key_hash.in_(stale)))
        return allowed
