"""A portal on loopback among real servers: ledger file, platform, text messages, mailboxes."""

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import aiohttp
from cryptography.fernet import Fernet
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from clients.http import Wire
from clients.platform import PlatformClient
from clients.twilio import TwilioClient
from ledger import Ledger
from portal import PortalSettings, create_app
from recovery.accounts import Act, Affected, Outcome, Placed, Priority, Sighting, Stage, Verdict
from recovery.enroll import Issuer, SigningKey, jwks, mint, new_signing_key
from recovery.incident import Enrollment
from recovery.messages import notice_id
from recovery.notify import authenticity_code
from rehearsal.world.clock import WorldClock
from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.passkey_device import Device
from rehearsal.world.people_browser import Browser, Page
from rehearsal.world.platform_app import platform_app
from rehearsal.world.platform_quota import AdminToken, Scope
from rehearsal.world.platform_state import PlatformState
from rehearsal.world.population import Population
from rehearsal.world.serving import Loopback
from rehearsal.world.twilio_app import TwilioApp

INCIDENT = "INC-2026-0142"
LEDGER_KEY = b"ledger-key-" * 4
CODE_KEY = "code-key-" * 5
BIND_TOKEN = "bind-token"
ACCOUNT_SID = "AC" + "0" * 32
SENDER = "+12125550100"
_empty_ledger: list[bytes] = []


class LateApp:
    """Its address must be known before the app is made."""

    app: ASGIApp | None = None

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@dataclass
class PortalWorld:
    population: Population
    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    database: str = ""
    """Another ledger than a file of its own, empty so far."""

    async def __aenter__(self) -> Self:
        self.stack = AsyncExitStack()
        self.clock = WorldClock(self.folder / "clock-offset")
        self.mailboxes = Mailboxes()
        self.platform = PlatformState(
            self.population,
            self.clock,
            admin_tokens=[
                AdminToken(BIND_TOKEN, frozenset({Scope.BIND}), per_second=500, concurrent=100)
            ],
            latency=timedelta(0),
        )
        self.twilio = TwilioApp(
            self.clock.now,
            self.mailboxes,
            account_sid=ACCOUNT_SID,
            auth_token="auth-token",
            senders=[SENDER],
            opted_out=[
                a.phone for a in self.population.accounts.values() if a.opted_out and a.phone
            ],
            per_second=1000,
            delay_seconds=(0.0, 0.01),
        )
        self.platform_server = await self.stack.enter_async_context(
            Loopback(platform_app(self.platform))
        )
        self.sms_server = await self.stack.enter_async_context(Loopback(self.twilio))
        self.ledger = Ledger(self.ledger_url, key=LEDGER_KEY, clock=self.clock.now, actor="portal")
        self.stack.callback(self.ledger.close)
        self._lay_out_ledger()
        now = self.clock.now()
        self.ledger.open_incident(
            INCIDENT,
            window_start=now - timedelta(hours=1),
            window_end=now,
            runbook_digest="0" * 64,
            runbook_commit="0" * 40,
            requested_by="maya",
        )
        self.key, self.key_pem = new_signing_key("k1")
        self.notice_key, self.notice_pem = new_signing_key("n1")
        late = LateApp()
        server = Loopback(late)
        # Passkeys are made for a name; browsers make none for an address.
        self.url = server.url.replace("127.0.0.1", "localhost")
        self.parties = Issuer("recovery.example", self.url)
        self.settings = PortalSettings.model_validate(self.settings_given())
        late.app = create_app(
            self.settings,
            ledger=self.ledger,
            platform=PlatformClient(await self.stack.enter_async_context(self.platform_wire())),
            sms=await self._sms(),
            clock=self.clock.now,
        )
        self.portal_server = await self.stack.enter_async_context(server)
        self.http = await self.stack.enter_async_context(
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.close()
        servers = (self.portal_server, self.platform_server, self.sms_server)
        await asyncio.gather(*(server.stop() for server in servers))
        await self.stack.aclose()

    def _lay_out_ledger(self) -> None:
        """Migrated once in a test run; the others begin with a copy of the empty tables."""
        if self.database:
            self.ledger.migrate()
            return
        path = self.folder / "ledger" / "ledger.db"
        if not _empty_ledger:
            self.ledger.migrate()
            self.ledger.close()
            _empty_ledger.append(path.read_bytes())
        else:
            path.parent.mkdir(mode=0o700)
            path.touch(mode=0o600)
            path.write_bytes(_empty_ledger[0])

    @property
    def ledger_url(self) -> str:
        if self.database:
            return self.database
        return f"sqlite:///{self.folder / 'ledger' / 'ledger.db'}"

    def settings_given(self) -> dict[str, Any]:
        return {
            "public_url": self.url,
            "organization": "Example Social",
            "site": "accounts.example.com",
            "issuer": {"issuer": self.parties.issuer, "audience": self.parties.audience},
            "jwks": jwks([self.key]),
            "notice_jwks": jwks([self.notice_key]),
            "seal_key": Fernet.generate_key().decode(),
            "code_key": CODE_KEY,
            "answer_floor": timedelta(milliseconds=20),
            **self.overrides,
        }

    def platform_wire(self) -> Wire:
        return Wire(
            "the platform",
            self.platform_server.url,
            headers={"Authorization": SecretStr(f"Bearer {BIND_TOKEN}")},
            attempts=1,
        )

    async def _sms(self) -> TwilioClient:
        wire = await self.stack.enter_async_context(Wire("Twilio", self.sms_server.url, attempts=1))
        return TwilioClient(
            ACCOUNT_SID,
            (ACCOUNT_SID, SecretStr("auth-token")),
            wire,
            messaging_service_sid=None,
            from_number=SENDER,
            status_callback=None,
        )

    # ------------------------------------------------------------------ what flows do

    def contain(self, account_ids: Iterable[str]) -> None:
        """Admits accounts and brings them, in the ledger and at the platform, to CONTAINED."""
        ids = list(account_ids)
        now = self.clock.now()
        self.ledger.record_sightings(INCIDENT, [Sighting(i, now, now, 1, "okta") for i in ids])
        self.ledger.admit(INCIDENT, [Placed(self._affected(i), 0, 0) for i in ids])
        for account in self.ledger.accounts(INCIDENT):
            self.refs[account.account_id] = account.ref
        acts = [Act(self.refs[i], "contain.revoke") for i in ids]
        self.ledger.intend(INCIDENT, acts)
        done = [Outcome(act, Verdict.DONE) for act in acts]
        self.ledger.settle(INCIDENT, done, advance=Stage.CONTAINED)
        for one in ids:
            self.platform.force_reset(one)
            self.platform.remove_authenticators(one)

    def _affected(self, account_id: str) -> Affected:
        seed, now = self.population.accounts[account_id], self.clock.now()
        return Affected(
            account_id,
            seed.handle,
            seed.email,
            seed.phone,
            seed.last_active,
            seed.linked_apps,
            seed.locale,
            Priority.NORMAL,
            (),
            now,
            now,
            1,
        )

    def issue(self, account_id: str, *, ttl: timedelta = timedelta(minutes=15)) -> Enrollment:
        """A fresh, armed enrollment whose message has been sent."""
        ref = self.refs[account_id]
        self.ledger.issue(INCIDENT, [ref])
        [enrollment] = self.ledger.arm(INCIDENT, [ref], ttl=ttl)
        act = Act(ref, "notify.email", enrollment.generation)
        self.ledger.intend(INCIDENT, [act])
        self.ledger.settle(INCIDENT, [Outcome(act, Verdict.DONE)], advance=Stage.NOTIFIED)
        return enrollment

    def link(self, enrollment: Enrollment, key: SigningKey | None = None) -> str:
        return f"{self.url}/enroll#t={mint(enrollment, key or self.key, self.parties)}"

    def invite(self, account_id: str) -> str:
        """Issues, and delivers the mail with the link."""
        enrollment = self.issue(account_id)
        link, seed = self.link(enrollment), self.population.accounts[account_id]
        notice = notice_id(enrollment.ref, "notify.email", enrollment.generation)
        self.mailboxes.deliver(
            Received(
                to=seed.email or "",
                channel="email",
                sender="security@example.com",
                subject="Your account needs a new authenticator",
                text=f"Hello {seed.handle}, open {link}\nCheck code: {self.check_code(notice)}",
                html=f'<p>Hello {seed.handle}, <a href="{link}">set it up</a>.</p>',
                reference=notice,
                at=self.clock.now(),
                custom_args={"notice_id": notice},
            )
        )
        return link

    def check_code(self, notice: str) -> str:
        return authenticity_code(CODE_KEY.encode(), notice)

    # ------------------------------------------------------------------ what people do

    def browser(self, language: str = "en") -> Browser:
        return Browser(self.http, self.url, language)

    async def begin(self, browser: Browser, link: str) -> Page:
        address, _, token = link.partition("#t=")
        page = await browser.open(address)
        return await browser.send(page.forms["/enroll/begin"], token=token)

    async def sms_code(self, account_id: str, nth: int = -1) -> str:
        """The newest code that the account's phone got."""
        await self.twilio.settled()
        received = self.mailboxes.of(self.population.accounts[account_id].phone or "")
        assert received, "no text message came"
        return (received[nth].text or "").rpartition("#")[2].strip()

    async def to_authenticator(self, browser: Browser, account_id: str, link: str) -> Page:
        page = await self.begin(browser, link)
        page = await browser.send(page.forms["/enroll/code/send"])
        code = await self.sms_code(account_id)
        page = await browser.send(page.forms["/enroll/code"], code=code)
        assert page.path in ("/enroll/choose", "/enroll/authenticator"), page.text
        page = await browser.open("/enroll/authenticator")
        assert page.path == "/enroll/authenticator", page.text
        return page

    async def to_choice(self, browser: Browser, account_id: str, link: str) -> Page:
        await self.to_authenticator(browser, account_id, link)
        page = await browser.open("/enroll/choose")
        assert page.path == "/enroll/choose", page.text
        return page

    async def passkey_options(self, browser: Browser, page: Page) -> dict[str, Any]:
        """What the page's script asks for before it asks the device."""
        csrf = page.forms["/enroll/passkey"].fields["csrf"]
        status, options = await browser.fetch("/enroll/passkey/options", csrf=csrf)
        assert status == 200, status
        return options

    async def make_passkey(self, browser: Browser, page: Page, device: Device) -> Page:
        options = await self.passkey_options(browser, page)
        made = json.dumps(device.create(options, self.url))
        return await browser.send(page.forms["/enroll/passkey"], credential=made)

    # ------------------------------------------------------------------ the truth

    def stage(self, account_id: str) -> Stage:
        return self.ledger.account(self.refs[account_id]).stage

    def ledger_digest(self) -> str:
        """Equal before and after means that not one row was written."""
        with closing(sqlite3.connect(self.folder / "ledger" / "ledger.db")) as database:
            return hashlib.sha256("\n".join(database.iterdump()).encode()).hexdigest()
