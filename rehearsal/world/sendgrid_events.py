"""SendGrid's event webhook: signed JSON arrays, retried until 2xx, sometimes twice or out of order.

The signature is ECDSA on P-256 over timestamp + raw body, in base64 DER, as SendGrid's page on the
Signed Event Webhook has it.
"""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rehearsal.world.chance import chance

SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"

_BATCH = 500
_GATHER_SECONDS = 0.02
_ATTEMPTS = 6
_FIRST_PAUSE_SECONDS = 0.05
_AT_ONCE = 4

Event = Mapping[str, Any]


class EventWebhook:
    """Posts events to `url` (None: nobody listens, events are dropped).

    `twice` and `held` are the shares of events that are sent a second time and that miss their
    batch, `mixed` that of batches in no order. A batch that is not accepted after all attempts is
    kept in `undelivered`.
    """

    def __init__(
        self,
        clock: Callable[[], datetime],
        url: str | None = None,
        *,
        seed: int = 0,
        twice: float = 0.03,
        held: float = 0.05,
        mixed: float = 0.3,
    ) -> None:
        self.url = url
        self.undelivered: list[Event] = []
        self.attempts = 0
        self._clock = clock
        self._seed = seed
        self._twice = twice
        self._held = held
        self._mixed = mixed
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._queue: list[Event] = []
        self._gathering: asyncio.Task[None] | None = None
        self._posting: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    @property
    def public_key(self) -> str:
        """Base64 of the key's SubjectPublicKeyInfo without PEM armour, as SendGrid shows it."""
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    def emit(self, events: Sequence[Event]) -> None:
        """Queue events; they are posted by and by. Needs a running event loop."""
        if self.url is None:
            return
        self._queue.extend(events)
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.ensure_future(self._gather())

    async def drained(self) -> None:
        """Return when every event was accepted or given up."""
        while (working := self._working()) or self._queue:
            if working:
                await asyncio.wait(working)
            elif self._queue:
                self._gathering = asyncio.ensure_future(self._gather())

    async def aclose(self) -> None:
        working = self._working()
        for task in working:
            task.cancel()
        if working:
            await asyncio.wait(working)
        self._queue.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _working(self) -> set[asyncio.Task[None]]:
        tasks = set(self._posting)
        if self._gathering is not None and not self._gathering.done():
            tasks.add(self._gathering)
        return tasks

    async def _gather(self) -> None:
        again: list[Event] = []
        while self._queue or again:
            await asyncio.sleep(_GATHER_SECONDS)
            batch, self._queue = self._queue[:_BATCH], self._queue[_BATCH:]
            late = [self._falls(self._held, event, "held") for event in batch]
            prompt = again + [
                event for event, is_late in zip(batch, late, strict=True) if not is_late
            ]
            again = [event for event, is_late in zip(batch, late, strict=True) if is_late]
            again += [event for event in batch if self._falls(self._twice, event, "twice")]
            if prompt:
                if self._falls(self._mixed, prompt[0], "mixed"):
                    prompt.sort(key=lambda event: chance(self._seed, event["sg_event_id"]))
                task = asyncio.ensure_future(self._post(prompt))
                self._posting.add(task)
                task.add_done_callback(self._posting.discard)

    def _falls(self, share: float, event: Event, what: str) -> bool:
        return chance(self._seed, event["sg_event_id"], what) < share

    async def _post(self, events: Sequence[Event]) -> None:
        body = json.dumps(list(events), separators=(",", ":")).encode()
        pause = _FIRST_PAUSE_SECONDS
        async with self._slots:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(pause)
                    pause *= 2
                if await self._accepted(body):
                    return
        self.undelivered.extend(events)

    async def _accepted(self, body: bytes) -> bool:
        if self.url is None:
            return False
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        timestamp = str(int(self._clock().timestamp()))
        signature = self._key.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = {
            "Content-Type": "application/json",
            SIGNATURE_HEADER: base64.b64encode(signature).decode(),
            TIMESTAMP_HEADER: timestamp,
        }
        self.attempts += 1
        try:
            async with self._session.post(
                self.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return 200 <= answer.status < 300
        except (aiohttp.ClientError, TimeoutError):
            return False
