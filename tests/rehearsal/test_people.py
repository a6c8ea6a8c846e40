"""People, a mail scanner and a phisher before the real portal: three days in seconds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from recovery.accounts import Stage
from rehearsal.world.cast import Behaviour
from rehearsal.world.mailbox import Received
from rehearsal.world.people import People
from rehearsal.world.people_browser import Browser, read_page
from rehearsal.world.people_strangers import MailScanner, Phisher, Reached
from rehearsal.world.population import Population, populate
from tests.portal.world import INCIDENT, PortalWorld

PROMPT = {Behaviour.PROMPT, Behaviour.MISTYPES_ONCE}


@pytest.fixture(scope="module")
def population() -> Population:
    return populate(11, accounts=40, members=3)


@pytest.fixture
async def world(population: Population, tmp_path: Path) -> AsyncIterator[PortalWorld]:
    async with PortalWorld(population, tmp_path) as world:
        yield world


def reachable(population: Population) -> list[str]:
    """Affected accounts with a usable address and number."""
    dirt = population.dirt
    unusable = {*dirt.malformed_email, *dirt.malformed_phone, *dirt.no_email, *dirt.no_phone}
    return [one for one in population.affected_ids if one not in unusable]


def people_of(world: PortalWorld) -> People:
    return People(
        world.url,
        world.platform_server.url.replace("127.0.0.1", "localhost"),
        world.mailboxes,
        world.population,
        world.clock,
        Random(3),
    )


async def until_quiet(world: PortalWorld, people: People) -> None:
    """Real time, until nobody is about to act."""
    stop = asyncio.Event()
    running = asyncio.create_task(people.run_prompt(stop))
    await asyncio.sleep(0.2)
    for _ in range(400):
        if not people.due_before(world.clock.now() + timedelta(minutes=1)):
            break
        await asyncio.sleep(0.05)
    stop.set()
    await running


class Flows:
    """Stands for the flows that run on a schedule: fresh links, one follow-up, released brands."""

    def __init__(self, world: PortalWorld, everybody: list[str]) -> None:
        self._world = world
        self._everybody = everybody
        self._began = world.clock.now()
        self._account_of = {ref: account_id for account_id, ref in world.refs.items()}
        self._followed_up = self._released = False

    async def __call__(self) -> None:
        world = self._world
        await asyncio.sleep(0.05)  # The portal notes a request after it has answered.
        waiting = world.ledger.pending_link_requests(INCIDENT)
        for ref in waiting:
            world.invite(self._account_of[ref])
        world.ledger.serve_link_requests(INCIDENT, waiting)
        passed = world.clock.now() - self._began
        if not self._released and passed > timedelta(hours=2):
            self._released = True
            for one in self._everybody:
                if world.population.accounts[one].behaviour is Behaviour.AFTER_PROOFING:
                    world.invite(one)
        if not self._followed_up and passed > timedelta(hours=24):
            self._followed_up = True
            for one in self._everybody:
                if world.stage(one) in (Stage.NOTIFIED, Stage.TOKEN_ISSUED):
                    world.invite(one)


async def test_three_days(world: PortalWorld) -> None:
    seeds = world.population.accounts
    everybody = reachable(world.population)
    world.contain(everybody)
    invited = [o for o in everybody if seeds[o].behaviour is not Behaviour.AFTER_PROOFING]
    victims = [o for o in invited if seeds[o].behaviour is Behaviour.PROMPT][:2]
    stuck = set(world.population.dirt.opted_out)
    began = world.clock.now()
    async with AsyncExitStack() as stack:
        people = await stack.enter_async_context(people_of(world))
        scanner = await stack.enter_async_context(MailScanner(world.mailboxes, [world.url]))
        phisher = await stack.enter_async_context(
            Phisher(world.url, world.mailboxes, [seeds[o].email or "" for o in victims], Random(1))
        )
        for one in invited:
            world.invite(one)
        await until_quiet(world, people)

        at_once = {o for o in invited if seeds[o].behaviour in PROMPT} - stuck
        stories = people.stories
        assert {o for o, story in stories.items() if story.enrolled_at} == at_once
        assert all(stories[one].login_ok for one in at_once)
        assert people.enrolled() == len(at_once)

        real = asyncio.get_running_loop().time()
        await people.fast_forward(
            began + timedelta(hours=72),
            world.clock.advance,
            meanwhile=Flows(world, everybody),
            every=timedelta(hours=2),
        )
        assert asyncio.get_running_loop().time() - real < 40
        assert world.clock.now() >= began + timedelta(hours=72)

    for one in everybody:
        story, seed = stories[one], seeds[one]
        if one in stuck:
            assert (story.enrolled_at, story.stuck) == (None, "/enroll/code/send")
            continue
        assert story.enrolled_at is not None, story
        assert story.login_ok, story
        assert not story.errors
        [bound] = world.platform.authenticators_of(one)
        assert (bound.type == "passkey") == story.by_passkey
        assert world.stage(one) is Stage.ENROLLED
        assert story.wrong_codes == (seed.behaviour is Behaviour.MISTYPES_ONCE)
        assert story.received["email"] >= 1
        assert story.received["sms"] >= 1
        took = story.enrolled_at - began
        match seed.behaviour:
            case Behaviour.PROMPT | Behaviour.MISTYPES_ONCE:
                assert took < timedelta(minutes=1)
                assert story.fresh_links_asked == 0
            case Behaviour.LATER_TODAY:
                assert seed.delay <= took < timedelta(hours=21)
                assert story.fresh_links_asked == 1, "a link is dead after an hour"
            case Behaviour.ASKS_FRESH_LINK:
                assert story.fresh_links_asked == 1
            case Behaviour.NEXT_DAYS:
                assert took > timedelta(hours=24)
            case Behaviour.NEEDS_FOLLOW_UP:
                assert timedelta(hours=24) < took < timedelta(hours=31)
            case Behaviour.AFTER_PROOFING:
                assert timedelta(hours=2) < took < timedelta(hours=5)

    by_passkey = sum(story.by_passkey for story in stories.values())
    assert 0.2 < by_passkey / people.enrolled() < 0.6
    assert phisher.furthest is Reached.CODE_SENT
    assert all(raid.guesses for raid in phisher.raids.values())
    assert scanner.answers["GET", 200] == scanner.answers["HEAD", 200] > 2 * len(invited)
    assert {status for _, status in scanner.answers} == {200}
    assert not world.mailboxes.received_twice()
    assert world.ledger.verify_audit()


async def test_two_who_share_a_mailbox(world: PortalWorld) -> None:
    """Even where the message does not say whose it is, the phone does."""
    pair = world.population.dirt.shared_mailbox[:2]
    world.contain(pair)
    async with people_of(world) as people:
        for one in reversed(pair):
            link = world.link(world.issue(one))
            world.mailboxes.deliver(
                Received(
                    to=world.population.accounts[one].email or "",
                    channel="email",
                    sender="security@example.com",
                    subject="Set up",
                    text=link,
                    html=None,
                    reference=one,
                    at=world.clock.now(),
                )
            )
        await world.mailboxes.settled()
        now = world.clock.now()
        await people.fast_forward(now + timedelta(minutes=14), world.clock.advance)
        prompt = [o for o in pair if world.population.accounts[o].behaviour in PROMPT]
        assert prompt, "choose another seed"
        for one in prompt:
            assert people.stories[one].login_ok, people.stories[one]
            assert len(world.platform.authenticators_of(one)) == 1


async def test_a_scanner_changes_nothing(world: PortalWorld) -> None:
    one = reachable(world.population)[0]
    world.contain([one])
    async with MailScanner(world.mailboxes, [world.url]) as scanner:
        link = world.invite(one)
        before = world.ledger_digest()
        await world.mailboxes.settled()
        assert scanner.answers == {("GET", 200): 2, ("HEAD", 200): 2}
        assert world.ledger_digest() == before
    page = await world.begin(world.browser(), link)
    assert page.path == "/enroll/code"


async def test_a_world_without_a_portal_is_told_in_the_stories(
    world: PortalWorld, population: Population
) -> None:
    one = next(o for o in reachable(population) if population.accounts[o].behaviour in PROMPT)
    world.contain([one])
    async with people_of(world) as people:
        world.invite(one)
        await world.portal_server.stop()
        now = world.clock.now()
        await people.fast_forward(now + timedelta(hours=2), world.clock.advance)
        assert people.stories[one].enrolled_at is None
        assert 1 <= len(people.stories[one].errors) <= 5
        assert all("token" not in error for error in people.stories[one].errors)


async def test_a_browser_keeps_host_cookies_as_chromium_does(world: PortalWorld) -> None:
    browser = Browser(world.http, world.url)
    browser._keep("__Host-a=1; Path=/; Secure")
    browser._keep("__Host-b=1; Path=/enroll; Secure")
    browser._keep("__Host-c=1; Path=/")
    browser._keep("__Host-d=1; Path=/; Secure; Domain=example.com")
    assert browser.cookies == {"__Host-a": "1"}
    abroad = Browser(world.http, "http://portal.example")
    abroad._keep("__Host-a=1; Path=/; Secure")
    assert not abroad.cookies


def test_reading_a_page() -> None:
    page = read_page(
        200,
        "/x",
        '<html lang="de"><script src="/s.js"></script><form method="post" action="/a">'
        '<input type="hidden" name="csrf" value="t"><input name="code"></form>'
        '<code id="secret">AB CD</code> <a href="/b">hin</a>',
    )
    assert page.forms["/a"].fields == {"csrf": "t", "code": ""}
    assert (page.by_id["secret"], page.links, page.scripts) == ("AB CD", ["/b"], ["/s.js"])
    assert (page.language, page.text) == ("de", "AB CD hin")
