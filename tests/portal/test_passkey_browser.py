"""Passkeys in a real Chromium with its virtual authenticator, and what its page says when not."""

import asyncio
import json
from datetime import timedelta

import pytest

from portal.texts import catalog
from recovery.accounts import Stage
from rehearsal.world.faults import Status
from tests.portal.chromium import BINARY, Chromium
from tests.portal.world import PortalWorld

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"there is no {BINARY}")
SAYS = "document.getElementById('says')"
DONE = "location.pathname === '/enroll/done' && document.readyState === 'complete'"


async def to_choice(chromium: Chromium, world: PortalWorld, account_id: str, link: str) -> None:
    await chromium.open(link)
    await chromium.click("form button")
    await chromium.click("form button")
    await chromium.type("#code", await world.sms_code(account_id))
    await chromium.press_enter()
    assert await chromium.run("location.pathname") == "/enroll/choose"


async def told(chromium: Chromium, key: str, tag: str = "en") -> None:
    """The sentence stands there, and the focus is on it for who cannot see it."""
    await chromium.until(f"!{SAYS}.hidden")
    assert await chromium.run(f"{SAYS}.textContent") == catalog()[tag](key)


async def test_a_person_with_a_passkey(world: PortalWorld, person: str) -> None:
    async with Chromium() as chromium:
        phone = await chromium.authenticator()
        await chromium.width(390)
        await to_choice(chromium, world, person, world.invite(person))
        assert await chromium.run("document.getElementById('scriptless').hidden")
        await chromium.press("#start")
        await chromium.until(DONE)
        [kept] = await chromium.passkeys(phone)
        assert kept["isResidentCredential"]
        assert kept["rpId"] == "localhost"
        assert world.stage(person) is Stage.ENROLLED
        [bound] = world.platform.authenticators_of(person)
        assert bound.passkey is not None
        assert "internal" in bound.passkey.transports
        assert not chromium.complaints()

        # What Chromium keeps opens the account at the platform's own front door.
        site = world.platform_server.url
        async with world.http.post(f"{site}/login/passkey/options") as answer:
            options = await answer.json()
        signed = await chromium.run(_GET.replace("OPTIONS", json.dumps(options)))
        async with world.http.post(f"{site}/login/passkey", data=signed) as answer:
            assert answer.status == 200, await answer.text()


_GET = """(async () => {
  const options = PublicKeyCredential.parseRequestOptionsFromJSON(OPTIONS);
  const made = await navigator.credentials.get({publicKey: options});
  return JSON.stringify(made.toJSON());
})()"""


@pytest.mark.parametrize("tag", ["en", "ja"])
async def test_who_cancels_is_told_and_tries_again(
    world: PortalWorld, person: str, tag: str
) -> None:
    async with Chromium() as chromium:
        await chromium.languages(tag)
        phone = await chromium.authenticator(isUserVerified=False)
        await to_choice(chromium, world, person, world.invite(person))
        await chromium.press("#start")
        await told(chromium, "passkey.cancelled", tag)
        assert await chromium.run("document.activeElement.id") == "says"
        assert not await chromium.run("document.getElementById('start').disabled")
        assert not await chromium.passkeys(phone)
        assert world.stage(person) is Stage.NOTIFIED

        await chromium.unplug(phone)
        await chromium.authenticator()
        await chromium.press("#start")
        await chromium.until(DONE)
        assert world.stage(person) is Stage.ENROLLED


async def test_a_device_that_knows_nobody_is_told(world: PortalWorld, person: str) -> None:
    """A key without PIN or fingerprint cannot verify its user; Chromium refuses it."""
    async with Chromium() as chromium:
        await chromium.authenticator(
            transport="usb", hasUserVerification=False, isUserVerified=False
        )
        await to_choice(chromium, world, person, world.invite(person))
        await chromium.press("#start")
        await chromium.until(f"!{SAYS}.hidden")
        words = await chromium.run(f"{SAYS}.textContent")
        assert words in {catalog()["en"](f"passkey.{k}") for k in ("cancelled", "unfit")}
        assert not world.platform.authenticators_of(person)


async def test_every_refusal_has_its_sentence(world: PortalWorld, person: str) -> None:
    refusals = {
        "NotAllowedError": "passkey.cancelled",
        "InvalidStateError": "passkey.exists",
        "NotSupportedError": "passkey.unfit",
        "ConstraintError": "passkey.unfit",
        "SecurityError": "passkey.address",
        "UnknownError": "passkey.busy",
    }
    async with Chromium() as chromium:
        await to_choice(chromium, world, person, world.invite(person))
        for thrown, key in refusals.items():
            await chromium.run(
                "navigator.credentials.create = () => "
                f"Promise.reject(new DOMException('no', '{thrown}'));"
            )
            await chromium.press("#start")
            await told(chromium, key)
            await chromium.run(f"{SAYS}.hidden = true")
        world.platform.faults.inject(Status(503, "1"), "authenticators", times=1)
        await chromium.press("#start")
        await told(chromium, "passkey.busy")


async def test_a_browser_without_passkeys(world: PortalWorld, person: str) -> None:
    async with Chromium() as chromium:
        await chromium.script_first("delete window.PublicKeyCredential;")
        await to_choice(chromium, world, person, world.invite(person))
        await told(chromium, "passkey.unsupported")
        assert await chromium.run("document.getElementById('start').hidden")
        await chromium.click("a[href='/enroll/authenticator']")
        assert await chromium.run("!!document.getElementById('secret')")


async def test_a_browser_without_scripts(world: PortalWorld, person: str) -> None:
    link = world.invite(person)
    async with Chromium() as chromium:
        await chromium.without_scripts()
        await chromium.open(link)
        await chromium.type("#token", link)
        await chromium.press_enter()
        await chromium.click("form button")
        await chromium.type("#code", await world.sms_code(person))
        await chromium.press_enter()
        assert await chromium.run("location.pathname") == "/enroll/choose"
        assert await chromium.run("document.getElementById('start').hidden")
        assert not await chromium.run("document.getElementById('scriptless').hidden")
        await chromium.click("a[href='/enroll/authenticator']")
        assert await chromium.run("!!document.getElementById('secret')")


async def test_at_another_address_no_passkey_is_made(world: PortalWorld, person: str) -> None:
    """A passkey belongs to a name: at the number of the same machine Chromium makes none."""
    async with Chromium() as chromium:
        phone = await chromium.authenticator()
        link = world.invite(person).replace("localhost", "127.0.0.1", 1)
        await to_choice(chromium, world, person, link)
        await chromium.press("#start")
        await told(chromium, "passkey.address")
        assert not await chromium.passkeys(phone)


async def test_a_double_click_makes_one_passkey(world: PortalWorld, person: str) -> None:
    async with Chromium() as chromium:
        phone = await chromium.authenticator()
        await to_choice(chromium, world, person, world.invite(person))
        await asyncio.gather(chromium.press("#start"), chromium.press("#start"))
        await chromium.until(DONE)
        assert len(await chromium.passkeys(phone)) == 1
        assert len(world.platform.authenticators_of(person)) == 1


async def test_the_session_that_ended_meanwhile(world: PortalWorld, person: str) -> None:
    """The script has no words for it: it shows the server's page."""
    async with Chromium() as chromium:
        await chromium.authenticator()
        await to_choice(chromium, world, person, world.invite(person))
        world.invite(person)
        await chromium.press("#start")
        await chromium.until("!!document.querySelector('a.button[href=\"/fresh-link\"]')")
        assert not world.platform.authenticators_of(person)


async def test_two_browsers_race(world: PortalWorld, person: str) -> None:
    link = world.invite(person)
    async with Chromium() as one, Chromium() as two:
        for chromium in (one, two):
            await chromium.authenticator()
            await to_choice(chromium, world, person, link)
            world.clock.advance(timedelta(seconds=30))
        await asyncio.gather(one.press("#start"), two.press("#start"))
        ended = "['/enroll/done', '/enroll/passkey'].includes(location.pathname)"
        await asyncio.gather(one.until(ended), two.until(ended))
        paths = [await c.run("location.pathname") for c in (one, two)]
        assert sorted(paths) == ["/enroll/done", "/enroll/passkey"]
        assert len(world.platform.authenticators_of(person)) == 1


async def test_a_scanner_that_runs_scripts_consumes_nothing(
    world: PortalWorld, person: str
) -> None:
    """It opens the link in a browser, waits, and opens it again; then the person comes."""
    link = world.invite(person)
    before = world.ledger_digest()
    async with Chromium() as scanner:
        for _ in range(2):
            await scanner.open(f"{world.url}/check")
            await scanner.open(link)
            await asyncio.sleep(0.3)
        for path in ("/enroll/choose", "/enroll/code", "/enroll/authenticator"):
            await scanner.open(world.url + path)
        assert not await scanner.cookies()
    assert world.ledger_digest() == before
    async with Chromium() as chromium:
        await chromium.authenticator()
        await to_choice(chromium, world, person, link)
        await chromium.press("#start")
        await chromium.until(DONE)
