"""The whole way through a real Chromium, by clicks and keys, and what it sends on it.

`Secure` cookies with the `__Host-` prefix are kept by Chromium on plain http://127.0.0.1 and on
http://localhost alike; both are walked here.
"""

from urllib.parse import urlsplit

import pyotp
import pytest

from recovery.accounts import Stage
from tests.portal.chromium import BINARY, Chromium
from tests.portal.world import PortalWorld

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"there is no {BINARY}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_person_with_a_browser(world: PortalWorld, person: str, host: str) -> None:
    link = world.invite(person).replace("localhost", host, 1)
    site, _, token = link.partition("/enroll#t=")
    async with Chromium() as chromium:
        await chromium.width(390)
        await chromium.open(link)
        assert await chromium.run("location.href") == f"{site}/enroll"
        assert await chromium.run("document.getElementById('paste').hidden")
        assert token not in str(await chromium.history())
        assert not await chromium.cookies(), "opening a link leaves nothing behind"
        await chromium.click("form button")
        assert await chromium.run("location.href") == f"{site}/enroll/code"

        cookie = (await chromium.cookies())["__Host-enroll"]
        assert (cookie["secure"], cookie["httpOnly"]) == (True, True)
        assert (cookie["sameSite"], cookie["path"]) == ("Strict", "/")
        await chromium.click("form button")
        await chromium.type("#code", "000000")
        await chromium.press_enter()
        assert await chromium.run("document.querySelector('[role=alert]').textContent.trim()")
        assert await chromium.run("document.activeElement.id") == "code"
        await chromium.type("#code", await world.sms_code(person))
        await chromium.press_enter()
        assert await chromium.run("location.href") == f"{site}/enroll/choose"
        await chromium.click("a[href='/enroll/authenticator']")
        assert await chromium.run("location.href") == f"{site}/enroll/authenticator"

        picture = "document.querySelector('svg.qr').getBoundingClientRect()"
        assert await chromium.run(f"{picture}.width") >= 200
        assert await chromium.run(f"{picture}.width === {picture}.height")
        secret = await chromium.run("document.getElementById('secret').textContent")
        totp = pyotp.TOTP(secret.replace(" ", ""))
        address = await chromium.run("document.querySelector('a[href^=otpauth]').href")
        parsed = pyotp.parse_uri(address)
        assert isinstance(parsed, pyotp.TOTP)
        assert parsed.secret == totp.secret
        assert parsed.issuer == "Example Social"
        await chromium.type("#code", totp.at(world.clock.now()))
        await chromium.press_enter()
        assert await chromium.run("location.href") == f"{site}/enroll/done"
        assert world.stage(person) is Stage.ENROLLED

        assert not chromium.complaints()
        assert await chromium.run("document.cookie") == "", "the session is not for scripts"
        for url, headers in chromium.sent():
            assert urlsplit(url).netloc in ("", urlsplit(site).netloc), "no third party"
            assert "referer" not in headers
            assert token not in url.partition("#")[0]
            assert token not in str(headers)
        forms = [headers for _, headers in chromium.sent() if "origin" in headers]
        assert {(h["origin"], h["sec-fetch-site"]) for h in forms} == {("null", "same-origin")}


async def test_without_scripts_the_link_is_pasted(world: PortalWorld, person: str) -> None:
    link = world.invite(person)
    async with Chromium() as chromium:
        await chromium.without_scripts()
        await chromium.open(link)
        assert not await chromium.run("document.getElementById('paste').hidden")
        await chromium.type("#token", link)
        await chromium.press_enter()
        assert await chromium.run("location.pathname") == "/enroll/code"


async def test_the_link_opened_again_in_the_same_tab(world: PortalWorld, person: str) -> None:
    """Only the fragment changes then, and no page is loaded."""
    link = world.invite(person)
    async with Chromium() as chromium:
        await chromium.open(f"{world.url}/enroll")
        assert not await chromium.run("document.getElementById('paste').hidden")
        await chromium.run(f"window.leaving = false; location.hash = {link.partition('#')[2]!r}")
        for _ in range(50):
            if await chromium.run("document.getElementById('paste').hidden"):
                break
        assert await chromium.run("location.href") == f"{world.url}/enroll"
        await chromium.click("form button")
        assert await chromium.run("location.pathname") == "/enroll/code"


async def test_nothing_is_wider_than_a_small_phone(world: PortalWorld) -> None:
    root = "document.documentElement"
    targets = "[...document.querySelectorAll('button, .button, input[type=text]')]"
    async with Chromium() as chromium:
        await chromium.width(320)
        for path in ("/", "/enroll", "/fresh-link", "/check", "/enroll/done"):
            await chromium.open(world.url + path)
            assert await chromium.run(f"{root}.scrollWidth <= {root}.clientWidth"), path
            assert await chromium.run(
                f"{targets}.every(e => !e.offsetHeight || e.offsetHeight >= 44)"
            ), path
