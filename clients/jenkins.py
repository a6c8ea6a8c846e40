"""Jenkins: start a parameterized job, follow it through the queue to its end.

Remote API of Jenkins core ("Submitting jobs", "Queue", "JSON API"); with an API token no crumb is
needed. A started build goes on without us: while following it, a broken answer is no failure.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import httpx
from pydantic import BaseModel

from clients.http import OnWire, Wire, segment
from recovery.errors import Incomplete, NotFound, RateLimited, Refused, Unknown, Unreachable

_QUEUE_ITEM = re.compile(r"/queue/item/([0-9]{1,18})/?$")
_PASSING = (Unreachable, RateLimited, Unknown, Incomplete)
_START = "Start a CI job"
_FOLLOW = "Follow a CI job"

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Build:
    """A finished build. `url` is for people; it holds nothing secret."""

    number: int
    result: str
    url: str


class _Executable(BaseModel):
    number: int


class _QueueItem(BaseModel):
    cancelled: bool = False
    executable: _Executable | None = None


class _BuildState(BaseModel):
    building: bool
    result: str | None = None


class _Watch:
    """Waits between two looks, until the time for the whole job is over."""

    def __init__(
        self,
        sleep: Sleep,
        monotonic: Callable[[], float],
        poll: timedelta,
        timeout: timedelta,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._poll_seconds = max(0.01, poll.total_seconds())
        self._timeout = timeout
        self._ends_at = monotonic() + timeout.total_seconds()

    async def pause(self, job: str, so_far: str) -> None:
        left = self._ends_at - self._monotonic()
        if left <= 0:
            raise Unknown(
                _FOLLOW,
                subject=job,
                expected=f"an end within {self._timeout.total_seconds():g} s",
                got=so_far,
                advice="Look at it in Jenkins before starting it again.",
            )
        await self._sleep(min(self._poll_seconds, left))


class JenkinsClient(OnWire):
    """Over a wire with Basic auth (user, API token). `monotonic` and `sleep` are for tests."""

    def __init__(
        self,
        wire: Wire,
        *,
        poll: timedelta = timedelta(seconds=5),
        timeout: timedelta = timedelta(minutes=15),
        sleep: Sleep = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wire = wire
        self._poll = poll
        self._timeout = timeout
        self._sleep = sleep
        self._monotonic = monotonic

    async def run(
        self,
        job: str,
        parameters: Mapping[str, str],
        *,
        poll: timedelta | None = None,
        timeout: timedelta | None = None,
    ) -> Build:
        """Starts the job and returns when it has succeeded.

        Refused where it ended otherwise or was cancelled; Unknown where the answer to the start
        was lost or `timeout` passed: it may still be running. `job` may be in folders ("a/b").
        """
        watch = _Watch(self._sleep, self._monotonic, poll or self._poll, timeout or self._timeout)
        path = "".join(f"/job/{segment(part)}" for part in job.split("/"))
        item = await self._start(path, job, parameters)
        number = await self._left_queue(item, job, watch)
        url = f"{self._wire.base_url}{path}/{number}/"
        result = await self._finished(f"{path}/{number}/api/json", job, url, watch)
        if result != "SUCCESS":
            raise Refused(
                "Run a CI job",
                code=f"build_{result.lower()}",
                subject=f"{job} #{number}",
                expected="SUCCESS",
                got=result,
                advice=f"Read the console of {url} and mend the cause.",
            )
        return Build(number, result, url)

    async def _start(self, path: str, job: str, parameters: Mapping[str, str]) -> int:
        response = await self._wire.request(
            "POST",
            f"{path}/buildWithParameters",
            attempted=_START,
            subject=job,
            form=parameters,
            ok=(201,),
            repeatable=False,
        )
        # Only the path counts: Jenkins writes the address it believes to have.
        found = _QUEUE_ITEM.search(response.headers.get("location", ""))
        if found is None:
            raise Unknown(
                _START,
                subject=job,
                expected="the address of a queue item",
                got="none",
                advice="Look into Jenkins whether the job runs.",
            )
        return int(found[1])

    async def _left_queue(self, item: int, job: str, watch: _Watch) -> int:
        """The number of the build that the queue item became."""
        while True:
            try:
                response = await self._get(f"/queue/item/{item}/api/json", job)
                state = self._wire.read(response, _QueueItem)
            except NotFound:
                raise Unknown(
                    _FOLLOW,
                    subject=job,
                    got=f"queue item {item} is gone",
                    advice="Look into Jenkins whether the job ran.",
                ) from None
            except _PASSING:
                state = _QueueItem()
            if state.cancelled:
                raise Refused(
                    _FOLLOW,
                    code="cancelled",
                    subject=job,
                    expected="a build",
                    got="a cancelled queue item",
                    advice="Somebody cancelled it in Jenkins: ask why, then resume.",
                )
            if state.executable is not None:
                return state.executable.number
            await watch.pause(job, f"still in the queue (item {item})")

    async def _finished(self, path: str, job: str, url: str, watch: _Watch) -> str:
        """The result of the build, once it has one."""
        while True:
            try:
                state = self._wire.read(await self._get(path, job), _BuildState)
            # A build that has just left the queue may not be there yet.
            except (NotFound, *_PASSING):
                state = _BuildState(building=True)
            if not state.building and state.result:
                return state.result
            await watch.pause(job, f"still running: {url}")

    async def _get(self, path: str, job: str) -> httpx.Response:
        return await self._wire.request(
            "GET", path, attempted=_FOLLOW, subject=job, repeatable=True
        )
