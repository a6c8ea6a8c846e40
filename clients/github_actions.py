"""GitHub Actions: start a workflow by `workflow_dispatch`, find its run, follow it to its end.

REST API "Workflows" and "Workflow runs", version 2022-11-28. A dispatch used to answer 204 and
nothing else; newer servers name the run where `return_run_details` asks for it. Where the answer
names none, the run is found by our id in its title: the workflow's `run-name` must show the input
RECOVERY_RUN. A rate limit is a 403 as often as a 429 ("Rate limits for the REST API").
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel

from clients.ci import (
    FOLLOW,
    RUN_PARAMETER,
    START,
    CiRuns,
    Look,
    Search,
    State,
    holds_a_run_id,
    shown_link,
)
from clients.github_app import GitHubLogin
from clients.http import Wire, segment
from clients.http_answers import call_of, named_wait, refusal
from recovery.errors import NotFound, RateLimited, RecoveryError, Refused, Unknown

_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}/[A-Za-z0-9._-]{1,100}")
_PAGE = 100
_PAGES = 10
"""GitHub gives at most 1,000 runs for a filtered list."""
_LOOKED_BACK = timedelta(hours=24)
_UNNAMED_WAIT = timedelta(seconds=60)
"""How long GitHub asks to wait where a secondary limit names no time."""
_WAITING = {
    "queued": "still in the queue",
    "requested": "still in the queue",
    "pending": "held back by the workflow's concurrency group",
    "waiting": "waiting for a review of its environment",
}
# How GitHub's texts for 400 and 422 begin. The texts themselves quote inputs and stay out.
_REFUSALS = (
    ("required input", "missing_input"),
    ("unexpected inputs", "undeclared_input"),
    ("provided value", "input_not_allowed"),
    ("no ref found", "unknown_ref"),
    ("workflow does not have 'workflow_dispatch'", "no_dispatch_trigger"),
    ("cannot trigger a 'workflow_dispatch' on a disabled", "disabled_workflow"),
)


class _Dispatched(BaseModel):
    workflow_run_id: int


class _Run(BaseModel):
    id: int
    html_url: str = ""
    status: str | None = None
    conclusion: str | None = None
    display_title: str = ""


class _Runs(BaseModel):
    workflow_runs: list[_Run]


class _Job(BaseModel):
    html_url: str | None = None
    conclusion: str | None = None


class _Jobs(BaseModel):
    jobs: list[_Job]


class GitHubActionsClient(CiRuns):
    """Of one repository, "owner/name". `job` is a workflow's file name, with `@branch` where it is
    not the client's `ref`. The wire carries no credential of its own: `login` gives it. Without
    `names_runs` a dispatch is not asked for its run (GitHub Enterprise Server of before 2026)."""

    system: ClassVar[str] = "GitHub"

    def __init__(
        self,
        wire: Wire,
        login: GitHubLogin,
        repository: str,
        *,
        ref: str = "main",
        names_runs: bool = True,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        appears_within: timedelta = timedelta(seconds=60),
        **more: Any,
    ) -> None:
        super().__init__(wire, appears_within=appears_within, **more)
        self._login = login
        self._path = f"/repos/{_checked(repository)}/actions"
        self._ref = ref
        self._clock = clock
        self._asks_for_details = names_runs

    async def _find(self, job: str, run_id: str) -> Search:
        workflow, _ = self._split(job)
        since = (self._clock() - _LOOKED_BACK).astimezone(UTC)
        query = {
            "event": "workflow_dispatch",
            "created": f">={since:%Y-%m-%dT%H:%M:%SZ}",
            "per_page": str(_PAGE),
        }
        titled = False
        for page in range(1, _PAGES + 1):
            response = await self._ask(
                "GET",
                f"{self._path}/workflows/{segment(workflow)}/runs",
                job,
                params={**query, "page": str(page)},
            )
            runs = self._wire.read(response, _Runs).workflow_runs
            for run in runs:
                if run_id in run.display_title:
                    return Search(str(run.id))
                titled = titled or holds_a_run_id(run.display_title)
            if len(runs) < _PAGE:
                break
        # Only other runs' titles can show that this workflow puts our id into them.
        return Search(conclusive=titled)

    async def _start(self, job: str, parameters: Mapping[str, str], run_id: str) -> str:
        workflow, ref = self._split(job)
        path = f"{self._path}/workflows/{segment(workflow)}/dispatches"
        body = {"ref": ref, "inputs": {**parameters, RUN_PARAMETER: run_id}}
        response = await self._dispatch(path, job, body)
        if response.status_code == 204:
            return ""
        try:
            return str(self._wire.read(response, _Dispatched).workflow_run_id)
        except Unknown:
            return ""  # it was taken; the run is found by our id

    async def _dispatch(self, path: str, job: str, body: Mapping[str, object]) -> httpx.Response:
        if self._asks_for_details:
            try:
                return await self._post(path, job, {**body, "return_run_details": True})
            except Refused as refused:
                if refused.code != "no_run_details":
                    raise
                # A server from before 2026 knows no such key, and has started nothing.
                self._asks_for_details = False
        return await self._post(path, job, body)

    async def _post(self, path: str, job: str, body: object) -> httpx.Response:
        response = await self._ask("POST", path, job, json=body, ok=(200, 204, 400, 422))
        if response.status_code in (400, 422):
            raise Refused(
                START,
                subject=job,
                code=_refusal_code(response),
                expected="a dispatch that the workflow takes",
                advice=f"Compare the workflow's inputs with CONSUMER and {RUN_PARAMETER}, and the "
                "branch of the block.",
            )
        return response

    async def _look(self, job: str, ref: str, run_id: str) -> Look:
        path = f"{self._path}/runs/{ref}"
        run = self._wire.read(await self._ask("GET", path, job), _Run)
        url = shown_link(run.html_url)
        if run.status != "completed":
            if run.status in _WAITING:
                return Look(State.WAITING, run.id, url, _WAITING[run.status])
            return Look(State.RUNNING, run.id, url)
        conclusion = run.conclusion or "no conclusion"
        if conclusion == "success":
            return Look(State.GREEN, run.id, url, conclusion)
        code = "cancelled" if conclusion == "cancelled" else ""
        return Look(State.RED, run.id, await self._log(job, path, url), conclusion, code=code)

    async def _log(self, job: str, path: str, url: str) -> str:
        """The log of the job that failed; the run's page where that is not to be had."""
        try:
            response = await self._ask("GET", f"{path}/jobs", job, params={"per_page": "100"})
            jobs = self._wire.read(response, _Jobs).jobs
        except RecoveryError:
            return url
        failed = [j.html_url for j in jobs if j.conclusion not in (None, "success", "skipped")]
        return (shown_link(failed[0] or "") if failed else "") or url

    async def _ask(
        self,
        method: str,
        path: str,
        job: str,
        *,
        params: Mapping[str, str] | None = None,
        json: object = None,
        ok: tuple[int, ...] = (200,),
    ) -> httpx.Response:
        authorization = await self._login.authorization(self._wire)
        response = await self._wire.request(
            method,
            path,
            attempted=START if method == "POST" else FOLLOW,
            subject=job,
            params=params,
            json=json,
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": authorization.get_secret_value(),
                "X-GitHub-Api-Version": "2022-11-28",
            },
            ok=(*ok, 403),
            repeatable=method == "GET",
        )
        if response.status_code == 403:
            raise self._forbidden(job, response)
        return response

    def _forbidden(self, job: str, response: httpx.Response) -> RecoveryError:
        """A 403 is a rate limit where a header or the text says so, else a missing permission."""
        headers = response.headers
        limited = (
            "retry-after" in headers
            or headers.get("x-ratelimit-remaining", "") == "0"
            or b"secondary rate limit" in response.content[:4096]
        )
        if not limited:
            return refusal(call_of(response), response)
        named = named_wait(headers, self._clock()) if "retry-after" in headers else None
        if named is None and headers.get("x-ratelimit-remaining", "") == "0":
            named = named_wait(headers, self._clock())
        return RateLimited(
            call_of(response).attempted,
            subject=job,
            retry_after=_UNNAMED_WAIT if named is None else timedelta(seconds=named),
            advice="GitHub did nothing. Other programs may share this token's limit.",
        )

    def _split(self, job: str) -> tuple[str, str]:
        workflow, _, ref = job.partition("@")
        if not workflow:
            raise NotFound(START, subject=job, code="no_workflow")
        return workflow, ref or self._ref


def _checked(repository: str) -> str:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise ValueError('a repository is "owner/name"')
    return repository


def _refusal_code(response: httpx.Response) -> str:
    text = response.content[:4096].decode(errors="replace").lower()
    if "return_run_details" in text:
        return "no_run_details"
    return next((code for begins, code in _REFUSALS if begins in text), "not_dispatched")
