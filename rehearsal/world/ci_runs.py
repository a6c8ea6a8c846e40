"""What every CI server of the world has in common: runs that queue, work, end, or are cancelled by
hand; and the vendor's limit on calls.

What a job does is a callback given to it, as for the world's Jenkins.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

Work = Callable[[Mapping[str, str]], Awaitable[None]]
"""Gets the parameters. Returning is success; an exception's text goes into the log: failure."""


class RunState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Run:
    number: int
    job: str
    parameters: dict[str, str]
    created: datetime
    state: RunState = RunState.QUEUED
    log: list[str] = field(default_factory=list)
    shows_at: float = 0.0
    """Monotonic time from which lists show it."""

    @property
    def ended(self) -> bool:
        return self.state not in (RunState.QUEUED, RunState.RUNNING)


class Runs:
    """All runs of one server, numbered. `aclose` cancels what still works."""

    def __init__(
        self, *, quiet: timedelta = timedelta(milliseconds=20), at_once: int = 4, first: int = 1
    ) -> None:
        self._quiet = quiet.total_seconds()
        self._room = asyncio.Semaphore(at_once)
        self._open = asyncio.Event()
        self._open.set()
        self._next = first
        self._runs: dict[int, Run] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(
        self, job: str, parameters: Mapping[str, str], work: Work, *, lag: timedelta = timedelta(0)
    ) -> Run:
        run = Run(self._next, job, dict(parameters), datetime.now(UTC))
        run.shows_at = time.monotonic() + lag.total_seconds()
        self._next += 1
        self._runs[run.number] = run
        self._tasks[run.number] = asyncio.create_task(self._process(run, work))
        return run

    def get(self, number: int) -> Run | None:
        return self._runs.get(number)

    def newest_first(self, job: str | None = None) -> list[Run]:
        chosen = [r for r in self._runs.values() if job is None or r.job == job]
        return sorted(chosen, key=lambda r: r.number, reverse=True)

    def hold(self) -> None:
        """Nothing leaves the queue until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def cancel_by_hand(self) -> int:
        """A person cancels all that waits or works; returns how many that were."""
        live = [run for run in self._runs.values() if not run.ended]
        for run in live:
            run.state = RunState.CANCELLED
            self._tasks[run.number].cancel()
        return len(live)

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _process(self, run: Run, work: Work) -> None:
        await asyncio.sleep(self._quiet)
        async with self._room:
            await self._open.wait()
            run.state = RunState.RUNNING
            try:
                await work(run.parameters)
                run.state = RunState.SUCCEEDED
            except asyncio.CancelledError:
                run.state = RunState.CANCELLED
                raise
            except Exception as error:
                run.log.append(f"ERROR: {error}")
                run.state = RunState.FAILED


class Window:
    """At most `calls` in each stretch of `seconds`, counted as GitHub and GitLab do."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls = calls
        self._seconds = seconds
        self._used = 0
        self._ends = time.time() + seconds

    def take(self) -> bool:
        """False where the stretch is used up."""
        now = time.time()
        if now >= self._ends:
            self._used, self._ends = 0, now + self._seconds
        self._used += 1
        return self._used <= self.calls

    @property
    def remaining(self) -> int:
        return max(0, self.calls - self._used)

    @property
    def resets_at(self) -> int:
        """Epoch seconds, rounded up."""
        return int(self._ends) + 1

    @property
    def seconds_left(self) -> int:
        return max(1, self.resets_at - int(time.time()))
