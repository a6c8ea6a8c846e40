"""A Jenkins as far as restarting consumers needs it: parameterized jobs, queue, builds, console.

Remote API of Jenkins core. What a job does is a callback given to it; it runs after a quiet
period, one build per executor.
"""

import asyncio
import base64
import hmac
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rehearsal.world.faults import Faults

Work = Callable[[Mapping[str, str]], Awaitable[None]]
"""Gets the parameters. Returning is SUCCESS; an exception's text goes to the console: FAILURE."""

_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Jenkins"'}


class BuildResult(StrEnum):
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Job:
    """A job and the parameters that it knows, with their defaults; others are ignored."""

    name: str
    work: Work
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Build:
    job: Job
    number: int
    parameters: dict[str, str]
    started: float
    console: list[str] = field(default_factory=list)
    result: BuildResult | None = None
    milliseconds: int = 0


@dataclass(slots=True)
class _Item:
    id: int
    job: Job
    parameters: dict[str, str]
    why: str | None = "In the quiet period"
    build: _Build | None = None
    cancelled: bool = False


class JenkinsState:
    """One user with an API token, some jobs, some executors. `aclose` aborts what still runs."""

    def __init__(
        self,
        *,
        user: str,
        api_token: str,
        quiet_period: timedelta = timedelta(milliseconds=50),
        executors: int = 4,
    ) -> None:
        self.faults = Faults()
        self._user = user
        self._tokens = {api_token: True}
        self._quiet_seconds = quiet_period.total_seconds()
        self._executors = asyncio.Semaphore(executors)
        self._jobs: dict[str, Job] = {}
        self._items: dict[int, _Item] = {}
        self._builds: dict[tuple[str, int], _Build] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._working: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()
        self._open.set()

    def __repr__(self) -> str:
        return f"JenkinsState({sorted(self._jobs)})"

    def add_job(self, name: str, work: Work, parameters: Mapping[str, str] | None = None) -> None:
        self._jobs[name] = Job(name, work, dict(parameters or {}))

    def builds_of(self, job: str) -> list[dict[str, str]]:
        """The parameters of every build of the job, in the order of their numbers."""
        return [b.parameters for (name, _), b in sorted(self._builds.items()) if name == job]

    def hold(self) -> None:
        """No executor takes anything from the queue until `release`."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def abort_builds(self) -> int:
        """Somebody stops what runs, by hand; returns how many builds that were."""
        running = [t for t in self._working if not t.done()]
        for task in running:
            task.cancel()
        return len(running)

    def cancel_queue(self) -> int:
        """Somebody empties the queue by hand; returns how many items were in it."""
        waiting = [i for i in self._items.values() if i.build is None and not i.cancelled]
        for item in waiting:
            item.cancelled, item.why = True, None
        return len(waiting)

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def add_reader(self, api_token: str) -> None:
        """A token whose user may look at jobs and not build them."""
        self._tokens[api_token] = False

    def lets_in(self, header: str) -> bool:
        return self._known(header) is not None

    def lets_build(self, header: str) -> bool:
        token = self._known(header)
        return token is not None and self._tokens[token]

    def _known(self, header: str) -> str | None:
        scheme, _, given = header.partition(" ")
        for token in self._tokens:
            expected = base64.b64encode(f"{self._user}:{token}".encode()).decode()
            if scheme.lower() == "basic" and hmac.compare_digest(given.strip(), expected):
                return token
        return None

    def enqueue(self, name: str, given: Mapping[str, str]) -> int | None:
        """The queue item's number; that of an equal item which still waits, if there is one, as
        Jenkins merges these. None for an unknown job."""
        job = self._jobs.get(name)
        if job is None:
            return None
        parameters = {n: given.get(n, default) for n, default in job.parameters.items()}
        for item in self._items.values():
            waits = item.build is None and not item.cancelled
            if waits and item.job is job and item.parameters == parameters:
                return item.id
        item = _Item(len(self._items) + 1, job, parameters)
        self._items[item.id] = item
        task = asyncio.create_task(self._process(item), name=f"jenkins-{name}-{item.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return item.id

    def item(self, number: int) -> _Item | None:
        return self._items.get(number)

    def build(self, job: str, number: int) -> _Build | None:
        return self._builds.get((job, number))

    async def _process(self, item: _Item) -> None:
        await asyncio.sleep(self._quiet_seconds)
        item.why = None if item.cancelled else "Waiting for next available executor"
        async with self._executors:
            if item.cancelled:
                return
            await self._open.wait()
            if item.cancelled:
                return
            number = 1 + sum(name == item.job.name for name, _ in self._builds)
            build = _Build(item.job, number, item.parameters, time.monotonic())
            self._builds[item.job.name, number] = build
            item.build, item.why = build, None
            working = asyncio.create_task(_work_off(build))
            self._working.add(working)
            try:
                await asyncio.wait({working})
            finally:
                working.cancel()
                self._working.discard(working)
                if build.result is None and working.done():
                    # Aborted before its first step: no line of it has run to say so.
                    build.result = BuildResult.ABORTED

    def job(self, name: str) -> Job | None:
        return self._jobs.get(name)

    def waiting(self) -> list[_Item]:
        """The queue, oldest first."""
        return [i for i in self._items.values() if i.build is None and not i.cancelled]

    def built(self, job: str) -> list[_Build]:
        """Every build of the job, newest first."""
        return [b for (name, _), b in sorted(self._builds.items(), reverse=True) if name == job]


async def _work_off(build: _Build) -> None:
    build.console.append("Started by user recovery")
    try:
        await build.job.work(build.parameters)
        build.result = BuildResult.SUCCESS
    except asyncio.CancelledError:
        build.result = BuildResult.ABORTED
        raise
    except Exception as error:
        build.console.append(f"ERROR: {error}")
        build.result = BuildResult.FAILURE
    finally:
        build.console.append(f"Finished: {build.result}")
        build.milliseconds = round((time.monotonic() - build.started) * 1000)


def jenkins_app(state: JenkinsState) -> ASGIApp:
    """The app to give to `Loopback`."""
    api = _Api(state)
    return state.faults.around(
        Starlette(
            routes=[
                Route("/job/{job}/buildWithParameters", api.trigger, methods=["POST"]),
                Route("/queue/api/json", api.queue),
                Route("/job/{job}/api/json", api.job),
                Route("/queue/item/{number:int}/api/json", api.queue_item),
                Route("/job/{job}/{number:int}/api/json", api.build),
                Route("/job/{job}/{number:int}/consoleText", api.console),
            ]
        )
    )


class _Api:
    def __init__(self, state: JenkinsState) -> None:
        self._state = state

    async def trigger(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        if not self._state.lets_build(request.headers.get("authorization", "")):
            page = f"<html>{request.path_params['job']}: missing the Job/Build permission</html>"
            return HTMLResponse(page, 403)
        async with request.form() as form:
            given = {name: value for name, value in form.items() if isinstance(value, str)}
        number = self._state.enqueue(request.path_params["job"], given)
        if number is None:
            return _not_found()
        return Response(
            status_code=201, headers={"Location": f"{_base(request)}queue/item/{number}/"}
        )

    async def queue(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        items = [
            {"id": i.id, "why": i.why, "actions": _actions(i.parameters)}
            for i in self._state.waiting()
        ]
        return JSONResponse({"items": items})

    async def job(self, request: Request) -> Response:
        """As `tree=property[…],builds[…]{0,n}` shows it; without a tree Jenkins gives no actions of
        the builds."""
        if (refused := self._refused(request)) is not None:
            return refused
        job = self._state.job(request.path_params["job"])
        if job is None:
            return _not_found()
        most = re.search(r"builds\[[^{]*\]\{0,(\d+)\}", request.query_params.get("tree", ""))
        builds = self._state.built(job.name)[: int(most[1]) if most else 0]
        definitions = [{"name": name} for name in job.parameters]
        return JSONResponse(
            {
                # Jenkins shows properties without a shared field as empty objects.
                "property": [{}, {"parameterDefinitions": definitions}],
                "builds": [
                    {"number": b.number, "actions": [{}, *_actions(b.parameters)]} for b in builds
                ],
            }
        )

    async def queue_item(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        item = self._state.item(request.path_params["number"])
        if item is None:
            return _not_found()
        document: dict[str, object] = {"id": item.id, "why": item.why}
        if item.cancelled:
            document["cancelled"] = True
        if item.build is not None:
            build = item.build
            document["executable"] = {"number": build.number, "url": _url(request, build)}
        return JSONResponse(document)

    async def build(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        build = self._found(request)
        if build is None:
            return _not_found()
        return JSONResponse(
            {
                "building": build.result is None,
                "result": build.result,
                "url": _url(request, build),
                "number": build.number,
                "duration": build.milliseconds,
            }
        )

    async def console(self, request: Request) -> Response:
        if (refused := self._refused(request)) is not None:
            return refused
        build = self._found(request)
        if build is None:
            return _not_found()
        return PlainTextResponse("\n".join(build.console) + "\n")

    def _found(self, request: Request) -> _Build | None:
        return self._state.build(request.path_params["job"], request.path_params["number"])

    def _refused(self, request: Request) -> Response | None:
        """Jenkins answers 401 before it says whether something exists; its errors are pages."""
        if self._state.lets_in(request.headers.get("authorization", "")):
            return None
        return HTMLResponse("<html><h2>HTTP ERROR 401</h2></html>", 401, headers=_CHALLENGE)


def _not_found() -> Response:
    return HTMLResponse("<html><h2>HTTP ERROR 404 Not Found</h2></html>", 404)


def _actions(parameters: Mapping[str, str]) -> list[dict[str, object]]:
    given = [{"name": name, "value": value} for name, value in parameters.items()]
    return [{"parameters": given}] if given else []


def _base(request: Request) -> str:
    return str(request.base_url)


def _url(request: Request, build: _Build) -> str:
    return f"{_base(request)}job/{quote(build.job.name)}/{build.number}/"
