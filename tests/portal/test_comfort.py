"""Every page in a real Chromium: axe, weight, small phones, large letters, dark, right to left."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pyotp
import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Page, async_playwright

from portal.texts import Texts, catalog
from rehearsal.world.faults import CloseBefore
from rehearsal.world.platform_accounts import AccountStatus
from tests.portal.chromium import BINARY
from tests.portal.conftest import MakeWorld
from tests.portal.world import PortalWorld

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason=f"there is no {BINARY}")
AT_MOST = 50_000
_WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
_CANCEL = """() => {
  navigator.credentials.create = () => Promise.reject(new DOMException('', 'NotAllowedError'));
}"""
Look = Callable[[Page, str], Awaitable[None]]


@asynccontextmanager
async def chromium(**context: Any) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=str(BINARY), args=["--no-sandbox"]
        )
        try:
            opened = await browser.new_context(**context)
            yield await opened.new_page()
        finally:
            await browser.close()


async def plug_in(page: Page, **differing: Any) -> None:
    """A virtual authenticator, a phone with a fingerprint."""
    session = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
        **differing,
    }
    await session.send("WebAuthn.addVirtualAuthenticator", {"options": options})


async def every_state(page: Page, world: PortalWorld, account_id: str, look: Look) -> None:
    """Walks a person's whole way and its bends, and looks at each page by its name."""
    for path in ("/", "/enroll", "/fresh-link", "/check", "/advice", "/nothing", "/enroll/code"):
        await page.goto(world.url + path)
        await look(page, path.strip("/").replace("/", "-") or "home")
    await page.goto(f"{world.url}/fresh-link")
    await page.fill("#identifier", "somebody")
    await page.click("form button")
    await look(page, "fresh-link-asked")
    await page.goto(f"{world.url}/check")
    await page.fill("#identifier", "somebody")
    await page.fill("#code", "12345")
    await page.click("form button")
    await look(page, "check-problem")
    await page.fill("#identifier", "somebody")
    await page.fill("#code", "123456")
    await page.click("form button")
    await look(page, "check-no")
    link = world.invite(account_id)
    await page.goto(link)
    await look(page, "begin")
    await page.click("form button")
    await look(page, "code")
    await page.click("form button")
    await look(page, "code-sent")
    await page.fill("#code", "000000")
    await page.click("form button")
    await look(page, "code-wrong")
    await page.fill("#code", await world.sms_code(account_id))
    await page.click("form button")
    await look(page, "choose")
    await page.evaluate(_CANCEL)
    await page.click("#start")
    await page.wait_for_selector("#says:not([hidden])")
    await look(page, "choose-cancelled")
    await page.click("a[href='/enroll/authenticator']")
    await look(page, "authenticator")
    await page.fill("#code", "000000")
    await page.click("form button")
    await look(page, "authenticator-wrong")
    await page.goto(f"{world.url}/enroll/choose")
    world.platform.faults.inject(CloseBefore(), "POST .*authenticators", times=1)
    await plug_in(page)
    await page.click("#start")
    await page.wait_for_url("**/enroll/passkey")
    await look(page, "passkey-again")
    await page.click("form button")
    await page.wait_for_url("**/enroll/done")
    await look(page, "done-passkey")
    await page.context.clear_cookies()
    await page.goto(world.url)
    await page.goto(link)
    await page.click("form button")
    await look(page, "refused")


async def the_other_end(page: Page, world: PortalWorld, account_id: str, look: Look) -> None:
    """An authenticator app to its end, and an account that the platform refuses."""
    await page.goto(world.url)
    await page.goto(world.invite(account_id))
    for _ in range(2):
        await page.click("form button")
    await page.fill("#code", await world.sms_code(account_id))
    await page.click("form button")
    await page.click("a[href='/enroll/authenticator']")
    totp = pyotp.TOTP((await page.inner_text("#secret")).replace(" ", ""))
    account = world.platform.accounts[account_id]
    account.status = AccountStatus.DEACTIVATED
    await page.fill("#code", totp.at(world.clock.now()))
    await page.click("form button")
    await look(page, "stuck")
    account.status = AccountStatus.ACTIVE
    world.clock.advance(timedelta(minutes=1))
    await page.context.clear_cookies()
    await page.goto(world.url)
    await page.goto(world.invite(account_id))
    for _ in range(2):
        await page.click("form button")
    await page.fill("#code", await world.sms_code(account_id))
    await page.click("form button")
    await page.click("a[href='/enroll/authenticator']")
    totp = pyotp.TOTP((await page.inner_text("#secret")).replace(" ", ""))
    await page.fill("#code", totp.at(world.clock.now()))
    await page.click("form button")
    await page.wait_for_url("**/enroll/done")
    await look(page, "done-app")


async def findings(page: Page) -> list[str]:
    """What axe has to say, one line each. It is put in by the protocol, past the page's policy."""
    await page.evaluate(Axe().axe_script)
    options = {"runOnly": {"type": "tag", "values": _WCAG}, "resultTypes": ["violations"]}
    result = await page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{found['id']}: {node['html'][:120]}"
        for found in result["violations"]
        for node in found["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(world: PortalWorld, person: str, other: str, scheme: str) -> None:
    found: dict[str, list[str]] = {}
    seen: list[str] = []

    async def look(page: Page, name: str) -> None:
        seen.append(name)
        if complaints := await findings(page):
            found[name] = complaints

    async with chromium(color_scheme=scheme, viewport={"width": 360, "height": 740}) as page:
        await every_state(page, world, person, look)
        await the_other_end(page, world, other, look)
    assert not found
    assert len(seen) == len(set(seen)) >= 22


async def test_axe_would_have_found_something(world: PortalWorld) -> None:
    """Or the test above could pass because nothing is ever looked at."""
    async with chromium() as page:
        await page.goto(f"{world.url}/check")
        await page.evaluate("document.querySelector('label').remove()")
        await page.evaluate("document.querySelector('h1').style.color = '#eee'")
        names = {line.partition(":")[0] for line in await findings(page)}
    assert {"label", "color-contrast"} <= names


async def test_pages_are_small_and_all_our_own(world: PortalWorld, person: str) -> None:
    """HTML, style, scripts and pictures together, as they go over the wire without compression."""
    weights: dict[str, int] = {}

    async def look(page: Page, name: str) -> None:
        """Reloading would send the form again; the page is weighed as it stands."""
        names = await page.evaluate("performance.getEntriesByType('resource').map(e => e.name)")
        foreign = [one for one in names if not one.startswith(world.url)]
        assert not foreign, name
        html = len((await page.content()).encode())
        files = {one for one in names if "/static/" in one} | {f"{world.url}/static/icon.svg"}
        sizes = [len(await (await page.request.get(one)).body()) for one in files]
        weights[name] = html + sum(sizes)

    async with chromium() as page:
        await every_state(page, world, person, look)
    assert len(weights) >= 20
    assert max(weights.values()) < AT_MOST, weights


@pytest.mark.parametrize(
    ("width", "scale"), [(320, 1), (640, 2)], ids=["320 pixels", "twice as large"]
)
async def test_nothing_is_cut_off(world: PortalWorld, person: str, width: int, scale: int) -> None:
    """At 320 px, and at 640 px with everything twice as large (WCAG 2.2, 1.4.4 and 1.4.10)."""

    async def look(page: Page, name: str) -> None:
        if scale != 1:
            await page.evaluate(f"document.documentElement.style.zoom = {scale}")
        wide = await page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, name
        small = await page.evaluate(
            "[...document.querySelectorAll('button, .button, input[type=text]')]"
            ".filter(e => e.offsetHeight && e.getBoundingClientRect().height < 44).length"
        )
        assert small == 0, name

    async with chromium(viewport={"width": width, "height": 740}) as page:
        await every_state(page, world, person, look)


async def test_by_keyboard_alone(world: PortalWorld, person: str) -> None:
    async with chromium() as page:
        await plug_in(page)
        await page.goto(world.invite(person))
        await by_tab(page, "main form button")
        await page.wait_for_url("**/enroll/code")
        await by_tab(page, "main form button")
        await page.wait_for_selector("#code")
        assert await page.evaluate("document.activeElement.id") == "code"
        await page.keyboard.type("000000")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("[role=alert]")
        assert await page.evaluate("document.activeElement.id") == "code"
        described = await page.get_attribute("#code", "aria-describedby") or ""
        assert described.split()[0] == "problem"
        await page.keyboard.type(await world.sms_code(person))
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/enroll/choose")
        await by_tab(page, "#start")
        await page.wait_for_url("**/enroll/done")


async def by_tab(page: Page, selector: str) -> None:
    """Tabs to the element and presses Enter; each stop on the way can be seen."""
    for _ in range(25):
        await page.keyboard.press("Tab")
        outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "the focus cannot be seen"
        if await page.evaluate(f"document.activeElement.matches({selector!r})"):
            await page.keyboard.press("Enter")
            return
    raise AssertionError(f"{selector} cannot be reached")


async def test_right_to_left(
    make_world: MakeWorld, person: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A language that is not there yet: every sentence marked, and `dir: rtl` in its catalog."""
    english = catalog()["en"].sentences
    marked = {key: f"\u202b{words}\u202c" for key, words in english.items()} | {"dir": "rtl"}
    monkeypatch.setitem(catalog(), "ar", Texts("ar", marked))  # type: ignore[arg-type]
    world = await make_world()
    world.contain([person])
    sides: dict[str, tuple[bool, bool, bool]] = {}

    async def look(page: Page, name: str) -> None:
        assert await page.get_attribute("html", "dir") == "rtl"
        assert await page.get_attribute("html", "lang") == "ar"
        assert not [line for line in await findings(page) if "contrast" not in line], name
        sides[name] = tuple(await page.evaluate(_SIDES))

    async with chromium(locale="ar", viewport={"width": 360, "height": 740}) as page:
        await every_state(page, world, person, look)
    for name, (wide, starts_right, digits_ltr) in sides.items():
        assert not wide, f"{name} is wider than the phone"
        assert starts_right, f"{name} begins at the wrong side"
        assert digits_ltr, f"{name} writes digits the wrong way"


_SIDES = """() => {
  const root = document.documentElement;
  const brand = document.querySelector('.brand').getBoundingClientRect();
  const notice = document.querySelector('.notice:not([hidden])');
  const style = notice && getComputedStyle(notice);
  const bar = !notice || parseInt(style.borderRightWidth) > parseInt(style.borderLeftWidth);
  const digits = [...document.querySelectorAll('.digits, #secret')];
  return [
    root.scrollWidth > root.clientWidth,
    brand.right > root.clientWidth / 2 && bar,
    digits.every(e => getComputedStyle(e).direction === 'ltr'),
  ];
}"""
