"""Ships the platform's log of authenticating app clients to the SIEM while the world is live.

ECS has no words for an OAuth client: action and field are the platform's own, the rest is ECS.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from rehearsal.world.siem_errors import Json

ACTION = "client-authentication"
CLIENT_FIELD = "client.user.id"
LAG = timedelta(milliseconds=300)
"""From the event until a search can find it."""


class AuthLog:
    """To be made `ClientBook.listener`; `append` is the SIEM's."""

    def __init__(
        self,
        append: Callable[[Iterable[Mapping[str, Json]]], None],
        clock: Callable[[], datetime],
        lag: timedelta = LAG,
    ) -> None:
        self._append = append
        self._clock = clock
        self._lag = lag

    def __call__(self, client_id: str, accepted: bool) -> None:
        now = self._clock()
        event = {
            "kind": "event",
            "category": ["authentication"],
            "type": ["start"],
            "action": ACTION,
            "outcome": "success" if accepted else "failure",
            "dataset": "platform.api",
            "ingested": (now + self._lag).isoformat(),
        }
        document: Mapping[str, Json] = {
            "@timestamp": now.isoformat(),
            "event": event,
            "client": {"user": {"id": client_id}},
        }
        self._append([document])
