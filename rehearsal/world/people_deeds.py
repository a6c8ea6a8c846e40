"""What a person does with our message: opens the link, proves the phone, scans, signs in.

All of it goes over the real pages in whatever language they come, and over the platform's own
front door; nothing is known here that a person could not see.
"""

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random

import aiohttp
import pyotp

from rehearsal.world.cast import AccountSeed, Behaviour
from rehearsal.world.clock import WorldClock
from rehearsal.world.mailbox import Mailboxes
from rehearsal.world.passkey_device import Device, DeviceRefused
from rehearsal.world.people_browser import Browser, Page

_AUTOFILL = re.compile(r"^@\S+ #(\d{6})$", re.MULTILINE)
_ENDING = re.compile(r"•••• (\d{2})")
_SMS_PATIENCE_SECONDS = 15.0
_PRESSES = 3
_MOST_ASKS = 5
_ASKS_AGAIN = timedelta(hours=1)
_LOOKS_AGAIN = timedelta(minutes=1)
_PASSKEY_SHARE = 0.4


@dataclass(slots=True)
class Story:
    """What became of one person; times are the world's."""

    account_id: str
    behaviour: Behaviour
    received: Counter[str] = field(default_factory=Counter)
    """Messages by channel, codes included."""
    first_told_at: datetime | None = None
    links_refused: int = 0
    fresh_links_asked: int = 0
    wrong_codes: int = 0
    enrolled_at: datetime | None = None
    by_passkey: bool = False
    """Whether what he enrolled, and signs in with, is a passkey."""
    login_ok: bool = False
    banners_believed: int = 0
    banners_doubted: int = 0
    """After he asked the portal's page about their signatures."""
    stuck: str = ""
    """The path of the page that sent him to a human being."""
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Person:
    seed: AccountSeed
    story: Story
    link: str = ""
    told: set[str] = field(default_factory=set)
    asked: bool = False
    due: datetime | None = None
    failures: int = 0
    device: Device = field(default_factory=Device, repr=False)

    @property
    def likes_passkeys(self) -> bool:
        """Fixed by the account's id, so that the cast of a seed stays what it was."""
        return hashlib.sha256(self.seed.id.encode()).digest()[0] < _PASSKEY_SHARE * 256


class Surprise(Exception):
    """A page is not what a person could go on with. Says where, never what was typed."""


class Deeds:
    """Acts for people at one portal and one platform. `sharing` is who reads which mailbox."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        portal_url: str,
        platform_url: str,
        mailboxes: Mailboxes,
        sharing: Mapping[str, Sequence[Person]],
        clock: WorldClock,
        rng: Random,
    ) -> None:
        self._http = http
        self._portal_url = portal_url
        self._platform_url = platform_url
        self._mailboxes = mailboxes
        self._sharing = sharing
        self._clock = clock
        self._rng = rng

    async def enroll(self, person: Person) -> timedelta | None:
        """To the end, or to where he can't go on: then the story says where, or a fresh link was
        asked for; the answer is after what time he tries again if none comes. Raises Surprise
        where a page is not usable."""
        if person.story.enrolled_at is not None or person.story.stuck or not person.link:
            return None
        browser = Browser(self._http, self._portal_url, person.seed.locale)
        page = await self._begin(browser, person.link)
        if page.status == 400:
            return await self._ask_fresh_link(browser, person)
        owner = self._owner(page, person)
        if owner is person:
            return await self._finish(browser, page, person)
        # It was the other one's message; now he looks at the one that he took for the other's.
        person.link, owner.link = owner.link, person.link
        await self._finish(browser, page, owner)
        return _LOOKS_AGAIN

    async def _finish(self, browser: Browser, page: Page, person: Person) -> timedelta | None:
        page = await self._prove_phone(browser, page, person)
        if page.status == 400:
            return await self._ask_fresh_link(browser, person)
        if person.story.stuck:
            return None
        secret = ""
        if person.likes_passkeys and "/static/passkey.js" in page.scripts:
            page = await self._make_passkey(browser, page, person)
        else:
            if page.path == "/enroll/choose":
                page = await browser.open("/enroll/authenticator")
            secret = page.by_id.get("secret", "").replace(" ", "")
            if not secret:
                raise Surprise(f"no secret at {page.path} ({page.status})")
            page = await self._confirm(browser, page, person, secret)
        if page.status == 400:
            return await self._ask_fresh_link(browser, person)
        if person.story.stuck:
            return None
        if page.path != "/enroll/done":
            raise Surprise(f"not done at {page.path} ({page.status})")
        person.story.enrolled_at = self._clock.now()
        person.story.by_passkey = not secret
        if secret:
            await self._sign_in(person, secret)
        else:
            await self._sign_in_by_passkey(person)
        return None

    async def _begin(self, browser: Browser, link: str) -> Page:
        address, _, token = link.partition("#t=")
        page = await browser.open(address)
        form = page.forms.get("/enroll/begin")
        if form is None or "/static/enroll.js" not in page.scripts or "token" not in form.fields:
            raise Surprise(f"no way to begin at {page.path} ({page.status})")
        # What the page's script does: the token never was part of a request for a page.
        return await browser.send(form, token=token)

    async def _ask_fresh_link(self, browser: Browser, person: Person) -> timedelta | None:
        story = person.story
        story.links_refused += 1
        if story.fresh_links_asked >= _MOST_ASKS:
            story.stuck = "/fresh-link"
            return None
        page = await browser.open("/fresh-link")
        page = await browser.send(page.forms["/fresh-link"], identifier=person.seed.handle)
        if page.status in (429, 503):
            return timedelta(minutes=self._rng.randint(20, 60))
        if page.status != 200:
            raise Surprise(f"no fresh link ({page.status})")
        story.fresh_links_asked += 1
        person.asked = True
        return _ASKS_AGAIN

    async def _prove_phone(self, browser: Browser, page: Page, person: Person) -> Page:
        phone = person.seed.phone or ""
        before = len(self._mailboxes.of(phone))
        send = page.forms.get("/enroll/code/send")
        if send is None:
            raise Surprise(f"no code can be sent at {page.path} ({page.status})")
        page = await browser.send(send)
        form = page.forms.get("/enroll/code")
        if form is None:
            if page.status in (422, 429):
                person.story.stuck = page.path
            elif page.status != 400:
                raise Surprise(f"no code can be typed at {page.path} ({page.status})")
            return page
        code = await self._code_from(phone, before)
        if person.seed.behaviour is Behaviour.MISTYPES_ONCE and not person.story.wrong_codes:
            page = await browser.send(form, code=_mistyped(code))
            person.story.wrong_codes += 1
            form = page.forms.get("/enroll/code")
            if page.status != 422 or form is None:
                raise Surprise(f"a wrong code was not told so ({page.status})")
        return await browser.send(form, code=code)

    def _owner(self, page: Page, person: Person) -> Person:
        """In a shared mailbox the link may be the other one's: the number's ending tells."""
        ending = _ENDING.search(page.text)
        if ending is None or not person.seed.email:
            return person
        sharing = self._sharing[person.seed.email.lower()]
        fitting = [p for p in sharing if (p.seed.phone or "").endswith(ending[1])]
        return person if person in fitting or not fitting else fitting[0]

    async def _code_from(self, phone: str, before: int) -> str:
        """What the phone fills in by itself: the newest code bound to a site."""
        deadline = asyncio.get_running_loop().time() + _SMS_PATIENCE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            for received in reversed(self._mailboxes.of(phone)[before:]):
                if received.text and (found := _AUTOFILL.search(received.text)):
                    return found[1]
            await asyncio.sleep(0.02)
        raise Surprise("no code came")

    async def _confirm(self, browser: Browser, page: Page, person: Person, secret: str) -> Page:
        for _ in range(_PRESSES):
            form = page.forms.get("/enroll/authenticator")
            if form is None:
                break
            page = await browser.send(form, code=pyotp.TOTP(secret).at(self._clock.now()))
            if page.status != 503:
                break
            await asyncio.sleep(0.2)
        if page.status == 422 and "/enroll/authenticator" not in page.forms:
            person.story.stuck = page.path
        return page

    async def _make_passkey(self, browser: Browser, page: Page, person: Person) -> Page:
        """What the page's script does, and the finger on the phone."""
        form = page.forms["/enroll/passkey"]
        status, options = await browser.fetch(
            "/enroll/passkey/options", csrf=form.fields.get("csrf", "")
        )
        if status == 400:
            return await browser.open("/enroll/choose")
        if status != 200:
            raise Surprise(f"no options for a passkey ({status})")
        try:
            made = person.device.create(options, self._portal_url)
        except DeviceRefused as refused:
            raise Surprise(f"the device made no passkey: {refused}") from None
        page = await browser.send(form, credential=json.dumps(made))
        for _ in range(_PRESSES):
            again = page.forms.get("/enroll/passkey")
            if page.status != 503 or again is None:
                break
            await asyncio.sleep(0.2)
            page = await browser.send(again)
        if page.status == 422 and "/enroll/passkey" not in page.forms:
            person.story.stuck = page.path
        return page

    # ------------------------------------------------------------------ at the platform

    async def _sign_in_by_passkey(self, person: Person) -> None:
        """The front door again, with nothing typed."""
        status, options = await self._call("POST", "/login/passkey/options")
        if status != 200:
            raise Surprise(f"no options to sign in ({status})")
        try:
            signed = person.device.get(options, self._platform_url)
        except DeviceRefused as refused:
            raise Surprise(f"the device signed nothing: {refused}") from None
        status, answer = await self._call("POST", "/login/passkey", signed)
        if status != 200:
            raise Surprise(f"not let in by a passkey ({status})")
        await self._look_around(person, answer)

    async def _sign_in(self, person: Person, secret: str) -> None:
        """A new password by the new authenticator, then the front door."""
        handle, totp = person.seed.handle, pyotp.TOTP(secret)
        password = f"new-{self._rng.getrandbits(96):024x}"
        chosen = {
            "handle": handle,
            "totp": totp.at(self._clock.now()),
            "new_password": password,
        }
        status, _ = await self._call("POST", "/account/password", chosen)
        if status != 204:
            raise Surprise(f"no new password ({status})")
        login = {"handle": handle, "password": password, "totp": totp.at(self._clock.now())}
        status, answer = await self._call("POST", "/login", login)
        if status != 200:
            raise Surprise(f"not let in ({status})")
        await self._look_around(person, answer)

    async def _look_around(self, person: Person, answer: dict[str, object]) -> None:
        status, me = await self._call("GET", "/api/me", bearer=str(answer.get("session")))
        if status != 200 or me.get("sub") != person.seed.id:
            raise Surprise(f"not known inside ({status})")
        person.story.login_ok = True
        await self._look_at_banners(person, str(answer.get("session")))

    async def _look_at_banners(self, person: Person, session: str) -> None:
        """Who finds several notices that don't say the same asks which of them are ours."""
        status, answer = await self._call("GET", "/api/me/banners", bearer=session)
        shown = answer.get("banners")
        if status != 200 or not isinstance(shown, list):
            raise Surprise(f"no notices inside ({status})")
        if len({banner["title"] for banner in shown}) < 2:
            return
        browser = Browser(self._http, self._portal_url, person.seed.locale)
        for banner in shown:
            text = f"{banner['title']}\n{banner['body']}"
            if await ask_the_page(browser, banner["signature"] or "", text) == "yes":
                person.story.banners_believed += 1
            else:
                person.story.banners_doubted += 1

    async def _call(
        self, method: str, path: str, body: object = None, *, bearer: str = ""
    ) -> tuple[int, dict[str, object]]:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        async with self._http.request(
            method, self._platform_url + path, json=body, headers=headers
        ) as response:
            if response.status == 204:
                return 204, {}
            answer = await response.json(content_type=None)
            return response.status, answer if isinstance(answer, dict) else {}


async def ask_the_page(browser: Browser, signature: str, text: str) -> str:
    """What the portal's page says of a signature and the words beside it: "yes", "half" without
    words, "other" for other words, "no"."""
    page = await browser.open("/check/notice")
    page = await browser.send(
        page.forms["/check/notice"], document=signature or "(no signature here)", text=text
    )
    if page.status == 422:
        return "no"  # it has not even the form of one
    said = [name.removeprefix("result-") for name in page.by_id if name.startswith("result-")]
    if page.status != 200 or len(said) != 1:
        raise Surprise(f"nothing was said of a signature ({page.status})")
    return said[0]


def _mistyped(code: str) -> str:
    return code[:-1] + str((int(code[-1]) + 1) % 10)
