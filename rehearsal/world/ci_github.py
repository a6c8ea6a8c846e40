"""A GitHub as far as restarting consumers needs it: dispatches, runs, jobs, tokens of apps.

REST API 2022-11-28: 404 for what a token may not see, 403 for what it may not do and for used-up
limits, 422 for inputs that the workflow does not take. A run shows up in lists a moment after its
dispatch.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import jwt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rehearsal.world.ci_runs import Run, Runs, RunState, Window, Work
from rehearsal.world.faults import Faults

MAX_INPUTS = 25
_CREATED = re.compile(r">=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)")
_STATUS = {RunState.QUEUED: "queued", RunState.RUNNING: "in_progress"}
_CONCLUSION = {
    RunState.SUCCEEDED: "success",
    RunState.FAILED: "failure",
    RunState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow file. `inputs` is name -> required; `run_name` shows CONSUMER and RECOVERY_RUN."""

    file: str
    work: Work
    inputs: Mapping[str, bool]
    branches: frozenset[str]
    run_name: str | None
    dispatchable: bool = True


@dataclass(frozen=True, slots=True)
class App:
    """A GitHub App: its id, its public key in PEM, its one installation."""

    app_id: str
    public_key: str = field(repr=False)
    installation_id: str = "41"


class GitHubState:
    """One repository. `modern` servers name the run that a dispatch started."""

    def __init__(
        self,
        *,
        repository: str,
        token: str,
        modern: bool = True,
        hourly_calls: int = 5000,
        window_seconds: float = 3600.0,
        appears_after: timedelta = timedelta(milliseconds=30),
        app: App | None = None,
        html_base: str = "https://github.example",
    ) -> None:
        self.faults = Faults()
        self.runs = Runs(first=9_000_000_001)
        self.repository = repository
        self.modern = modern
        self.window = Window(hourly_calls, window_seconds)
        self.app = app
        self._appears_after = appears_after
        self._html = f"{html_base}/{repository}"
        self._tokens: dict[str, frozenset[str]] = {token: frozenset({"read", "write"})}
        self._workflows: dict[str, Workflow] = {}

    def __repr__(self) -> str:
        return f"GitHubState({self.repository!r})"

    def add_workflow(
        self,
        file: str,
        work: Work,
        inputs: Mapping[str, bool],
        *,
        branches: tuple[str, ...] = ("main",),
        titled: bool = True,
        dispatchable: bool = True,
    ) -> None:
        name = "restart {CONSUMER} {RECOVERY_RUN}" if titled else None
        self._workflows[file] = Workflow(
            file, work, dict(inputs), frozenset(branches), name, dispatchable
        )

    def add_token(self, token: str, *permissions: str) -> None:
        """With `read`, `write` of Actions, both or none of them."""
        self._tokens[token] = frozenset(permissions)

    def revoke_tokens(self) -> None:
        self._tokens.clear()

    def workflow(self, file: str) -> Workflow | None:
        return self._workflows.get(file)

    def permissions(self, authorization: str) -> frozenset[str] | None:
        scheme, _, token = authorization.partition(" ")
        return self._tokens.get(token.strip()) if scheme.lower() in ("bearer", "token") else None

    def dispatched(self, workflow: Workflow, inputs: Mapping[str, str]) -> Run:
        return self.runs.start(workflow.file, inputs, workflow.work, lag=self._appears_after)

    def document(self, run: Run) -> dict[str, object]:
        workflow = self._workflows[run.job]
        names = {"CONSUMER": "", "RECOVERY_RUN": "", **run.parameters}
        title = workflow.run_name.format_map(names) if workflow.run_name else workflow.file
        return {
            "id": run.number,
            "event": "workflow_dispatch",
            "path": f".github/workflows/{run.job}",
            "display_title": title,
            "status": _STATUS.get(run.state, "completed"),
            "conclusion": _CONCLUSION.get(run.state),
            "html_url": f"{self._html}/actions/runs/{run.number}",
            "created_at": f"{run.created:%Y-%m-%dT%H:%M:%SZ}",
        }

    def jobs(self, run: Run) -> list[dict[str, object]]:
        return [
            {
                "id": run.number * 10 + n,
                "name": name,
                "status": _STATUS.get(run.state, "completed"),
                "conclusion": conclusion,
                "html_url": f"{self._html}/actions/runs/{run.number}/job/{run.number * 10 + n}",
            }
            for n, (name, conclusion) in enumerate(
                (("prepare", "success"), ("restart", _CONCLUSION.get(run.state)))
            )
        ]

    def trade(self, assertion: str, installation: str) -> dict[str, object] | None:
        """An installation token for an app's JWT; None where GitHub would not take it."""
        if self.app is None or installation != self.app.installation_id:
            return None
        try:
            claims = jwt.decode(assertion, self.app.public_key, ["RS256"], issuer=self.app.app_id)
        except jwt.PyJWTError:
            return None
        if claims["exp"] - datetime.now(UTC).timestamp() > 600:
            return None
        token = f"ghs_{secrets.token_hex(18)}"
        self._tokens[token] = frozenset({"read", "write"})
        ends = datetime.now(UTC) + timedelta(hours=1)
        return {"token": token, "expires_at": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}


Act = Callable[["_Api", Request], Awaitable[Response]]


def github_app(state: GitHubState) -> ASGIApp:
    """The app to give to `Loopback`."""
    api = _Api(state)
    base = "/repos/{owner}/{name}/actions"
    return state.faults.around(
        Starlette(
            routes=[
                Route("/app/installations/{id}/access_tokens", api.access_tokens, methods=["POST"]),
                Route(
                    f"{base}/workflows/{{file}}/dispatches",
                    api.behind("write", _Api.dispatch),
                    methods=["POST"],
                ),
                Route(f"{base}/workflows/{{file}}/runs", api.behind("read", _Api.listed)),
                Route(f"{base}/runs/{{number:int}}", api.behind("read", _Api.run)),
                Route(f"{base}/runs/{{number:int}}/jobs", api.behind("read", _Api.jobs)),
            ]
        )
    )


class _Api:
    def __init__(self, state: GitHubState) -> None:
        self._state = state

    def behind(self, permission: str, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            refused = self._refused(request, permission)
            answer = refused if refused is not None else await act(self, request)
            window = self._state.window
            answer.headers["x-ratelimit-limit"] = str(window.calls)
            answer.headers["x-ratelimit-remaining"] = str(window.remaining)
            answer.headers["x-ratelimit-reset"] = str(window.resets_at)
            return answer

        return guarded

    def _refused(self, request: Request, permission: str) -> Response | None:
        if not request.headers.get("user-agent"):
            return _problem(403, "Request forbidden by administrative rules.")
        permissions = self._state.permissions(request.headers.get("authorization", ""))
        if permissions is None:
            return _problem(401, "Bad credentials")
        if not self._state.window.take():
            return _problem(403, "API rate limit exceeded for installation.")
        asked = f"{request.path_params['owner']}/{request.path_params['name']}"
        if asked.lower() != self._state.repository.lower() or not permissions:
            return _problem(404, "Not Found")
        if permission not in permissions:
            return _problem(403, "Resource not accessible by personal access token")
        return None

    async def dispatch(self, request: Request) -> Response:
        workflow = self._state.workflow(request.path_params["file"])
        if workflow is None:
            return _problem(404, "Not Found")
        body = await request.json()
        wants_details = body.pop("return_run_details", None)
        if wants_details is not None and not self._state.modern:
            return _problem(422, 'Invalid request.\n\n"return_run_details" is not a permitted key.')
        if problem := _dispatch_problem(workflow, body):
            return _problem(422, problem)
        run = self._state.dispatched(workflow, body.get("inputs") or {})
        if not wants_details:
            return Response(status_code=204)
        html = self._state.document(run)["html_url"]
        path = f"/repos/{self._state.repository}/actions/runs/{run.number}"
        api = f"{str(request.base_url).rstrip('/')}{path}"
        return JSONResponse({"workflow_run_id": run.number, "run_url": api, "html_url": html})

    async def listed(self, request: Request) -> Response:
        workflow = self._state.workflow(request.path_params["file"])
        if workflow is None:
            return _problem(404, "Not Found")
        query = request.query_params
        size = min(100, int(query.get("per_page", "30")))
        page = max(1, int(query.get("page", "1")))
        since = _CREATED.fullmatch(query.get("created", ""))
        event = query.get("event", "workflow_dispatch")
        shown = [
            self._state.document(run)
            for run in self._state.runs.newest_first(workflow.file)
            if event == "workflow_dispatch"
            and run.shows_at <= time.monotonic()
            and (since is None or run.created >= _moment(since[1]))
        ][:1000]
        return JSONResponse(
            {
                "total_count": len(shown),
                "workflow_runs": shown[(page - 1) * size : page * size],
            }
        )

    async def run(self, request: Request) -> Response:
        run = self._state.runs.get(request.path_params["number"])
        return (
            _problem(404, "Not Found") if run is None else JSONResponse(self._state.document(run))
        )

    async def jobs(self, request: Request) -> Response:
        run = self._state.runs.get(request.path_params["number"])
        if run is None:
            return _problem(404, "Not Found")
        jobs = self._state.jobs(run)
        return JSONResponse({"total_count": len(jobs), "jobs": jobs})

    async def access_tokens(self, request: Request) -> Response:
        assertion = request.headers.get("authorization", "").removeprefix("Bearer ")
        body = await request.json()
        if body.get("repositories") != [self._state.repository.split("/")[1]]:
            return _problem(422, "There is at least one repository that does not exist.")
        traded = self._state.trade(assertion, request.path_params["id"])
        if traded is None:
            return _problem(401, "A JSON web token could not be decoded")
        return JSONResponse({**traded, "permissions": body.get("permissions")}, 201)


def _dispatch_problem(workflow: Workflow, body: dict[str, object]) -> str:
    if set(body) - {"ref", "inputs"}:
        return "Invalid request.\n\nUnknown keys."
    inputs = body.get("inputs") or {}
    assert isinstance(inputs, dict)
    if not workflow.dispatchable:
        return "Workflow does not have 'workflow_dispatch' trigger"
    if body.get("ref") not in workflow.branches:
        return f"No ref found for: {body.get('ref')}"
    if len(inputs) > MAX_INPUTS:
        return f"Too many inputs, at most {MAX_INPUTS}"
    unknown = sorted(set(inputs) - set(workflow.inputs))
    if unknown:
        return f"Unexpected inputs provided: {unknown}"
    for name, required in workflow.inputs.items():
        if required and not inputs.get(name):
            return f"Required input '{name}' not provided"
    return ""


def _moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def _problem(status: int, message: str) -> Response:
    return JSONResponse(
        {
            "message": message,
            "documentation_url": "https://docs.github.com/rest",
            "status": str(status),
        },
        status,
    )
