"""Every lease of a credential in the audit log: taken, revoked or left to end by itself.

A fingerprint of the lease's id, its path, purpose and time; never the credential.
"""

import asyncio
from collections.abc import Mapping

from ledger import Ledger
from recovery.errors import NotFound

EVENT = "platform.lease"


class LeaseLog:
    """Writes when the incident is in the ledger. What comes before it was opened is kept, with its
    time, and written together with the next entry; a dry run of a new incident leaves none."""

    def __init__(self, ledger: Ledger, incident_id: str) -> None:
        self._ledger = ledger
        self._incident_id = incident_id
        self._waiting: list[tuple[str, dict[str, str | int]]] = []

    async def __call__(self, what: str, facts: Mapping[str, str | int]) -> None:
        stamped = {**facts, "at": self._ledger.now().isoformat(timespec="seconds")}
        self._waiting.append((f"{EVENT}.{what}", stamped))
        await asyncio.to_thread(self._write)

    def _write(self) -> None:
        while self._waiting:
            event, facts = self._waiting[0]
            try:
                self._ledger.note(self._incident_id, event, actor="recovery", facts=facts)
            except NotFound:
                return
            self._waiting.pop(0)
