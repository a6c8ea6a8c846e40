"""Attacks on the way to an authenticator by who reads the mail, guesses, races or asks around."""

import ast
import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

import pyotp
import pytest

from clients.platform import PlatformClient
from ledger import Ledger
from portal import create_app
from portal.keyed import Keyed, Sealer, new_cookie, session_hash
from portal.settings import Limit, Limits
from recovery.accounts import Stage
from recovery.incident import CodeCheck, Enrollment
from rehearsal.world.people_browser import Browser, Page
from rehearsal.world.serving import Loopback
from tests.portal.conftest import MakeWorld
from tests.portal.world import INCIDENT, LEDGER_KEY, PortalWorld


async def test_replay_after_redeem(world: PortalWorld, person: str) -> None:
    browser, link = world.browser(), world.invite(person)
    page = await world.to_authenticator(browser, person, link)
    form = page.forms["/enroll/authenticator"]
    totp = pyotp.TOTP(page.by_id["secret"].replace(" ", ""))
    assert (await browser.send(form, code=totp.at(world.clock.now()))).path == "/enroll/done"
    assert (await world.begin(world.browser(), link)).status == 400
    # The same form once more changes nothing and binds nothing.
    assert (await browser.send(form, code=totp.at(world.clock.now()))).path == "/enroll/done"
    assert len(world.platform.authenticators_of(person)) == 1


# ---------------------------------------------------------------------- sessions


async def begun(world: PortalWorld, account_id: str) -> tuple[Browser, Page]:
    browser = world.browser()
    return browser, await world.begin(browser, world.invite(account_id))


async def test_a_form_of_another_session(world: PortalWorld, person: str, other: str) -> None:
    mine, _ = await begun(world, person)
    _, theirs = await begun(world, other)
    page = await mine.send(theirs.forms["/enroll/code/send"])
    assert page.status == 403
    assert not world.twilio.messages


async def test_a_stolen_cookie_without_the_form(world: PortalWorld, person: str) -> None:
    """Another site can make a browser send its cookie, but cannot read the page's form token."""
    browser, page = await begun(world, person)
    for token in ("", "0" * 64, page.forms["/enroll/code/send"].fields["csrf"][:-1]):
        page.forms["/enroll/code/send"].fields["csrf"] = token
        assert (await browser.send(page.forms["/enroll/code/send"])).status == 403
    assert not world.twilio.messages


async def test_a_cookie_put_into_another_enrollment(
    world: PortalWorld, person: str, other: str
) -> None:
    """Whoever has somebody's cookie has that session, and never gets another account by it."""
    mine, _ = await begun(world, person)
    _, page = await begun(world, other)
    stolen = Browser(world.http, world.url)
    stolen.cookies = dict(mine.cookies)
    # The victim's form with the thief's cookie, and the other way round.
    assert (await stolen.send(page.forms["/enroll/code/send"])).status == 403
    ending = (world.population.accounts[person].phone or "")[-2:]
    assert f"•••• {ending}" in (await stolen.open("/enroll/code")).text


async def test_made_up_cookies(world: PortalWorld, person: str) -> None:
    browser, _ = await begun(world, person)
    for cookie in ("", "x", "a" * 43, "a" * 5000, "%00", '"quoted"'):
        browser.cookies["__Host-enroll"] = cookie
        for path in ("/enroll/code", "/enroll/authenticator", "/enroll/done"):
            page = await browser.open(path)
            assert page.status == 400
            assert "/fresh-link" in page.links


async def test_a_code_is_good_for_its_own_session_alone(world: PortalWorld, person: str) -> None:
    link = world.invite(person)
    mine, thief = world.browser(), world.browser()
    page = await world.begin(mine, link)
    page = await mine.send(page.forms["/enroll/code/send"])
    my_code = await world.sms_code(person)
    page = await world.begin(thief, link)
    page = await thief.send(page.forms["/enroll/code/send"])
    assert await world.sms_code(person) != my_code
    page = await thief.send(page.forms["/enroll/code"], code=my_code)
    assert page.status == 422


async def test_behind_the_second_channel_nothing_opens_without_it(
    world: PortalWorld, person: str
) -> None:
    browser, page = await begun(world, person)
    csrf = page.forms["/enroll/code/send"].fields["csrf"]
    for path in ("/enroll/authenticator", "/enroll/done"):
        page = await browser.open(path)
        assert page.path == "/enroll/code"
        assert "secret" not in page.by_id
    page.forms["/enroll/code/send"].action = "/enroll/authenticator"
    page = await browser.send(page.forms["/enroll/code/send"], code="123456", csrf=csrf)
    assert page.path == "/enroll/code"
    assert not world.platform.authenticators_of(person)


# ---------------------------------------------------------------------- brute force


async def test_brute_force_in_one_session(world: PortalWorld, person: str) -> None:
    """Fifty guesses side by side are judged as five."""
    browser, page = await begun(world, person)
    page = await browser.send(page.forms["/enroll/code/send"])
    right = await world.sms_code(person)
    guesses = [f"{n:06}" for n in range(50) if f"{n:06}" != right]
    form = page.forms["/enroll/code"]
    pages = await asyncio.gather(*(browser.send(form, code=guess) for guess in guesses))
    assert {page.status for page in pages} == {422}
    page = await browser.send(form, code=right)
    assert page.status == 422, "the code died with the fifth guess"
    checked = [e for e in world.ledger.audit(INCIDENT) if e.event == "portal.code_checked"]
    results = [entry.facts["result"] for entry in checked]
    assert results.count(CodeCheck.WRONG) == world.settings.enroll.code_attempts
    assert results.count(CodeCheck.ACCEPTED) == 0


async def test_brute_force_by_ever_new_sessions(make_world: MakeWorld, person: str) -> None:
    """Who reads the mailbox opens sessions as he likes; the account's own caps end it."""
    limits = Limits(
        codes_per_account=Limit(limit=4, per=timedelta(days=1)),
        tries_per_account=Limit(limit=12, per=timedelta(days=1)),
    )
    world = await make_world(limits=limits)
    world.contain([person])
    link, judged = world.invite(person), 0
    for _ in range(8):
        browser = world.browser()
        page = await world.begin(browser, link)
        page = await browser.send(page.forms["/enroll/code/send"])
        for guess in range(5):
            if "/enroll/code" not in page.forms:
                break
            page = await browser.send(page.forms["/enroll/code"], code=f"{guess:06}")
            judged += page.status == 422
    assert page.status == 429
    await world.twilio.settled()
    assert len(world.twilio.messages) == 4
    assert judged <= 12
    assert world.stage(person) is Stage.NOTIFIED


async def test_sessions_of_one_link_are_few(make_world: MakeWorld, person: str) -> None:
    world = await make_world(
        limits=Limits(sessions_per_link=Limit(limit=3, per=timedelta(hours=1)))
    )
    world.contain([person])
    link = world.invite(person)
    pages = [await world.begin(world.browser(), link) for _ in range(5)]
    assert [page.status for page in pages] == [200, 200, 200, 400, 400]


# ---------------------------------------------------------------------- races


def ready_session(world: PortalWorld, enrollment: Enrollment, secret: str) -> str:
    """A browser that has proven its phone, as the ledger knows it; the cookie."""
    cookie = new_cookie()
    session = session_hash(cookie)
    keyed = Keyed(world.settings.code_key.get_secret_value().encode())
    world.ledger.begin(enrollment.jti, session_hash=session, ttl=timedelta(minutes=30))
    code = keyed.code_hash(session, "123456")
    world.ledger.store_code(session, code_hash=code, ttl=timedelta(minutes=5), max_sends=3)
    assert world.ledger.check_code(session, code, max_attempts=5) is CodeCheck.ACCEPTED
    sealer = Sealer(world.settings.seal_key.get_secret_value())
    world.ledger.store_candidate(session, sealer.seal(enrollment.jti, secret))
    return cookie


async def test_fifty_browsers_confirm_one_token_at_once(world: PortalWorld, person: str) -> None:
    enrollment = world.issue(person)
    racers: list[tuple[Browser, Page, pyotp.TOTP]] = []
    for _ in range(50):
        totp = pyotp.TOTP(pyotp.random_base32())
        browser = world.browser()
        browser.cookies["__Host-enroll"] = ready_session(world, enrollment, totp.secret)
        racers.append((browser, await browser.open("/enroll/authenticator"), totp))

    async def confirm(browser: Browser, page: Page, totp: pyotp.TOTP) -> Page:
        form = page.forms["/enroll/authenticator"]
        return await browser.send(form, code=totp.at(world.clock.now()))

    pages = await asyncio.gather(*(confirm(*racer) for racer in racers))
    won = [place for place, page in enumerate(pages) if page.path == "/enroll/done"]
    assert len(won) == 1
    assert {page.status for place, page in enumerate(pages) if place not in won} == {400}
    [bound] = world.platform.authenticators_of(person)
    assert bound.secret == racers[won[0]][2].secret
    assert world.stage(person) is Stage.ENROLLED


async def test_fifty_presses_of_one_button(make_world: MakeWorld, person: str) -> None:
    world = await make_world(
        limits=Limits(confirmations_per_session=Limit(limit=100, per=timedelta(minutes=10)))
    )
    world.contain([person])
    browser = world.browser()
    page = await world.to_authenticator(browser, person, world.invite(person))
    form, totp = (
        page.forms["/enroll/authenticator"],
        pyotp.TOTP(page.by_id["secret"].replace(" ", "")),
    )
    code = totp.at(world.clock.now())
    pages = await asyncio.gather(*(browser.send(form, code=code) for _ in range(50)))
    assert {page.path for page in pages} == {"/enroll/done"}
    assert len(world.platform.authenticators_of(person)) == 1


# ---------------------------------------------------------------------- enumeration


async def ask_fresh(world: PortalWorld, identifier: str) -> tuple[int, str, str, float]:
    started = time.perf_counter()
    async with world.http.post(
        f"{world.url}/fresh-link", data={"identifier": identifier}
    ) as response:
        body = await response.text()
        fixed = {k: v for k, v in response.headers.items() if k.lower() != "date"}
        return response.status, body, str(fixed), time.perf_counter() - started


async def test_a_fresh_link_tells_nothing(
    world: PortalWorld, person: str, other: str, clean_ids: list[str]
) -> None:
    """Known, unknown, not affected, enrolled already, asked already: one answer in one time."""
    seeds = world.population.accounts
    world.issue(person)
    world.issue(other)
    asked = [
        seeds[person].handle,
        seeds[person].email or "",
        "@" + seeds[other].handle.upper(),
        seeds[clean_ids[2]].handle,  # contained, no link yet
        seeds[clean_ids[10]].handle,  # not admitted
        "nobody-at-all",
    ]
    answers = [await ask_fresh(world, identifier) for identifier in asked * 3]
    assert len({(status, body, headers) for status, body, headers, _ in answers}) == 1
    assert answers[0][0] == 200
    known = median(taken for *_, taken in answers[0::6])
    unknown = median(taken for *_, taken in answers[5::6])
    assert abs(known - unknown) < 0.05
    for _ in range(100):
        if len(world.ledger.pending_link_requests(INCIDENT)) == 2:
            break
        await asyncio.sleep(0.02)
    assert set(world.ledger.pending_link_requests(INCIDENT)) == {
        world.refs[person],
        world.refs[other],
    }


async def test_asking_for_links_is_throttled(make_world: MakeWorld, person: str) -> None:
    hour = timedelta(hours=1)
    world = await make_world(
        limits=Limits(
            fresh_link_per_identifier=Limit(limit=1, per=hour),
            fresh_link_per_client=Limit(limit=3, per=hour),
        )
    )
    world.contain([person])
    world.issue(person)
    handle = world.population.accounts[person].handle
    assert (await ask_fresh(world, handle))[0] == 200
    for _ in range(100):
        if world.ledger.pending_link_requests(INCIDENT):
            break
        await asyncio.sleep(0.02)
    assert world.ledger.serve_link_requests(INCIDENT, [world.refs[person]]) == 1
    # For this name once an hour, without a word about it; for this client three times.
    assert (await ask_fresh(world, handle))[0] == 200
    assert (await ask_fresh(world, "somebody-else"))[0] == 200
    assert (await ask_fresh(world, "somebody-else"))[0] == 429
    await asyncio.sleep(0.1)
    assert not world.ledger.pending_link_requests(INCIDENT)


async def check(world: PortalWorld, identifier: str, code: str) -> tuple[int, str]:
    async with world.http.post(
        f"{world.url}/check", data={"identifier": identifier, "code": code}
    ) as response:
        return response.status, await response.text()


async def test_a_message_is_confirmed_to_who_has_it(
    world: PortalWorld, person: str, other: str
) -> None:
    seed = world.population.accounts[person]
    enrollment = world.issue(person)
    code = world.check_code(f"{enrollment.ref}.notify.email.1")
    status, body = await check(world, seed.handle, code)
    assert status == 200
    assert "this message is ours" in body
    assert "by email to" in body
    assert (seed.email or "") not in body
    wrong = await check(world, seed.handle, f"{(int(code) + 1) % 10**6:06}")
    unknown = await check(world, "nobody-at-all", code)
    another = await check(world, world.population.accounts[other].handle, code)
    assert wrong == unknown == another
    assert "cannot confirm" in wrong[1]


async def test_checking_is_throttled_alike_for_known_and_unknown(
    make_world: MakeWorld, person: str
) -> None:
    world = await make_world(
        limits=Limits(check_per_identifier=Limit(limit=4, per=timedelta(hours=1)))
    )
    world.contain([person])
    enrollment = world.issue(person)
    handle = world.population.accounts[person].handle
    for identifier in (handle, "nobody-at-all"):
        statuses = [(await check(world, identifier, f"{n:06}"))[0] for n in range(6)]
        assert statuses == [200] * 4 + [429] * 2
    code = world.check_code(f"{enrollment.ref}.notify.email.1")
    assert (await check(world, handle, code))[0] == 429


# ---------------------------------------------------------------------- across processes


@asynccontextmanager
async def second_portal(world: PortalWorld) -> AsyncIterator[str]:
    """Another process would know nothing but the ledger: so does this one."""
    ledger = Ledger(world.ledger_url, key=LEDGER_KEY, clock=world.clock.now, actor="portal")
    async with AsyncExitStack() as stack:
        stack.callback(ledger.close)
        app = create_app(
            world.settings,
            ledger=ledger,
            platform=PlatformClient(await stack.enter_async_context(world.platform_wire())),
            sms=await world._sms(),
            clock=world.clock.now,
        )
        yield (await stack.enter_async_context(Loopback(app))).url


async def post(world: PortalWorld, url: str, form: dict[str, str], **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with world.http.post(url, data=form, headers=given) as response:
        return response.status


async def test_guessing_codes_of_messages_is_limited_over_all_processes(
    make_world: MakeWorld, person: str
) -> None:
    hour = timedelta(hours=1)
    limits = Limits(check_per_identifier=Limit(limit=6, per=hour))
    world = await make_world(limits=limits)
    world.contain([person])
    handle = world.population.accounts[person].handle
    enrollment = world.issue(person)
    right = world.check_code(f"{enrollment.ref}.notify.email.1")
    async with second_portal(world) as other:
        statuses: Counter[int] = Counter()
        for number in range(8):
            for url in (world.url, other):
                form = {"identifier": handle, "code": f"{number:06}"}
                statuses[await post(world, f"{url}/check", form)] += 1
        assert statuses == {200: 6, 429: 10}
        for url in (world.url, other):
            form = {"identifier": handle.upper(), "code": right}
            assert await post(world, f"{url}/check", form) == 429, "the right one comes too late"
    world.clock.advance(hour)
    assert "this message is ours" in (await check(world, handle, right))[1]


async def test_fresh_links_are_limited_for_the_account_however_it_is_named(
    make_world: MakeWorld, person: str
) -> None:
    """By handle, by @handle, by address, at either process: the account gets so many, in silence,
    and never more than the runbook's budget, which the flow holds."""
    limits = Limits(fresh_link_per_account=Limit(limit=2, per=timedelta(hours=1)))
    world = await make_world(limits=limits)
    world.contain([person])
    world.issue(person)
    seed = world.population.accounts[person]
    served = 0
    async with second_portal(world) as other:
        for name in (seed.handle, f"@{seed.handle}", seed.email or "", seed.handle.upper()):
            for url in (world.url, other):
                assert await post(world, f"{url}/fresh-link", {"identifier": name}) == 200
                await asyncio.sleep(0.1)
                served += world.ledger.serve_link_requests(INCIDENT, [world.refs[person]])
    assert served == 2


async def test_all_askers_together_are_limited(make_world: MakeWorld) -> None:
    limits = Limits(fresh_link_overall=Limit(limit=5, per=timedelta(minutes=1)))
    world = await make_world(limits=limits)
    async with second_portal(world) as other:
        statuses = [
            await post(world, f"{url}/fresh-link", {"identifier": f"nobody-{number}"})
            for number in range(4)
            for url in (world.url, other)
        ]
    assert Counter(statuses) == {200: 5, 429: 3}


async def test_inventing_addresses_does_not_evade_limits(make_world: MakeWorld) -> None:
    """Behind our proxy the right-most address that is not ours counts; the rest is invention. One
    IPv6 customer has 2^64 addresses and is one client."""
    limits = Limits(fresh_link_per_client=Limit(limit=3, per=timedelta(hours=1)))
    world = await make_world(limits=limits, trusted_proxies=["127.0.0.0/8"])
    for number, (prefix, own) in enumerate(
        [("10.9.9.{}", "203.0.113.5"), ("{}", "2001:db8:1:2::{:x}")]
    ):
        statuses = []
        for turn in range(6):
            seen = f"{prefix.format(turn)}, {own.format(turn)}"
            statuses.append(
                await post(
                    world,
                    f"{world.url}/fresh-link",
                    {"identifier": f"nobody-{number}-{turn}"},
                    x_forwarded_for=seen,
                    forwarded=f"for=198.51.100.{turn}",
                )
            )
        assert Counter(statuses) == {200: 3, 429: 3}, own


# ---------------------------------------------------------------------- enumeration by time


def overlap(first: list[float], second: list[float]) -> float:
    """How often a value of the first is below one of the second: 0.5 for the same distribution."""
    pairs = [(a < b) + 0.5 * (a == b) for a in first for b in second]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("question", ["fresh-link", "check", "begin"])
async def test_time_tells_nothing(make_world: MakeWorld, person: str, question: str) -> None:
    """Known and unknown in turns, the rest of the machine as it is. Whoever measures gets two
    heaps of numbers; they must lie over each other. The margins are wide, since nothing here holds
    the machine still: what looked an account up before it answered would split them."""
    hour = timedelta(hours=1)
    wide = Limit(limit=10_000, per=hour)
    limits = Limits(
        fresh_link_per_identifier=wide,
        fresh_link_per_client=wide,
        check_per_identifier=wide,
        check_per_client=wide,
    )
    world = await make_world(limits=limits, answer_floor=timedelta(milliseconds=60))
    world.contain([person])
    enrollment = world.issue(person)
    good = world.link(enrollment).partition("#t=")[2]
    world.ledger.issue(INCIDENT, [enrollment.ref])  # It was good: the ledger has to be asked.
    handle = world.population.accounts[person].handle
    asked: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        "fresh-link": ({"identifier": handle}, {"identifier": "nobody-at-all"}),
        "check": (
            {"identifier": handle, "code": "000000"},
            {"identifier": "nobody-at-all", "code": "000000"},
        ),
        "begin": ({"token": good}, {"token": good[:-4] + "AAAA"}),
    }
    path = {"begin": "/enroll/begin"}.get(question, f"/{question}")
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(30):
        for place in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            await post(world, world.url + path, asked[question][place])
            taken[place].append(time.perf_counter() - started)
    assert 0.15 < overlap(*taken) < 0.85
    known, unknown = (median(times) for times in taken)
    assert abs(known - unknown) < max(0.03, 0.5 * min(known, unknown))


# ---------------------------------------------------------------------- the table

ATTACKS = {
    "alg none": ("test_tokens", "alg_none"),
    "HS256 with the public key": ("test_tokens", "hs256_with_the_public_key"),
    "wrong key": ("test_tokens", "wrong_key"),
    "wrong purpose": ("test_tokens", "test_forged_tokens"),
    "wrong aud": ("test_tokens", "another_audience"),
    "expired": ("test_tokens", "run_out"),
    "future": ("test_tokens", "of_the_future"),
    "truncated": ("test_tokens", "truncated"),
    "replayed": ("test_attacks", "test_replay_after_redeem"),
    "stolen cookie": ("test_attacks", "test_a_cookie_put_into_another_enrollment"),
    "stolen cookie without the form": (
        "test_attacks",
        "test_a_stolen_cookie_without_the_form",
    ),
    "forged webhook": ("test_webhooks", "test_forged_and_stale_events"),
    "forged callback": ("test_webhooks", "test_forged_callbacks"),
    "stale webhook": ("test_webhooks", "test_forged_and_stale_events"),
    "replayed webhook": ("test_webhooks", "test_the_signed_batch_itself_is_taken_once"),
    "forged notice": ("test_notice", "test_forged_notices"),
    "notice under other words": ("test_notice", "test_our_signature_under_other_words"),
    "brute force of second-channel codes": (
        "test_attacks",
        "test_brute_force_by_ever_new_sessions",
    ),
    "brute force of message codes": (
        "test_attacks",
        "test_guessing_codes_of_messages_is_limited_over_all_processes",
    ),
    "invented addresses": ("test_attacks", "test_inventing_addresses_does_not_evade_limits"),
    "enumeration by text": ("test_attacks", "test_a_fresh_link_tells_nothing"),
    "enumeration by time": ("test_attacks", "test_time_tells_nothing"),
    "very many at once": ("test_race", "test_of_very_many_browsers_one_wins"),
    "cross-site forms": ("test_door", "test_forms_from_elsewhere"),
    "a thief of the database password": (
        "../ledger/test_portal_role",
        "test_statements_that_are_refused",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_has_its_test(attack: str) -> None:
    """The table: where each attack is carried out. Names that were changed are found here."""
    module, name = ATTACKS[attack]
    source = (Path(__file__).parent / f"{module}.py").resolve().read_text()
    defined = {n.name for n in ast.walk(ast.parse(source)) if hasattr(n, "name")}
    assert name in defined
