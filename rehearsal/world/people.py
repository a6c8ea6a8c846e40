"""The people: each reads what reaches him and does what his behaviour says, over the real pages.

Who acts at once is played in real time (`run_prompt`); for everybody else the world's clock is
moved from one deed to the next (`fast_forward`), so that three days pass in seconds.
"""

import asyncio
import heapq
import itertools
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from random import Random
from typing import Self

import aiohttp

from rehearsal.world.cast import Behaviour
from rehearsal.world.clock import WorldClock
from rehearsal.world.mailbox import Mailboxes, Received
from rehearsal.world.people_deeds import Deeds, Person, Story, Surprise
from rehearsal.world.population import Population

LINK = re.compile(r"https?://[^\s\"'<>#]+#t=[A-Za-z0-9_.-]+")

CLOSE = timedelta(minutes=20)
"""Deeds this near to each other are played side by side."""

_TRIES_AGAIN = 3
_STEP_LIMIT = 100_000


class People:
    """Listens to the mailboxes from `__aenter__` on. Everybody has a story, told or not."""

    def __init__(
        self,
        portal_url: str,
        platform_url: str,
        mailboxes: Mailboxes,
        population: Population,
        clock: WorldClock,
        rng: Random,
        *,
        at_once: int = 8,
    ) -> None:
        self._portal_url = portal_url.rstrip("/")
        self._platform_url = platform_url.rstrip("/")
        self._mailboxes = mailboxes
        self._clock = clock
        self._rng = rng
        self._width = asyncio.Semaphore(at_once)
        self._people = {
            seed.id: Person(seed, Story(seed.id, seed.behaviour))
            for seed in population.accounts.values()
        }
        self._by_mailbox: defaultdict[str, list[Person]] = defaultdict(list)
        self._by_phone: defaultdict[str, list[Person]] = defaultdict(list)
        for person in self._people.values():
            if person.seed.email:
                self._by_mailbox[person.seed.email.lower()].append(person)
            if person.seed.phone:
                self._by_phone[person.seed.phone].append(person)
        self._plan: list[tuple[datetime, int, Person]] = []
        self._serial = itertools.count()
        self._news = asyncio.Event()
        self._somebody_asked = False
        self._http: aiohttp.ClientSession | None = None
        self._deeds: Deeds | None = None
        self._deafen: Callable[[], None] | None = None

    @property
    def stories(self) -> dict[str, Story]:
        return {account_id: person.story for account_id, person in self._people.items()}

    def enrolled(self, *, by: datetime | None = None) -> int:
        """How many have a new authenticator, or had one at that time."""
        times = (person.story.enrolled_at for person in self._people.values())
        return sum(1 for at in times if at is not None and (by is None or at <= by))

    def due_before(self, moment: datetime) -> int:
        """How many will act before that time, as far as is known now."""
        return sum(1 for due, _, person in self._plan if person.due == due and due < moment)

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=60)
        )
        self._deeds = Deeds(
            self._http,
            self._portal_url,
            self._platform_url,
            self._mailboxes,
            self._by_mailbox,
            self._clock,
            self._rng,
        )
        self._deafen = self._mailboxes.on_delivery(self._hear)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._deafen is not None:
            self._deafen()
        if self._http is not None:
            await self._http.close()

    # ------------------------------------------------------------------ time

    async def run_prompt(
        self, stop: asyncio.Event, *, longest: timedelta = timedelta(hours=1)
    ) -> None:
        """Plays everybody whose moment has come, in real time, until `stop` is set."""
        running: set[asyncio.Task[None]] = set()
        end = asyncio.get_running_loop().time() + longest.total_seconds()
        while not stop.is_set() and asyncio.get_running_loop().time() < end:
            for person in self._take(self._clock.now()):
                task = asyncio.create_task(self._play(person))
                running.add(task)
                task.add_done_callback(running.discard)
            self._news.clear()
            wakers = [asyncio.create_task(e.wait()) for e in (self._news, stop)]
            await asyncio.wait(
                wakers, timeout=self._seconds_to_next(), return_when=asyncio.FIRST_COMPLETED
            )
            for waker in wakers:
                waker.cancel()
        if running:
            await asyncio.wait(running)

    async def fast_forward(
        self,
        until: datetime,
        advance: Callable[[timedelta], object],
        *,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
        every: timedelta = timedelta(hours=1),
    ) -> None:
        """Moves the world to `until`, from deed to deed in the order of time.

        `meanwhile` is what others do: it runs `every` so often, and soon after somebody asked
        for a fresh link, and returns when the messages it sent have been delivered.
        """
        next_round = self._clock.now() + every
        for _ in range(_STEP_LIMIT):
            await self._mailboxes.settled()
            now = self._clock.now()
            if now >= until:
                return
            target = min(until, self._next_due() or until)
            if meanwhile is not None:
                target = min(target, next_round)
            if target > now:
                advance(target - now)
            await self._play_all(self._take(self._clock.now() + CLOSE))
            if meanwhile is not None and (self._somebody_asked or self._clock.now() >= next_round):
                self._somebody_asked = False
                await meanwhile()
                next_round = self._clock.now() + every
        raise RuntimeError("the people act without end")

    def _next_due(self) -> datetime | None:
        while self._plan and self._plan[0][2].due != self._plan[0][0]:
            heapq.heappop(self._plan)
        return self._plan[0][0] if self._plan else None

    def _seconds_to_next(self) -> float:
        due = self._next_due()
        if due is None:
            return 0.5
        return min(0.5, max(0.0, (due - self._clock.now()).total_seconds()))

    def _take(self, moment: datetime) -> list[Person]:
        taken: list[Person] = []
        while (due := self._next_due()) is not None and due <= moment:
            person = heapq.heappop(self._plan)[2]
            person.due = None
            taken.append(person)
        return taken

    def _plan_for(self, person: Person, due: datetime) -> None:
        person.due = due
        heapq.heappush(self._plan, (due, next(self._serial), person))
        self._news.set()

    # ------------------------------------------------------------------ messages

    async def _hear(self, received: Received) -> None:
        if received.channel == "sms":
            for person in self._by_phone.get(received.to, ()):
                person.story.received["sms"] += 1
            return
        reader = self._reader_of(received)
        if reader is None:
            return
        reader.story.received["email"] += 1
        if reader.story.first_told_at is None:
            reader.story.first_told_at = received.at
        found = LINK.search(f"{received.text or ''}\n{received.html or ''}")
        if found is None or reader.story.enrolled_at is not None:
            return
        reader.told.add(received.notice_id)
        reader.link = found[0]
        reader.story.stuck = ""
        due = self._decide(reader)
        if due is not None:
            self._plan_for(reader, due)

    def _reader_of(self, received: Received) -> Person | None:
        """Whose message it is; in a mailbox that two share, by the handle that is named in it."""
        readers = self._by_mailbox.get(received.to.lower(), [])
        said = f"{received.subject} {received.text} {received.html}"
        named = [person for person in readers if person.seed.handle in said]
        return min(named or readers, key=lambda person: len(person.told), default=None)

    def _decide(self, person: Person) -> datetime | None:
        now = self._clock.now()
        if person.seed.behaviour is Behaviour.BYSTANDER:
            return None
        if person.asked:
            return now + timedelta(seconds=self._rng.randint(20, 240))
        if person.seed.behaviour is Behaviour.NEEDS_FOLLOW_UP and len(person.told) < 2:
            return None
        # A second message finds him with a plan already; he will open the newer link then.
        return person.due or now + person.seed.delay

    # ------------------------------------------------------------------ deeds

    async def _play_all(self, people: list[Person]) -> None:
        async with asyncio.TaskGroup() as group:
            for person in people:
                group.create_task(self._play(person))

    async def _play(self, person: Person) -> None:
        """One deed to its end. What goes wrong is in the story; he tries again some minutes on."""
        if self._deeds is None:
            raise RuntimeError("people act inside `async with`")
        asked = person.story.fresh_links_asked
        async with self._width:
            try:
                pause = await self._deeds.enroll(person)
            except (Surprise, aiohttp.ClientError, TimeoutError) as error:
                person.failures += 1
                person.story.errors.append(f"{type(error).__name__}: {error}")
                again = person.failures <= _TRIES_AGAIN
                pause = timedelta(seconds=self._rng.randint(120, 600)) if again else None
        self._somebody_asked |= person.story.fresh_links_asked > asked
        if pause is not None and person.due is None:
            self._plan_for(person, self._clock.now() + pause)
