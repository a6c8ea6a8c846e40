"""What every CI client promises: a run starts once under an id of ours and is followed to its end.

The id is how a run is found again after a lost answer or a crash, so a start is repeated only where
the CI was asked and certainly knows no run of that id. A started job goes on without us: while it
is followed, a broken answer is no failure.
"""

import asyncio
import re
import secrets
import time
from abc import ABC, abstractmethod
from base64 import b32encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar
from urllib.parse import urlsplit

from clients.http import OnWire, Wire
from recovery.errors import (
    Incomplete,
    NotFound,
    RateLimited,
    Refused,
    Unknown,
    Unreachable,
)

RUN_PARAMETER = "RECOVERY_RUN"
"""The parameter, input or variable of a job that takes the run's id."""
START = "Start a CI job"
FOLLOW = "Follow a CI job"
PASSING = (Unreachable, Unknown, Incomplete)
"""Errors of a look that the next look may not meet."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,62}")
_MARKED = re.compile(r"\brecovery-[a-z2-7]{16}\b")
_LONGEST_LINK = 500

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Build:
    """A finished run. `number` is the CI's own name for it, `url` its log for people; it holds
    nothing secret."""

    number: int | str
    result: str
    url: str


class State(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    GREEN = "green"
    RED = "red"


@dataclass(frozen=True, slots=True)
class Look:
    """A run as it stood at one look. `says` is the CI's own word; `code` and `advice` are for a
    red one. `moved_to` is where to look next, where a run changes its address."""

    state: State
    number: int | str = ""
    url: str = ""
    says: str = ""
    code: str = ""
    advice: str = ""
    moved_to: str = ""


@dataclass(frozen=True, slots=True)
class Search:
    """What looking for a run by its id gave. Not `conclusive`: there may be one all the same. Not
    `findable`: the job does not keep our id, so that looking again tells nothing."""

    ref: str = ""
    conclusive: bool = True
    findable: bool = True


def new_run_id() -> str:
    """An id for a run that nobody will look for after this process."""
    return f"recovery-{b32encode(secrets.token_bytes(10)).decode().lower()}"


def holds_a_run_id(text: str) -> bool:
    """Whether an id of ours, of whichever run, stands in a title."""
    return _MARKED.search(text) is not None


def shown_link(url: str) -> str:
    """A link of the CI's answer as it may be shown to people: http(s), no credentials, no query;
    empty for anything else."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not parts.username
    except ValueError:
        return ""
    if not usable or not url.isascii() or not url.isprintable() or len(url) > _LONGEST_LINK:
        return ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


class _Watch:
    """Waits between two looks, until the time for the whole job is over."""

    def __init__(
        self,
        sleep: Sleep,
        monotonic: Callable[[], float],
        poll: timedelta,
        timeout: timedelta,
        system: str,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._poll_seconds = max(0.01, poll.total_seconds())
        self._timeout = timeout
        self._system = system
        self._began = monotonic()

    @property
    def elapsed(self) -> float:
        return self._monotonic() - self._began

    async def pause(self, job: str, so_far: str, *, at_least: timedelta = timedelta(0)) -> None:
        """Unknown with `so_far` once the time is over."""
        left = self._timeout.total_seconds() - self.elapsed
        if left <= 0:
            raise Unknown(
                FOLLOW,
                subject=job,
                expected=f"an end within {self._timeout.total_seconds():g} s",
                got=so_far,
                advice=f"Look at it in {self._system} before starting it again.",
            )
        await self._sleep(min(max(self._poll_seconds, at_least.total_seconds()), left))


class CiRuns(OnWire, ABC):
    """The shared half of every CI client; a product says how to find, start and look.

    `appears_within` is how long a run that was started may be missing in the CI's lists.
    `monotonic` and `sleep` are for tests.
    """

    system: ClassVar[str]

    def __init__(
        self,
        wire: Wire,
        *,
        poll: timedelta = timedelta(seconds=5),
        timeout: timedelta = timedelta(minutes=15),
        appears_within: timedelta = timedelta(seconds=15),
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._poll = poll
        self._timeout = timeout
        self._appears_within = appears_within.total_seconds()
        self._sleep = sleep
        self._monotonic = monotonic
        self._begun: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._wire!r})"

    async def run(
        self,
        job: str,
        parameters: Mapping[str, str],
        *,
        run_id: str = "",
        poll: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> Build:
        """Starts the job and returns when it has succeeded.

        With a `run_id` that the CI knows already, no second run is started: that one is followed,
        ended or not. Refused, with the link, where it ended otherwise or was cancelled; Unknown
        where `timeout` passed (it says whether the job still runs, with the link) or where the
        answer to the start was lost and no run can be found.
        """
        if run_id and not _RUN_ID.fullmatch(run_id):
            raise Refused(
                START,
                subject=job,
                code="malformed_run_id",
                expected="8 to 63 letters, digits, dots, underscores and dashes",
            )
        watch = _Watch(
            self._sleep,
            self._monotonic,
            poll or self._poll,
            timeout or self._timeout,
            self.system,
        )
        ref = await self._known_before(job, run_id, watch) if run_id else ""
        run_id = run_id or new_run_id()
        if not ref:
            ref = await self._started(job, parameters, run_id, watch)
        self._begun[run_id] = ref
        return await self._followed(job, ref, run_id, watch)

    @abstractmethod
    async def _find(self, job: str, run_id: str) -> Search:
        """The run of that id, wherever it stands."""

    @abstractmethod
    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        """Starts it once; returns where to look, empty where the answer does not tell. Unknown
        where the answer was lost."""

    @abstractmethod
    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        """One look at the run."""

    async def _known_before(self, job: str, run_id: str, watch: _Watch) -> str:
        if run_id in self._begun:
            return self._begun[run_id]  # the CI's lists may lag behind
        while True:
            try:
                return (await self._find(job, run_id)).ref
            except RateLimited as busy:
                wait = busy.retry_after
            except PASSING:
                wait = timedelta(0)
            await watch.pause(
                job,
                "no answer whether it was started before; nothing new was started",
                at_least=wait,
            )

    async def _started(
        self, job: str, parameters: Mapping[str, str], run_id: str, watch: _Watch
    ) -> str:
        """One start; a second one only where the first certainly left nothing."""
        again = True
        while True:
            try:
                ref = await self._start(job, parameters, run_id)
            except RateLimited as busy:
                await watch.pause(job, "not started: too many calls", at_least=busy.retry_after)
                continue
            except Unknown as lost:
                search = await self._sought(job, run_id, watch)
                if search.ref:
                    return search.ref
                if not search.conclusive or not again:
                    raise lost from None
                again = False
                continue
            if ref:
                return ref
            search = await self._sought(job, run_id, watch)
            if search.ref:
                return search.ref
            raise Unknown(
                START,
                subject=job,
                expected="a run with our id in it",
                got="none",
                advice=f"It was accepted. Look into {self.system}; does the job take and show "
                f"{RUN_PARAMETER}?",
            )

    async def _sought(self, job: str, run_id: str, watch: _Watch) -> Search:
        """Looks for as long as a run may need to appear."""
        began = watch.elapsed
        last = Search(conclusive=False)
        while True:
            wait = timedelta(0)
            try:
                last = await self._find(job, run_id)
            except RateLimited as busy:
                wait = busy.retry_after
            except (*PASSING, NotFound):
                last = Search(conclusive=False)
            over = watch.elapsed - began >= self._appears_within
            if last.ref or over or not last.findable:
                return last
            await watch.pause(job, "started, and its run was not found", at_least=wait)

    async def _followed(self, job: str, ref: str, run_id: str, watch: _Watch) -> Build:
        began = watch.elapsed
        seen = Look(State.WAITING, says="not seen yet")
        while True:
            wait, missed = timedelta(0), True
            try:
                seen = await self._look(job, ref, run_id)
                missed = False
            except NotFound:
                # What has just been started may not be there yet.
                if watch.elapsed - began >= self._appears_within:
                    raise
            except RateLimited as busy:
                wait = busy.retry_after
            except PASSING:
                pass
            if seen.moved_to and seen.moved_to != ref:
                ref = seen.moved_to
                continue
            if not missed and seen.state is State.GREEN:
                return Build(seen.number, seen.says, seen.url)
            if not missed and seen.state is State.RED:
                raise self._red(job, seen)
            await watch.pause(job, _so_far(seen, missed), at_least=wait)

    def _red(self, job: str, seen: Look) -> Refused:
        return Refused(
            "Run a CI job",
            code=seen.code or f"build_{seen.says.lower()}",
            subject=f"{job} #{seen.number}" if seen.number else job,
            expected="success",
            got=seen.says,
            advice=seen.advice or f"Read the log at {seen.url} and mend the cause.",
        )


def _so_far(seen: Look, missed: bool) -> str:
    text = seen.says if seen.state is State.WAITING else "still running"
    text = f"{text}: {seen.url}" if seen.url else text
    return f"{text} (the last look got no answer)" if missed else text
