"""Who else reads the mail: a scanner that opens every link, a phisher who has some mailboxes.

Neither of them may change anything: the scanner because opening has no effect, the phisher
because the phone is not his.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from random import Random
from typing import Self

import aiohttp

from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.people import LINK
from rehearsal.world.people_browser import Browser, Page

_ANY_LINK = re.compile(r"https?://[^\s\"'<>]+")
_LIMIT = aiohttp.ClientTimeout(total=30)


class Listening:
    """Hears of every message while inside `async with`."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._http: aiohttp.ClientSession | None = None
        self._deafen: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=_LIMIT)
        self._deafen = self._mailboxes.on_delivery(self.hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._deafen is not None:
            self._deafen()
        if self._http is not None:
            await self._http.close()

    async def hear(self, received: Received) -> None:
        raise NotImplementedError

    def client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise RuntimeError("only inside `async with`")
        return self._http


class MailScanner(Listening):
    """Opens every link in every mail on the hosts it may reach, by GET and by HEAD, twice."""

    def __init__(self, mailboxes: Mailboxes, sites: Iterable[str]) -> None:
        super().__init__(mailboxes)
        self._sites = tuple(site.rstrip("/") for site in sites)
        self.answers: Counter[tuple[str, int]] = Counter()
        """How often each method got each status."""

    async def hear(self, received: Received) -> None:
        if received.channel != "email":
            return
        for link in sorted(set(_ANY_LINK.findall(f"{received.text} {received.html}"))):
            if link.startswith(self._sites):
                for method in ("HEAD", "GET", "HEAD", "GET"):
                    await self._open(method, link.partition("#")[0])

    async def _open(self, method: str, link: str) -> None:
        async with self.client().request(method, link, allow_redirects=False) as response:
            await response.read()
            self.answers[method, response.status] += 1


class Reached(IntEnum):
    """How far a phisher got, each further than the one before."""

    NOTHING = 0
    MAIL = 1
    SESSION = 2
    CODE_SENT = 3
    """The code went to the owner of the phone."""
    SECRET_SEEN = 4
    ENROLLED = 5


@dataclass(slots=True)
class Raid:
    """What a phisher got out of one mailbox."""

    reached: Reached = Reached.NOTHING
    guesses: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    """Pages that turned him away, as `path status`."""


class Phisher(Listening):
    """Reads the mail of a few addresses and is faster than their owners. He has no phone."""

    def __init__(
        self,
        portal_url: str,
        mailboxes: Mailboxes,
        addresses: Iterable[str],
        rng: Random,
        *,
        guesses: int = 8,
    ) -> None:
        super().__init__(mailboxes)
        self._portal_url = portal_url.rstrip("/")
        self._rng = rng
        self._guesses = guesses
        self.raids: dict[str, Raid] = {address.lower(): Raid() for address in addresses}

    @property
    def furthest(self) -> Reached:
        return max((raid.reached for raid in self.raids.values()), default=Reached.NOTHING)

    async def hear(self, received: Received) -> None:
        raid = self.raids.get(received.to.lower())
        found = LINK.search(f"{received.text}\n{received.html}")
        if received.channel != "email" or raid is None or found is None:
            return
        raid.reached = max(raid.reached, Reached.MAIL)
        try:
            await self._raid(raid, found[0])
        except (aiohttp.ClientError, TimeoutError) as error:
            raid.refusals[type(error).__name__] += 1

    async def _raid(self, raid: Raid, link: str) -> None:
        browser = Browser(self.client(), self._portal_url)
        address, _, token = link.partition("#t=")
        page = await browser.open(address)
        page = await browser.send(page.forms["/enroll/begin"], token=token)
        send = page.forms.get("/enroll/code/send")
        if send is None:
            self._turned_away(raid, page)
            return
        raid.reached = max(raid.reached, Reached.SESSION)
        for path in ("/enroll/choose", "/enroll/authenticator", "/enroll/done"):
            self._look(raid, await browser.open(path))
        # The form he has is good for his own session: he tries the doors behind this one.
        send.action = "/enroll/authenticator"
        self._look(raid, await browser.send(send, code="000000"))
        csrf = send.fields.get("csrf", "")
        status, options = await browser.fetch("/enroll/passkey/options", csrf=csrf)
        if options:
            raid.reached = max(raid.reached, Reached.SECRET_SEEN)
        else:
            raid.refusals[f"/enroll/passkey/options {status}"] += 1
        send.action = "/enroll/code/send"
        page = await browser.send(send)
        form = page.forms.get("/enroll/code")
        if form is None:
            self._turned_away(raid, page)
            return
        raid.reached = max(raid.reached, Reached.CODE_SENT)
        for _ in range(self._guesses):
            raid.guesses += 1
            page = await browser.send(form, code=f"{self._rng.randrange(10**6):06}")
            self._look(raid, page)
            if page.status != 422 or "/enroll/code" not in page.forms:
                break
            await asyncio.sleep(0)

    def _look(self, raid: Raid, page: Page) -> None:
        if page.by_id.get("secret"):
            raid.reached = max(raid.reached, Reached.SECRET_SEEN)
        elif page.path == "/enroll/done" and page.status == 200:
            raid.reached = max(raid.reached, Reached.ENROLLED)
        else:
            self._turned_away(raid, page)

    @staticmethod
    def _turned_away(raid: Raid, page: Page) -> None:
        raid.refusals[f"{page.path} {page.status}"] += 1
