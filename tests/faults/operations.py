"""Every kind of call that a phase makes on an outside system, ready to be made at any address."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import SecretStr

from clients.health import probe_health
from clients.http import Timeouts, Wire
from clients.jenkins import JenkinsClient
from clients.oauth import OAuthClient
from clients.platform import PlatformClient
from clients.sendgrid import SendGridClient
from clients.siem import ElasticsearchClient
from clients.siem_presets import chosen
from clients.twilio import TwilioClient
from clients.vault import VaultClient
from recovery.contain import CredentialKind
from recovery.messages import BannerCopy, EmailCopy, EmailText, SmsCopy

START = datetime(2026, 3, 14, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)
CANARIES = (
    "canary-token",
    "canary-secret",
    "canary@example.com",
    "+4915112345678",
    "canary-code",
    "canary-text",
)
"""What stands in requests and must never stand in an error."""
QUICK = Timeouts(
    connect=timedelta(seconds=5),
    read=timedelta(seconds=2),
    attempt=timedelta(seconds=3),
    waiting=timedelta(seconds=20),
)
Call = Callable[[str], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Operation:
    """`phase` names who calls it; `call` makes it at a base URL."""

    phase: str
    system: str
    name: str
    call: Call

    @property
    def title(self) -> str:
        return f"{self.phase}: {self.system}, {self.name}"


async def no_waiting(_: float) -> None:
    return


def wire(name: str, url: str) -> Wire:
    return Wire(
        name,
        url,
        timeout=QUICK,
        attempts=2,
        sleep=no_waiting,
        jitter=random.Random(1),
        headers={"Authorization": SecretStr("Bearer canary-token")},
    )


def platform(act: Callable[[PlatformClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        async with PlatformClient(wire("the platform", url)) as client:
            return await act(client)

    return call


def oauth(act: Callable[[OAuthClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        bare = Wire("OAuth", url, timeout=QUICK, attempts=2, sleep=no_waiting)
        async with OAuthClient(bare) as client:
            return await act(client)

    return call


def siem(act: Callable[[ElasticsearchClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        kinds = chosen(("okta", "ecs"))
        async with ElasticsearchClient(wire("the SIEM", url), index="logs-*", presets=kinds) as it:
            return await act(it)

    return call


def vault(act: Callable[[VaultClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        async with VaultClient(
            url,
            token=SecretStr("canary-token"),
            timeout=timedelta(seconds=2),
            sleep=no_waiting,
            jitter=random.Random(1),
        ) as client:
            return await act(client)

    return call


def jenkins() -> Call:
    async def call(url: str) -> object:
        async with JenkinsClient(wire("Jenkins", url), sleep=no_waiting) as client:
            return await client.run("restart", {"CONSUMER": "web"}, timeout=timedelta(seconds=10))

    return call


def sendgrid(act: Callable[[SendGridClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        async with SendGridClient(
            wire("SendGrid", url), sender_email="us@example.com", sender_name="Us"
        ) as client:
            return await act(client)

    return call


def twilio(act: Callable[[TwilioClient], Awaitable[object]]) -> Call:
    async def call(url: str) -> object:
        bare = Wire("Twilio", url, timeout=QUICK, attempts=2, sleep=no_waiting)
        async with TwilioClient(
            "AC" + "0" * 32, ("AC" + "0" * 32, SecretStr("canary-secret")), bare, from_number="+1"
        ) as client:
            return await act(client)

    return call


async def health(url: str) -> object:
    async with Wire("the consumers", None, timeout=QUICK, attempts=2, sleep=no_waiting) as any_host:
        return (await probe_health(any_host, f"{url}/health")).ok


async def drained(pages: AsyncIterator[object]) -> int:
    return sum([1 async for _ in pages])


SECRET = SecretStr("canary-secret")
TOKEN = SecretStr("canary-token")
BANNER = BannerCopy("acc-1.notify.in_app.1", "u-1", "title", "canary-text", None, "canary-code")
MAIL = EmailText("subject", "canary-text", "<p>canary-text</p>")
COPY = EmailCopy("acc-1.notify.email.1", "canary@example.com", {"code": "canary-code"})
SMS = SmsCopy("acc-1.notify.sms.1", "+4915112345678", "canary-text", HOUR)

OPERATIONS = (
    Operation(
        "detect",
        "SIEM",
        "count resets",
        siem(lambda c: c.reset_counts(START, START + HOUR, timedelta(minutes=1))),
    ),
    Operation(
        "detect", "SIEM", "list accounts", siem(lambda c: drained(c.sightings(START, START + HOUR)))
    ),
    Operation("detect", "platform", "look up accounts", platform(lambda c: c.roster(["u-1"]))),
    Operation(
        "contain",
        "platform",
        "revoke sessions",
        platform(lambda c: c.revoke("u-1", CredentialKind.SESSIONS)),
    ),
    Operation(
        "contain",
        "platform",
        "force a reset",
        platform(lambda c: c.force_password_reset("u-1")),
    ),
    Operation("contain", "platform", "ask what lives", platform(lambda c: c.live("u-1"))),
    Operation(
        "contain", "RFC 7009", "revoke a token", oauth(lambda c: c.revoke("app", SECRET, TOKEN))
    ),
    Operation(
        "contain", "RFC 7662", "ask for a token", oauth(lambda c: c.active("app", SECRET, TOKEN))
    ),
    Operation(
        "enroll",
        "platform",
        "remove authenticators",
        platform(lambda c: c.remove_authenticators("u-1")),
    ),
    Operation("enroll", "Vault", "read the signing key", vault(lambda c: c.get("recovery/key"))),
    Operation(
        "notify",
        "SendGrid",
        "send",
        sendgrid(lambda c: c.send(MAIL, [COPY], category="recovery")),
    ),
    Operation(
        "notify", "SendGrid", "search", sendgrid(lambda c: c.found(["acc-1.notify.email.1"]))
    ),
    Operation("notify", "Twilio", "send", twilio(lambda c: c.send(SMS))),
    Operation(
        "notify", "Twilio", "list sent", twilio(lambda c: c.sent_since("+4915112345678", START))
    ),
    Operation("notify", "in-app", "post a banner", platform(lambda c: c.post_banner(BANNER))),
    Operation("notify", "in-app", "list banners", platform(lambda c: c.banner_keys("u-1"))),
    Operation("rotate", "platform", "list clients", platform(lambda c: c.app_clients(["app"]))),
    Operation(
        "rotate", "platform", "create a secret", platform(lambda c: c.create_secret("app", "m"))
    ),
    Operation("rotate", "platform", "list secrets", platform(lambda c: c.client_secrets("app"))),
    Operation(
        "rotate",
        "platform",
        "deactivate a secret",
        platform(lambda c: c.deactivate_secret("app", "s")),
    ),
    Operation(
        "rotate", "platform", "delete a secret", platform(lambda c: c.delete_secret("app", "s"))
    ),
    Operation("rotate", "Vault", "look at the labels", vault(lambda c: c.observe("apps/app"))),
    Operation(
        "rotate",
        "Vault",
        "write by check-and-set",
        vault(lambda c: c.put("apps/app", {"client_secret": SECRET}, cas=1)),
    ),
    Operation("rotate", "CI", "restart a consumer", jenkins()),
    Operation("rotate", "consumer", "ask for its health", health),
    Operation("rotate", "OAuth", "get a token", oauth(lambda c: c.client_token("app", SECRET))),
    Operation(
        "validate",
        "platform",
        "try a password",
        platform(lambda c: c.login("canary@example.com", SECRET)),
    ),
    Operation("validate", "API", "try a token", oauth(lambda c: c.me(TOKEN))),
    Operation("report", "Vault", "sign a checkpoint", vault(lambda c: c.sign("key", b"text"))),
    Operation("(gates)", "Vault", "check a code", vault(lambda c: c.verify_code("maya", "123456"))),
)
