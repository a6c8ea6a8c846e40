"""One person's way to a new authenticator, and every bend it can take."""

from datetime import timedelta

import pyotp
import pytest

from portal.binding import BIND_STEP
from portal.keyed import Keyed, session_hash
from recovery.accounts import Act, Stage, Verdict
from rehearsal.world.faults import CloseAfter, CloseBefore, Status
from rehearsal.world.people_browser import Page
from rehearsal.world.platform_accounts import AccountStatus
from tests.portal.conftest import MakeWorld
from tests.portal.world import INCIDENT, PortalWorld


def totp_of(page: Page) -> pyotp.TOTP:
    return pyotp.TOTP(page.by_id["secret"].replace(" ", ""))


async def test_from_the_link_to_the_new_authenticator(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    link = world.invite(person)
    page = await world.begin(browser, link)
    assert (page.status, page.path) == (200, "/enroll/code")
    phone = world.population.accounts[person].phone or ""
    assert f"•••• {phone[-2:]}" in page.text
    assert phone not in page.text

    page = await browser.send(page.forms["/enroll/code/send"])
    code = await world.sms_code(person)
    page = await browser.send(page.forms["/enroll/code"], code=f"{code[:3]} {code[3:]}")
    assert (page.status, page.path) == (200, "/enroll/choose")
    page = await browser.open("/enroll/authenticator")
    totp = totp_of(page)
    assert len(totp.secret) >= 32
    assert any(link.startswith("otpauth://totp/") for link in page.links)

    page = await browser.send(page.forms["/enroll/authenticator"], code=totp.at(world.clock.now()))
    assert (page.status, page.path) == (200, "/enroll/done")
    [bound] = world.platform.authenticators_of(person)
    assert bound.secret == totp.secret
    assert world.stage(person) is Stage.ENROLLED
    [record] = world.ledger.acts(INCIDENT, BIND_STEP)
    assert (record.verdict, record.receipt) == (Verdict.DONE, bound.id)
    assert world.ledger.verify_audit()


async def test_afterwards_the_link_and_the_secret_are_gone(world: PortalWorld, person: str) -> None:
    browser, link = world.browser(), world.invite(person)
    page = await world.to_authenticator(browser, person, link)
    secret = totp_of(page).secret
    await browser.send(
        page.forms["/enroll/authenticator"], code=totp_of(page).at(world.clock.now())
    )
    for path in ("/enroll/authenticator", "/enroll/code", "/enroll/done"):
        page = await browser.open(path)
        assert page.path == "/enroll/done"
    page = await world.begin(world.browser(), link)
    assert (page.status, page.path) == (400, "/enroll/begin")
    raw = (world.folder / "ledger" / "ledger.db").read_bytes()
    assert secret.encode() not in raw


async def test_wrong_codes_are_counted_and_a_new_code_gives_new_tries(
    make_world: MakeWorld, person: str
) -> None:
    world = await make_world()
    world.contain([person])
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    page = await browser.send(page.forms["/enroll/code/send"])
    right = await world.sms_code(person)
    wrong = f"{(int(right) + 1) % 10**6:06}"

    page = await browser.send(page.forms["/enroll/code"], code="12345")
    assert page.status == 422
    assert "6 digits" in page.by_id["problem"]
    for left in (4, 3, 2):
        page = await browser.send(page.forms["/enroll/code"], code=wrong)
        assert page.status == 422
        assert f"{left} more times" in page.by_id["problem"]
    page = await browser.send(page.forms["/enroll/code"], code=wrong)
    assert "once more" in page.by_id["problem"]
    page = await browser.send(page.forms["/enroll/code"], code=wrong)
    assert "Too many wrong codes" in page.by_id["problem"]
    page = await browser.send(page.forms["/enroll/code"], code=right)
    assert page.status == 422, "the right code came too late"

    world.clock.advance(timedelta(seconds=30))
    page = await browser.send(page.forms["/enroll/code/send"])
    page = await browser.send(page.forms["/enroll/code"], code=await world.sms_code(person))
    assert page.path == "/enroll/choose"


async def test_codes_run_out_of_time_and_out_of_number(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    page = await browser.send(page.forms["/enroll/code/send"])
    again = await browser.send(page.forms["/enroll/code/send"])
    assert again.status == 429, "a double click sends one message"
    code = await world.sms_code(person)
    world.clock.advance(world.settings.enroll.code_ttl)
    page = await browser.send(page.forms["/enroll/code"], code=code)
    assert "expired" in page.by_id["problem"]
    for _ in range(world.settings.enroll.code_sends - 1):
        page = await browser.send(page.forms["/enroll/code/send"])
        assert page.status == 200
        world.clock.advance(timedelta(seconds=30))
    page = await browser.send(page.forms["/enroll/code/send"])
    assert page.status == 429
    assert "No more codes" in page.text
    await world.twilio.settled()
    assert len(world.twilio.messages) == world.settings.enroll.code_sends


async def test_a_phone_that_takes_no_texts_needs_a_human_being(make_world: MakeWorld) -> None:
    world = await make_world(support="the help desk, room 12")
    opted_out = world.population.dirt.opted_out[0]
    world.contain([opted_out])
    page = await world.begin(browser := world.browser(), world.invite(opted_out))
    page = await browser.send(page.forms["/enroll/code/send"])
    assert page.status == 422
    assert "room 12" in page.text


async def test_a_carrier_that_does_not_answer_costs_a_pause(
    world: PortalWorld, person: str
) -> None:
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    world.twilio.faults.inject(Status(429, "1"), "Messages", times=1)
    page = await browser.send(page.forms["/enroll/code/send"])
    assert page.status == 503
    assert "could not send" in page.by_id["problem"]
    world.clock.advance(timedelta(seconds=30))
    page = await browser.send(page.forms["/enroll/code/send"])
    page = await browser.send(page.forms["/enroll/code"], code=await world.sms_code(person))
    assert page.path == "/enroll/choose"


async def test_a_text_whose_answer_was_lost_still_brings_the_code(
    world: PortalWorld, person: str
) -> None:
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    world.twilio.faults.inject(CloseAfter(), "Messages", times=1)
    page = await browser.send(page.forms["/enroll/code/send"])
    page = await browser.send(page.forms["/enroll/code"], code=await world.sms_code(person))
    assert page.path == "/enroll/choose"


@pytest.mark.parametrize("fault", [CloseAfter(), CloseBefore(), Status(500), Status(503, "1")])
async def test_pressing_again_after_a_lost_answer_binds_once(
    world: PortalWorld, person: str, fault: CloseAfter | CloseBefore | Status
) -> None:
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    totp = totp_of(page)
    world.platform.faults.inject(fault, "authenticators", times=1)
    page = await browser.send(page.forms["/enroll/authenticator"], code=totp.at(world.clock.now()))
    assert page.status == 503
    assert totp_of(page).secret == totp.secret
    assert world.stage(person) is Stage.NOTIFIED
    [record] = world.ledger.unsettled(INCIDENT)
    assert record.act == Act(world.refs[person], BIND_STEP, 1)

    world.clock.advance(timedelta(minutes=16))  # The link is used: its end no longer matters.
    page = await browser.send(page.forms["/enroll/authenticator"], code=totp.at(world.clock.now()))
    assert page.path == "/enroll/done"
    assert len(world.platform.authenticators_of(person)) == 1
    assert world.stage(person) is Stage.ENROLLED
    assert not world.ledger.unsettled(INCIDENT)


async def test_a_platform_that_says_no_is_asked_once(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    totp, form = totp_of(page), page.forms["/enroll/authenticator"]
    world.platform.accounts[person].status = AccountStatus.DEACTIVATED
    for _ in range(2):
        page = await browser.send(form, code=totp.at(world.clock.now()))
        assert page.status == 422
        assert "needs a person" in page.text
    asked = sum(n for (c, _), n in world.platform.admin_answers.items() if "authenticators" in c)
    assert asked == 1
    assert world.stage(person) is Stage.NOTIFIED


async def test_a_wrong_code_of_the_app_costs_nothing(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    totp = totp_of(page)
    late = world.clock.now() - timedelta(minutes=5)
    page = await browser.send(page.forms["/enroll/authenticator"], code=totp.at(late))
    assert page.status == 422
    assert totp_of(page).secret == totp.secret
    step_ago = world.clock.now() - timedelta(seconds=30)
    page = await browser.send(page.forms["/enroll/authenticator"], code=totp.at(step_ago))
    assert page.path == "/enroll/done"


async def test_time_runs_out_on_the_way(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    assert "works for" in page.text
    world.clock.advance(timedelta(minutes=15))
    page = await browser.send(
        page.forms["/enroll/authenticator"], code=totp_of(page).at(world.clock.now())
    )
    assert page.status == 400
    assert "/fresh-link" in page.links
    assert not world.platform.authenticators_of(person)


async def test_a_fresh_link_ends_the_one_before(world: PortalWorld, person: str) -> None:
    browser, first = world.browser(), world.invite(person)
    page = await world.to_authenticator(browser, person, first)
    second = world.invite(person)
    page = await browser.send(
        page.forms["/enroll/authenticator"], code=totp_of(page).at(world.clock.now())
    )
    assert page.status == 400
    assert (await world.begin(world.browser(), first)).status == 400
    fresh = world.browser()
    page = await world.to_authenticator(fresh, person, second)
    page = await fresh.send(
        page.forms["/enroll/authenticator"], code=totp_of(page).at(world.clock.now())
    )
    assert page.path == "/enroll/done"
    [record] = world.ledger.acts(INCIDENT, BIND_STEP)
    assert record.act.generation == 2


async def test_a_verified_browser_goes_on_where_it_was(world: PortalWorld, person: str) -> None:
    """Between the accepted code and the stored secret the portal may die."""
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    page = await browser.send(page.forms["/enroll/code/send"])
    code = await world.sms_code(person)
    cookie = browser.cookies["__Host-enroll"]
    session = session_hash(cookie)
    keyed = Keyed(world.settings.code_key.get_secret_value().encode())
    world.ledger.check_code(session, keyed.code_hash(session, code), max_attempts=5)
    page = await browser.open("/enroll/authenticator")
    assert page.path == "/enroll/code"
    page = await browser.send(page.forms["/enroll/code"])
    assert page.path == "/enroll/choose"
    assert (await browser.open("/enroll/code")).path == "/enroll/choose"
    shown = totp_of(await browser.open("/enroll/authenticator")).secret
    again = totp_of(await browser.open("/enroll/authenticator")).secret
    assert again == shown, "one secret, however often"


async def test_a_new_message_may_be_opened_in_a_second_browser(
    world: PortalWorld, person: str
) -> None:
    link = world.invite(person)
    first, second = world.browser(), world.browser()
    await world.begin(first, link)
    page = await world.to_authenticator(second, person, link)
    page = await second.send(
        page.forms["/enroll/authenticator"], code=totp_of(page).at(world.clock.now())
    )
    assert page.path == "/enroll/done"
    page = await first.open("/enroll/done")
    assert page.status == 400, "who did not win is not told that he is done"
    assert "/fresh-link" in page.links
