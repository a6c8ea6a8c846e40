"""A token that must not work any more, tried at each door behind which it once would have: the page
of a session, the beginning of one, the redemption."""

import json
from datetime import timedelta

import pyotp
import pytest

from portal.binding import BIND_STEP
from recovery.accounts import Stage
from rehearsal.world.passkey_device import Device
from rehearsal.world.people_browser import Browser, Page
from tests.portal.world import INCIDENT, PortalWorld

PAGES = ("/enroll/code", "/enroll/choose", "/enroll/authenticator", "/enroll/done")


async def enrolled(world: PortalWorld, account_id: str, link: str) -> None:
    """By the same link, in another browser."""
    world.clock.advance(timedelta(seconds=30))
    browser = world.browser()
    page = await world.to_authenticator(browser, account_id, link)
    totp = pyotp.TOTP(page.by_id["secret"].replace(" ", ""))
    form = page.forms["/enroll/authenticator"]
    assert (await browser.send(form, code=totp.at(world.clock.now()))).path == "/enroll/done"


async def newer_token(world: PortalWorld, account_id: str, link: str) -> None:
    world.invite(account_id)


async def closed(world: PortalWorld, account_id: str, link: str) -> None:
    world.ledger.close_incident(INCIDENT)


async def run_out(world: PortalWorld, account_id: str, link: str) -> None:
    world.clock.advance(timedelta(minutes=15))


ENDS = {"enrolled": enrolled, "newer token": newer_token, "closed": closed, "run out": run_out}


@pytest.mark.parametrize("end", ENDS)
async def test_an_ended_token(world: PortalWorld, person: str, end: str) -> None:
    link = world.invite(person)
    browser, device = world.browser(), Device()
    app = await world.to_authenticator(browser, person, link)
    totp = pyotp.TOTP(app.by_id["secret"].replace(" ", ""))
    choice = await browser.open("/enroll/choose")
    made = json.dumps(device.create(await world.passkey_options(browser, choice), world.url))
    await ENDS[end](world, person, link)
    bound = len(world.platform.authenticators_of(person))
    before = world.stage(person)

    # The page.
    for path in PAGES:
        page = await browser.open(path)
        assert (page.status, "/fresh-link" in page.links) == (400, True), path
        assert not page.by_id.get("secret"), path
    # The beginning.
    again = await world.begin(world.browser(), link)
    assert (again.status, again.path) == (400, "/enroll/begin")
    # The redemption, by either kind.
    code = totp.at(world.clock.now())
    page = await browser.send(app.forms["/enroll/authenticator"], code=code)
    assert page.status == 400
    page = await browser.send(choice.forms["/enroll/passkey"], credential=made)
    assert page.status == 400
    assert len(world.platform.authenticators_of(person)) == bound
    assert world.stage(person) is before
    binds = [r.verdict for r in world.ledger.acts(INCIDENT, BIND_STEP)]
    assert len(binds) == (1 if end == "enrolled" else 0)


async def test_the_same_without_an_end(world: PortalWorld, person: str) -> None:
    """Or the table above could pass because nothing ever works."""
    link = world.invite(person)
    browser: Browser = world.browser()
    page: Page = await world.to_choice(browser, person, link)
    assert (await world.make_passkey(browser, page, Device())).path == "/enroll/done"
    assert world.stage(person) is Stage.ENROLLED


async def test_the_second_channel_is_never_the_links_own(world: PortalWorld, person: str) -> None:
    """The link came by mail: the code goes to the number on record, whatever the form says, lives
    ten minutes at most and takes five tries."""
    policy = world.settings.enroll
    assert policy.code_ttl <= timedelta(minutes=10)
    assert policy.code_attempts == 5
    seed = world.population.accounts[person]
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    mails = len(world.mailboxes.of(seed.email or ""))
    send = page.forms["/enroll/code/send"]
    page = await browser.send(send, phone="+12125550199", to="+12125550199", channel="email")
    code = await world.sms_code(person)
    assert [message.to for message in world.mailboxes.everything()].count("+12125550199") == 0
    assert len(world.mailboxes.of(seed.email or "")) == mails
    sent = world.mailboxes.of(seed.phone or "")
    assert "://" not in (sent[-1].text or "")
    world.clock.advance(policy.code_ttl)
    page = await browser.send(page.forms["/enroll/code"], code=code)
    assert page.status == 422
    assert "expired" in page.by_id["problem"]
