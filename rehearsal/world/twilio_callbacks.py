"""Twilio's status callbacks: signed form posts, one for each change of a message's status.

X-Twilio-Signature is the base64 HMAC-SHA1, under the account's auth token, of the URL followed by
every parameter's name and value in order of the names (Twilio's page on webhook security).
"""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Mapping

import aiohttp

SIGNATURE_HEADER = "X-Twilio-Signature"
_ATTEMPTS = 2  # Twilio tries again once, and only where no answer came
_AT_ONCE = 8
_PAUSE_SECONDS = 0.05


def sign(auth_token: str, url: str, parameters: Mapping[str, str]) -> str:
    text = url + "".join(name + parameters[name] for name in sorted(parameters))
    digest = hmac.new(auth_token.encode(), text.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


class StatusCallbacks:
    """Posts callbacks in the background; `unanswered` counts those that nobody answered."""

    def __init__(self, auth_token: str) -> None:
        self.posted = 0
        self.unanswered = 0
        self._auth_token = auth_token
        self._posting: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    def post(self, url: str, parameters: Mapping[str, str], after_seconds: float = 0.0) -> None:
        """Needs a running event loop. `after_seconds` lets later callbacks overtake this one."""
        task = asyncio.ensure_future(self._post(url, parameters, after_seconds))
        self._posting.add(task)
        task.add_done_callback(self._posting.discard)

    async def drained(self) -> None:
        while self._posting:
            await asyncio.wait(set(self._posting))

    async def aclose(self) -> None:
        posting = set(self._posting)
        for task in posting:
            task.cancel()
        if posting:
            await asyncio.wait(posting)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _post(self, url: str, parameters: Mapping[str, str], after_seconds: float) -> None:
        if after_seconds > 0:
            await asyncio.sleep(after_seconds)
        async with self._slots:
            for attempt in range(_ATTEMPTS):
                if attempt:
                    await asyncio.sleep(_PAUSE_SECONDS)
                if await self._answered(url, parameters):
                    self.posted += 1
                    return
        self.unanswered += 1

    async def _answered(self, url: str, parameters: Mapping[str, str]) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        headers = {SIGNATURE_HEADER: sign(self._auth_token, url, parameters)}
        try:
            async with self._session.post(
                url, data=dict(parameters), headers=headers, allow_redirects=False
            ):
                return True
        except (aiohttp.ClientError, TimeoutError):
            return False
