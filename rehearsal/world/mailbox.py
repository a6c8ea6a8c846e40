"""Where mail and text messages end up: what each address and phone received, and who listens."""

import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class Received:
    """One delivered message. `reference` is the vendor's id of it (sg_message_id, SM…)."""

    to: str
    channel: Literal["email", "sms"]
    sender: str
    subject: str | None
    text: str | None
    html: str | None
    reference: str
    at: datetime
    custom_args: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def notice_id(self) -> str:
        """The sender's own id of the notice; without one, a digest of what was said, so that the
        same text received twice is seen as two of one notice."""
        given = self.custom_args.get("notice_id")
        if given is not None:
            return given
        said = json.dumps([self.subject, self.text, self.html])
        return hashlib.sha256(said.encode()).hexdigest()[:16]


_TEXTS = ("to", "channel", "sender", "subject", "text", "html", "reference")
Listener = Callable[[Received], Awaitable[None]]


class Mailboxes:
    """Everyone's mailbox. An e-mail address is one mailbox in whatever case it is written."""

    def __init__(self) -> None:
        self._received: defaultdict[str, list[Received]] = defaultdict(list)
        self._listeners: list[Listener] = []
        self._running: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    def deliver(self, received: Received) -> None:
        """Put it into the mailbox and start every listener on it. Needs a running event loop only
        if somebody listens; does not wait for them."""
        self._received[_key(received.to)].append(received)
        for listener in tuple(self._listeners):
            task = asyncio.ensure_future(_listen(listener, received))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def on_delivery(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` for every message from now on; the result ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def settled(self) -> None:
        """Return when no listener is at work. Raises what the first failing listener raised."""
        while self._running:
            await asyncio.wait(set(self._running))
        if self._failures:
            raise self._failures.pop(0)

    def of(self, to: str) -> tuple[Received, ...]:
        """What this address or phone has received, oldest first."""
        return tuple(self._received.get(_key(to), ()))

    def everything(self) -> tuple[Received, ...]:
        return tuple(received for box in self._received.values() for received in box)

    def counts(self) -> Counter[tuple[str, str]]:
        """How often each (to, notice id) was delivered."""
        return Counter((_key(r.to), r.notice_id) for r in self.everything())

    def received_twice(self) -> dict[tuple[str, str], int]:
        """The (to, notice id) that were delivered more than once."""
        return {key: count for key, count in self.counts().items() if count > 1}

    def digest(self) -> str:
        """Equal before and after means: nobody has received anything in between."""
        lines = sorted(json.dumps(_as_list(received)) for received in self.everything())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)


async def _listen(listener: Listener, received: Received) -> None:
    await listener(received)


def _key(to: str) -> str:
    return to.lower() if "@" in to else to


def _as_list(received: Received) -> list[object]:
    values: list[object] = [getattr(received, name) for name in _TEXTS]
    return [*values, received.at.isoformat(), sorted(received.custom_args.items())]
