"""What really changed, so that a judge can say that a second run did nothing."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Effect:
    """One call that changed something: `call` is `resource.verb`, such as `sessions.delete`.
    A call that found its work done already leaves none."""

    call: str
    at: datetime
