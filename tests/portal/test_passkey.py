"""The way to a passkey by forms and a software authenticator, and every bend it can take."""

import asyncio
import copy
import json
from datetime import timedelta
from typing import Any

import pyotp
import pytest
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url

from clients.platform import PlatformClient
from portal.binding import BIND_STEP
from portal.settings import Limit, Limits
from recovery.accounts import Act, Stage, Verdict
from rehearsal.world.faults import CloseAfter, CloseBefore, Status
from rehearsal.world.passkey_device import Device, DeviceRefused
from rehearsal.world.people_browser import Browser, Page
from rehearsal.world.platform_accounts import AccountStatus
from tests.portal.conftest import MakeWorld
from tests.portal.world import INCIDENT, PortalWorld


async def signs_in(world: PortalWorld, device: Device, account_id: str) -> bool:
    """At the platform's own front door."""
    site = world.platform_server.url
    async with world.http.post(f"{site}/login/passkey/options") as answer:
        options = await answer.json()
    signed = device.get(options, world.url)
    async with world.http.post(f"{site}/login/passkey", json=signed) as answer:
        if answer.status != 200:
            return False
        session = (await answer.json())["session"]
    headers = {"Authorization": f"Bearer {session}"}
    async with world.http.get(f"{site}/api/me", headers=headers) as answer:
        return bool((await answer.json())["sub"] == account_id)


async def at_choice(world: PortalWorld, account_id: str) -> tuple[Browser, Page]:
    browser = world.browser()
    return browser, await world.to_choice(browser, account_id, world.invite(account_id))


async def test_from_the_choice_to_signing_in(world: PortalWorld, person: str) -> None:
    browser, page = await at_choice(world, person)
    assert "/static/passkey.js" in page.scripts
    csrf = page.forms["/enroll/passkey"].fields["csrf"]
    options = await world.passkey_options(browser, page)
    assert options["rp"] == {"id": "localhost", "name": "Example Social"}
    assert options["attestation"] == "none"
    selection = options["authenticatorSelection"]
    assert (selection["userVerification"], selection["residentKey"]) == ("required", "required")
    assert selection["requireResidentKey"] is True
    handle = world.population.accounts[person].handle
    assert options["user"]["name"] == handle
    said = base64url_to_bytes(options["user"]["id"])
    assert handle.encode() not in said
    assert person.encode() not in said

    device = Device()
    page = await world.make_passkey(browser, page, device)
    assert (page.status, page.path) == (200, "/enroll/done")
    assert "passkey" in page.text
    [bound] = world.platform.authenticators_of(person)
    assert bound.type == "passkey"
    assert world.stage(person) is Stage.ENROLLED
    [record] = world.ledger.acts(INCIDENT, BIND_STEP)
    assert (record.verdict, record.receipt) == (Verdict.DONE, bound.id)
    assert await signs_in(world, device, person)
    for path in ("/enroll/choose", "/enroll/authenticator", "/enroll/code"):
        assert (await browser.open(path)).path == "/enroll/done"
    assert (await browser.fetch("/enroll/passkey/options", csrf="0" * 64))[0] == 403
    assert (await browser.fetch("/enroll/passkey/options", csrf=csrf))[0] == 409
    assert world.ledger.verify_audit()


async def test_the_authenticator_keeps_one_passkey_for_an_account(
    world: PortalWorld, person: str
) -> None:
    """The same handle each time: a new one takes the old one's place on the same device."""
    _, first = await at_choice(world, person)
    browser, second = await at_choice(world, person)
    one = await world.passkey_options(browser, second)
    again = await world.passkey_options(browser, second)
    assert one["user"]["id"] == again["user"]["id"]
    assert one["challenge"] != again["challenge"]
    assert first.path == second.path


# ---------------------------------------------------------------------- what is refused


def client_data(made: dict[str, Any], **changed: Any) -> dict[str, Any]:
    spoiled = copy.deepcopy(made)
    said = json.loads(base64url_to_bytes(made["response"]["clientDataJSON"]))
    spoiled["response"]["clientDataJSON"] = bytes_to_base64url(json.dumps(said | changed).encode())
    return spoiled


def attested(made: dict[str, Any], place: int, value: int) -> dict[str, Any]:
    """One byte of the authenticator's data changed; `none` attestation signs nothing."""
    spoiled = copy.deepcopy(made)
    raw = bytearray(base64url_to_bytes(made["response"]["attestationObject"]))
    begin = raw.index(b"hauthData") + len(b"hauthData") + 2
    raw[begin + place] = value
    spoiled["response"]["attestationObject"] = bytes_to_base64url(bytes(raw))
    return spoiled


FORGERIES: dict[str, Any] = {
    "another origin": lambda m: client_data(m, origin="https://evil.example"),
    "another port": lambda m: client_data(m, origin="http://localhost:1"),
    "inside another page": lambda m: client_data(m, crossOrigin=True),
    "a sign-in": lambda m: client_data(m, type="webauthn.get"),
    "another challenge": lambda m: client_data(m, challenge=bytes_to_base64url(bytes(64))),
    "another site's key": lambda m: attested(m, 0, 0xFF),
    "user not verified": lambda m: attested(m, 32, 0x41),
    "nobody present": lambda m: attested(m, 32, 0x44),
    "no key in it": lambda m: attested(m, 32, 0x05),
    "another id": lambda m: {**m, "id": bytes_to_base64url(b"another")},
    "not an object": lambda m: [],
    "a number": lambda m: 7,
    "no response": lambda m: {**m, "response": None},
    "text for an attestation": lambda m: {
        **m,
        "response": {**m["response"], "attestationObject": "AAAA"},
    },
    "deep nonsense": lambda m: {
        **m,
        "response": {**m["response"], "attestationObject": bytes_to_base64url(b"\x81" * 3000)},
    },
}


@pytest.mark.parametrize("name", FORGERIES)
async def test_forged_passkeys(world: PortalWorld, person: str, name: str) -> None:
    browser, page = await at_choice(world, person)
    device = Device()
    made = device.create(await world.passkey_options(browser, page), world.url)
    form = page.forms["/enroll/passkey"]
    page = await browser.send(form, credential=json.dumps(FORGERIES[name](made)))
    assert (page.status, page.path) == (422, "/enroll/passkey"), name
    assert "nothing has been set up" in page.by_id["problem"]
    assert not world.platform.authenticators_of(person)
    assert world.stage(person) is Stage.NOTIFIED
    page = await browser.send(form, credential=json.dumps(made))
    assert page.status == 422, "the challenge was used up by the first try"
    page = await world.make_passkey(browser, page, device)
    assert page.path == "/enroll/done", "and a new one is to be had"


async def test_a_challenge_of_another_session(world: PortalWorld, person: str, other: str) -> None:
    mine, my_page = await at_choice(world, person)
    theirs, their_page = await at_choice(world, other)
    device = Device()
    options = await world.passkey_options(theirs, their_page)
    await world.passkey_options(mine, my_page)
    made = json.dumps(device.create(options, world.url))
    page = await mine.send(my_page.forms["/enroll/passkey"], credential=made)
    assert page.status == 422
    page = await mine.send(their_page.forms["/enroll/passkey"], credential=made)
    assert page.status == 403, "nor with the other one's form"
    assert not world.platform.authenticators_of(person)
    assert not world.platform.authenticators_of(other)


async def test_a_challenge_that_was_replaced_or_ran_out(world: PortalWorld, person: str) -> None:
    browser, page = await at_choice(world, person)
    device, form = Device(), page.forms["/enroll/passkey"]
    made = device.create(await world.passkey_options(browser, page), world.url)
    await world.passkey_options(browser, page)
    assert (await browser.send(form, credential=json.dumps(made))).status == 422
    made = device.create(await world.passkey_options(browser, page), world.url)
    world.clock.advance(timedelta(minutes=5))
    assert (await browser.send(form, credential=json.dumps(made))).status == 422
    assert (await browser.send(form, credential=json.dumps(made))).status == 422
    assert not world.platform.authenticators_of(person)


async def test_an_authenticator_that_has_one_already(make_world: MakeWorld, person: str) -> None:
    """Where a runbook leaves old authenticators, the page says which are there."""
    world = await make_world()
    world.contain([person])
    browser, page = await at_choice(world, person)
    device = Device()
    assert (await world.make_passkey(browser, page, device)).path == "/enroll/done"
    [bound] = world.platform.authenticators_of(person)
    assert bound.passkey is not None
    # The platform knows it; whoever is asked for another one is told so.
    async with PlatformClient(world.platform_wire()) as client:
        known = await client.passkeys(person)
    assert known == [bound.passkey.credential_id]
    exclude = [{"type": "public-key", "id": bytes_to_base64url(known[0])}]
    with pytest.raises(DeviceRefused, match="InvalidStateError"):
        device.create(
            {
                "rp": {"id": "localhost"},
                "user": {"id": "AAAA"},
                "challenge": "AAAA",
                "pubKeyCredParams": [{"alg": -7}],
                "excludeCredentials": exclude,
            },
            world.url,
        )


# ---------------------------------------------------------------------- before the choice


async def test_behind_the_second_channel(world: PortalWorld, person: str) -> None:
    browser = world.browser()
    page = await world.begin(browser, world.invite(person))
    csrf = page.forms["/enroll/code/send"].fields["csrf"]
    assert (await browser.open("/enroll/choose")).path == "/enroll/code"
    status, options = await browser.fetch("/enroll/passkey/options", csrf=csrf)
    assert (status, options) == (409, {})
    page.forms["/enroll/code/send"].action = "/enroll/passkey"
    page = await browser.send(page.forms["/enroll/code/send"], credential="{}")
    assert page.path == "/enroll/code"
    assert (await world.browser().fetch("/enroll/passkey/options", csrf=csrf))[0] == 400


async def test_where_the_platform_keeps_no_passkeys(make_world: MakeWorld, person: str) -> None:
    world = await make_world(passkeys=False)
    world.contain([person])
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    assert (await browser.open("/enroll/choose")).path == "/enroll/authenticator"
    csrf = page.forms["/enroll/authenticator"].fields["csrf"]
    assert (await browser.fetch("/enroll/passkey/options", csrf=csrf))[0] == 409


async def test_options_are_few_and_cost_no_page(make_world: MakeWorld, person: str) -> None:
    limit = Limit(limit=2, per=timedelta(minutes=10))
    world = await make_world(limits=Limits(confirmations_per_session=limit))
    world.contain([person])
    browser, page = await at_choice(world, person)
    csrf = page.forms["/enroll/passkey"].fields["csrf"]
    statuses = [(await browser.fetch("/enroll/passkey/options", csrf=csrf))[0] for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


async def test_a_platform_that_is_down_is_told_before_a_passkey_is_made(
    world: PortalWorld, person: str
) -> None:
    browser, page = await at_choice(world, person)
    csrf = page.forms["/enroll/passkey"].fields["csrf"]
    world.platform.faults.inject(Status(503, "1"), "authenticators", times=1)
    assert (await browser.fetch("/enroll/passkey/options", csrf=csrf))[0] == 503
    assert (await world.make_passkey(browser, page, Device())).path == "/enroll/done"


# ---------------------------------------------------------------------- trouble on the way


@pytest.mark.parametrize("fault", [CloseAfter(), CloseBefore(), Status(500), Status(503, "1")])
async def test_pressing_again_after_a_lost_answer_binds_the_same_passkey(
    world: PortalWorld, person: str, fault: CloseAfter | CloseBefore | Status
) -> None:
    browser, page = await at_choice(world, person)
    device = Device()
    made = device.create(await world.passkey_options(browser, page), world.url)
    world.platform.faults.inject(fault, "POST .*authenticators", times=1)
    page = await browser.send(page.forms["/enroll/passkey"], credential=json.dumps(made))
    assert (page.status, page.path) == (503, "/enroll/passkey")
    assert world.stage(person) is Stage.NOTIFIED
    [record] = world.ledger.unsettled(INCIDENT)
    assert record.act == Act(world.refs[person], BIND_STEP, 1)

    page = await browser.open("/enroll/authenticator")
    assert page.path == "/enroll/choose", "no other authenticator is bound in its place"
    status, _ = await browser.fetch(
        "/enroll/passkey/options", csrf=page.forms["/enroll/passkey"].fields["csrf"]
    )
    assert status == 409, "nor another passkey"
    world.clock.advance(timedelta(minutes=16))  # The link is used: its end no longer matters.
    page = await browser.send(page.forms["/enroll/passkey"])
    assert page.path == "/enroll/done"
    assert len(world.platform.authenticators_of(person)) == 1
    assert not world.ledger.unsettled(INCIDENT)
    assert await signs_in(world, device, person)


async def test_a_platform_that_says_no_is_asked_once(world: PortalWorld, person: str) -> None:
    browser, page = await at_choice(world, person)
    form = page.forms["/enroll/passkey"]
    made = Device().create(await world.passkey_options(browser, page), world.url)
    world.platform.accounts[person].status = AccountStatus.DEACTIVATED
    for _ in range(2):
        page = await browser.send(form, credential=json.dumps(made))
        assert page.status == 422
        assert "needs a person" in page.text
    asked = sum(
        n for (c, _), n in world.platform.admin_answers.items() if c.startswith("POST auth")
    )
    assert asked == 1
    assert world.stage(person) is Stage.NOTIFIED


async def test_the_link_ran_out_while_the_device_asked(world: PortalWorld, person: str) -> None:
    browser, page = await at_choice(world, person)
    made = Device().create(await world.passkey_options(browser, page), world.url)
    world.clock.advance(timedelta(minutes=15))
    page = await browser.send(page.forms["/enroll/passkey"], credential=json.dumps(made))
    assert page.status == 400
    assert "/fresh-link" in page.links
    assert not world.platform.authenticators_of(person)


# ---------------------------------------------------------------------- races


async def test_twenty_presses_bind_one_passkey(make_world: MakeWorld, person: str) -> None:
    """A double click shows the page that the first press came to."""
    limit = Limit(limit=100, per=timedelta(minutes=10))
    world = await make_world(limits=Limits(confirmations_per_session=limit))
    world.contain([person])
    browser, page = await at_choice(world, person)
    device, form = Device(), page.forms["/enroll/passkey"]
    made = json.dumps(device.create(await world.passkey_options(browser, page), world.url))
    pages = await asyncio.gather(*(browser.send(form, credential=made) for _ in range(20)))
    assert {page.path for page in pages} == {"/enroll/done"}
    assert len(world.platform.authenticators_of(person)) == 1
    stored = [e for e in world.ledger.audit(INCIDENT) if e.event == "portal.passkey_stored"]
    assert len(stored) == 1
    assert await signs_in(world, device, person)


async def test_two_browsers_race_for_one_link(world: PortalWorld, person: str) -> None:
    link = world.invite(person)
    racers: list[tuple[Browser, Page, Device, str]] = []
    for _ in range(2):
        browser, device = world.browser(), Device()
        page = await world.to_choice(browser, person, link)
        world.clock.advance(timedelta(seconds=30))
        options = await world.passkey_options(browser, page)
        made = json.dumps(device.create(options, world.url))
        racers.append((browser, page, device, made))
    pages = await asyncio.gather(
        *(b.send(page.forms["/enroll/passkey"], credential=made) for b, page, _, made in racers)
    )
    assert sorted(page.status for page in pages) == [200, 400]
    won = next(place for place, page in enumerate(pages) if page.path == "/enroll/done")
    assert len(world.platform.authenticators_of(person)) == 1
    assert await signs_in(world, racers[won][2], person)
    assert not await signs_in(world, racers[1 - won][2], person)


@pytest.mark.parametrize("first", ["passkey", "totp"])
async def test_two_tabs_with_two_kinds_bind_one(
    world: PortalWorld, person: str, first: str
) -> None:
    """What is bound is what the person is told; the other kind is never said to be set up."""
    browser, device = world.browser(), Device()
    app = await world.to_authenticator(browser, person, world.invite(person))
    totp = pyotp.TOTP(app.by_id["secret"].replace(" ", ""))
    choice = await browser.open("/enroll/choose")
    made = json.dumps(device.create(await world.passkey_options(browser, choice), world.url))

    async def by_passkey() -> Page:
        return await browser.send(choice.forms["/enroll/passkey"], credential=made)

    async def by_app() -> Page:
        code = totp.at(world.clock.now())
        return await browser.send(app.forms["/enroll/authenticator"], code=code)

    deed, other = (by_passkey, by_app) if first == "passkey" else (by_app, by_passkey)
    world.platform.faults.inject(CloseBefore(), "POST .*authenticators", times=1)
    assert (await deed()).status == 503
    turned = await other()
    assert turned.path == ("/enroll/choose" if first == "passkey" else "/enroll/authenticator")
    assert not world.platform.authenticators_of(person)
    assert (await deed()).path == "/enroll/done"
    [bound] = world.platform.authenticators_of(person)
    assert bound.type == first


async def test_two_tabs_at_the_same_moment(world: PortalWorld, person: str) -> None:
    browser, device = world.browser(), Device()
    app = await world.to_authenticator(browser, person, world.invite(person))
    totp = pyotp.TOTP(app.by_id["secret"].replace(" ", ""))
    choice = await browser.open("/enroll/choose")
    made = json.dumps(device.create(await world.passkey_options(browser, choice), world.url))
    code = totp.at(world.clock.now())
    await asyncio.gather(
        browser.send(choice.forms["/enroll/passkey"], credential=made),
        browser.send(app.forms["/enroll/authenticator"], code=code),
    )
    done = await browser.open("/enroll/done")
    [bound] = world.platform.authenticators_of(person)
    assert ("passkey is set up" in done.text) == (bound.type == "passkey")
