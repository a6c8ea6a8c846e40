"""GitLab: start a pipeline with variables, find it by one of them, follow it to its end.

REST API v4, "Pipelines" and "Jobs". Our id is the variable RECOVERY_RUN; only the one who started a
pipeline, or a maintainer, may read a pipeline's variables, and that is us.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from clients.ci import FOLLOW, RUN_PARAMETER, START, CiRuns, Look, Search, State, shown_link
from clients.http import Wire
from recovery.errors import NotFound, RecoveryError, Refused, Unknown

_PAGE = 50
_PAGES = 4
_LOOKED_BACK = timedelta(hours=24)
_WAITING = {
    "created": "still in the queue",
    "waiting_for_resource": "held back by another job of its resource group",
    "waiting_for_callback": "waiting for an outside system",
    "preparing": "still in the queue",
    "pending": "waiting for a runner",
    "manual": "waiting for a person to start a manual job",
    "scheduled": "waiting for a delayed job",
}
_RED = {"failed": "", "skipped": "build_skipped", "canceled": "cancelled"}


class _Pipeline(BaseModel):
    id: int
    status: str = ""
    web_url: str = ""


class _Variable(BaseModel):
    key: str
    value: str | None = None


class _Job(BaseModel):
    web_url: str = ""


class GitLabClient(CiRuns):
    """`job` is a project: its number or its path "group/name", with `@branch` where it is not the
    client's `ref`. The wire carries the token in PRIVATE-TOKEN."""

    system: ClassVar[str] = "GitLab"

    def __init__(
        self,
        wire: Wire,
        *,
        ref: str = "main",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        **more: Any,
    ) -> None:
        super().__init__(wire, **more)
        self._ref = ref
        self._clock = clock

    async def _find(self, job: str, run_id: str) -> Search:
        project, ref = self._split(job)
        since = (self._clock() - _LOOKED_BACK).astimezone(UTC)
        query = {
            "source": "api",
            "ref": ref,
            "updated_after": f"{since:%Y-%m-%dT%H:%M:%SZ}",
            "order_by": "id",
            "sort": "desc",
            "per_page": str(_PAGE),
        }
        for page in range(1, _PAGES + 1):
            response = await self._get(
                f"{project}/pipelines", job, params={**query, "page": str(page)}
            )
            listed = self._wire.read(response, list[_Pipeline])
            for pipeline in listed:
                if await self._bears(project, pipeline.id, job, run_id):
                    return Search(str(pipeline.id))
            if len(listed) < _PAGE:
                return Search()
        return Search(conclusive=False)

    async def _bears(self, project: str, number: int, job: str, run_id: str) -> bool:
        try:
            response = await self._get(f"{project}/pipelines/{number}/variables", job)
        except NotFound:
            return False  # deleted since the list was made
        found = self._wire.read(response, list[_Variable])
        return any(v.key == RUN_PARAMETER and v.value == run_id for v in found)

    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        project, ref = self._split(job)
        given = {**parameters, RUN_PARAMETER: run_id}
        response = await self._wire.request(
            "POST",
            f"{project}/pipeline",
            attempted=START,
            subject=job,
            json={"ref": ref, "variables": [{"key": k, "value": v} for k, v in given.items()]},
            ok=(201, 400),
            repeatable=False,
        )
        if response.status_code == 400:
            raise Refused(
                START,
                subject=job,
                code=_refusal_code(response),
                expected="a pipeline",
                advice="Check the branch, the rules of .gitlab-ci.yml, and who may set variables "
                "(Settings > CI/CD > Variables > Minimum role).",
            )
        try:
            return str(self._wire.read(response, _Pipeline).id)
        except Unknown:
            return ""  # it was made; it is found by our id

    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        project, _ = self._split(job)
        response = await self._get(f"{project}/pipelines/{ref}", job)
        pipeline = self._wire.read(response, _Pipeline)
        url, status = shown_link(pipeline.web_url), pipeline.status
        if status in _WAITING:
            return Look(State.WAITING, pipeline.id, url, _WAITING[status])
        if status == "success":
            return Look(State.GREEN, pipeline.id, url, status)
        if status in _RED:
            log = await self._log(project, ref, job, url)
            return Look(State.RED, pipeline.id, log, status, code=_RED[status])
        return Look(State.RUNNING, pipeline.id, url)  # running, canceling, what comes new

    async def _log(self, project: str, ref: str, job: str, url: str) -> str:
        """The page with the trace of the job that failed, else the pipeline's."""
        try:
            response = await self._get(
                f"{project}/pipelines/{ref}/jobs", job, params={"scope[]": "failed"}
            )
            failed = self._wire.read(response, list[_Job])
        except RecoveryError:
            return url
        return (shown_link(failed[0].web_url) if failed else "") or url

    async def _get(
        self, path: str, job: str, *, params: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return await self._wire.request(
            "GET", path, attempted=FOLLOW, subject=job, params=params, repeatable=True
        )

    def _split(self, job: str) -> tuple[str, str]:
        """The project's path in the API, and the branch."""
        project, _, ref = job.partition("@")
        parts = project.split("/")
        if any(part in ("", ".", "..") for part in parts) or len(project) > 250:
            raise Refused(START, subject=job[:60], code="malformed_job", expected="group/project")
        return f"/api/v4/projects/{quote(project, safe='')}", ref or self._ref


def _refusal_code(response: httpx.Response) -> str:
    text = response.content[:4096].decode(errors="replace").lower()
    if "reference not found" in text:
        return "unknown_ref"
    if "insufficient permissions to set pipeline variables" in text:
        return "variables_not_allowed"
    return "no_pipeline"
