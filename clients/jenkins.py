"""Jenkins: start a parameterized job, follow it through the queue to its end.

Remote API of Jenkins core ("Submitting jobs", "Queue", "JSON API"); with an API token no crumb is
needed. Our id is a parameter of the job: Jenkins drops it where the job does not declare it
(SECURITY-170), and then a start whose answer was lost can't be looked for.
"""

import re
from collections.abc import Mapping
from typing import ClassVar

import httpx
from pydantic import BaseModel, Field

from clients.ci import FOLLOW, RUN_PARAMETER, START, Build, CiRuns, Look, Search, State
from clients.http import segment
from recovery.errors import NotFound, Unknown

__all__ = ["Build", "JenkinsClient"]

_QUEUE_ITEM = re.compile(r"/queue/item/([0-9]{1,18})/?$")
_IN_QUEUE = "queue/"
_PARAMETERS = "actions[parameters[name,value]]"
_BUILDS_LOOKED_AT = 200


class _Executable(BaseModel):
    number: int


class _QueueItem(BaseModel):
    cancelled: bool = False
    executable: _Executable | None = None


class _BuildState(BaseModel):
    building: bool
    result: str | None = None


class _Parameter(BaseModel):
    name: str
    # A job may have parameters that are no texts: files, booleans, runs.
    value: object = None


class _Action(BaseModel):
    parameters: list[_Parameter] = []


class _Marked(BaseModel):
    actions: list[_Action | None] = []

    def bears(self, run_id: str) -> bool:
        given = [p for a in self.actions if a for p in a.parameters]
        return any(p.name == RUN_PARAMETER and p.value == run_id for p in given)


class _Waiting(_Marked):
    id: int


class _Queue(BaseModel):
    items: list[_Waiting]


class _Numbered(_Marked):
    number: int


class _Definition(BaseModel):
    name: str


class _Property(BaseModel):
    definitions: list[_Definition] = Field(default=[], alias="parameterDefinitions")


class _Job(BaseModel):
    properties: list[_Property | None] = Field(default=[], alias="property")
    builds: list[_Numbered] = []

    @property
    def takes_our_id(self) -> bool:
        return any(d.name == RUN_PARAMETER for p in self.properties if p for d in p.definitions)


class JenkinsClient(CiRuns):
    """Over a wire with Basic auth (user, API token). `job` may be in folders ("a/b")."""

    system: ClassVar[str] = "Jenkins"

    async def _find(self, job: str, run_id: str) -> Search:
        # The queue first: an item leaves it for the builds, never the other way.
        queue = self._wire.read(
            await self._get("/queue/api/json", job, tree=f"items[id,{_PARAMETERS}]"), _Queue
        )
        for item in queue.items:
            if item.bears(run_id):
                return Search(f"{_IN_QUEUE}{item.id}")
        shape = (
            "property[parameterDefinitions[name]],"
            f"builds[number,{_PARAMETERS}]{{0,{_BUILDS_LOOKED_AT}}}"
        )
        found = self._wire.read(await self._get(f"{_path(job)}/api/json", job, tree=shape), _Job)
        for build in found.builds:
            if build.bears(run_id):
                return Search(str(build.number))
        return Search(conclusive=found.takes_our_id, findable=found.takes_our_id)

    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        response = await self._wire.request(
            "POST",
            f"{_path(job)}/buildWithParameters",
            attempted=START,
            subject=job,
            form={**parameters, RUN_PARAMETER: run_id},
            ok=(201,),
            repeatable=False,
        )
        # Only the path counts: Jenkins writes the address it believes to have.
        found = _QUEUE_ITEM.search(response.headers.get("location", ""))
        if found is None:
            raise Unknown(
                START,
                subject=job,
                expected="the address of a queue item",
                got="none",
                advice="Look into Jenkins whether the job runs.",
            )
        return f"{_IN_QUEUE}{found[1]}"

    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        if ref.startswith(_IN_QUEUE):
            return await self._in_queue(job, ref.removeprefix(_IN_QUEUE), run_id)
        url = f"{self._wire.base_url}{_path(job)}/{ref}/"
        number = int(ref)
        try:
            response = await self._get(f"{_path(job)}/{ref}/api/json", job)
        except NotFound:
            # A build that has just left the queue may not be there yet.
            return Look(State.RUNNING, number, url)
        state = self._wire.read(response, _BuildState)
        if state.building or not state.result:
            return Look(State.RUNNING, number, url)
        if state.result == "SUCCESS":
            return Look(State.GREEN, number, url, state.result)
        code = "cancelled" if state.result == "ABORTED" else ""
        advice = f"Read the console of {url} and mend the cause."
        return Look(State.RED, number, url, state.result, code=code, advice=advice)

    async def _in_queue(self, job: str, item: str, run_id: str) -> Look:
        """The build that the queue item became, or that it still waits."""
        try:
            response = await self._get(f"/queue/item/{item}/api/json", job)
        except NotFound:
            # Jenkins forgets an item five minutes after it became a build.
            search = await self._find(job, run_id)
            if search.ref and not search.ref.startswith(_IN_QUEUE):
                return Look(State.WAITING, moved_to=search.ref)
            raise
        state = self._wire.read(response, _QueueItem)
        if state.cancelled:
            return Look(
                State.RED,
                says="a cancelled queue item",
                code="cancelled",
                advice="Somebody cancelled it in Jenkins: ask why, then resume.",
            )
        if state.executable is not None:
            number = state.executable.number
            url = f"{self._wire.base_url}{_path(job)}/{number}/"
            return Look(State.RUNNING, number, url, moved_to=str(number))
        return Look(State.WAITING, says=f"still in the queue (item {item})")

    async def _get(self, path: str, job: str, *, tree: str = "") -> httpx.Response:
        return await self._wire.request(
            "GET",
            path,
            attempted=FOLLOW,
            subject=job,
            params={"tree": tree} if tree else None,
            repeatable=True,
        )


def _path(job: str) -> str:
    return "".join(f"/job/{segment(part)}" for part in job.split("/"))
