"""Which resets in a log are our own: the forced resets of a containment are resets, too.

Without this the strongest burst after an incident is the one that we made.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

SKEW = timedelta(minutes=5)
"""How far the clock of the SIEM may be from the ledger's."""

Span = tuple[datetime, datetime]
"""[start, end)."""


@dataclass(frozen=True, slots=True)
class OwnResets:
    """Resets by one of `actors`, as the SIEM knows our service account, while the ledger knows us
    to have reset passwords. At any other time our own account is looked at like everybody's:
    somebody may have stolen it."""

    actors: tuple[str, ...]
    contained: tuple[Span, ...]
    """From the first to the last forced reset of each incident."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """When a reset by one of the actors is ours; empty where nobody said who we are."""
        if not self.actors:
            return ()
        return tuple((start - SKEW, end + SKEW) for start, end in self.contained)

    @property
    def unnamed(self) -> tuple[Span, ...]:
        """When resets of ours can't be told from others: no burst is looked for there."""
        return () if self.actors else self.contained
