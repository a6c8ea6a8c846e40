"""A GitLab as far as restarting consumers needs it: pipelines with variables, their jobs.

REST API v4: a project is named by its number or by its path with an encoded slash; the variables of
a pipeline are shown to its author and to maintainers; scopes and roles are told apart.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rehearsal.world.ci_runs import Run, Runs, RunState, Window, Work
from rehearsal.world.faults import Faults

_STATUS = {
    RunState.QUEUED: "pending",
    RunState.RUNNING: "running",
    RunState.SUCCEEDED: "success",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "canceled",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A project access token: its user, its scope (api, read_api), its role on the project."""

    user: str
    scope: str = "api"
    role: str = "developer"


@dataclass(frozen=True, slots=True)
class Project:
    number: int
    path: str
    work: Work
    branches: frozenset[str]


class GitLabState:
    """Some projects, one work each. `odd_status` overrides what a pipeline's status says."""

    def __init__(
        self,
        *,
        token: str,
        calls: int = 2000,
        window_seconds: float = 60.0,
        html_base: str = "https://gitlab.example",
    ) -> None:
        self.faults = Faults()
        self.runs = Runs(first=5001)
        self.window = Window(calls, window_seconds)
        self.odd_status: dict[int, str] = {}
        self.html_base = html_base
        self._tokens = {token: Token("recovery-bot")}
        self._projects: dict[str, Project] = {}
        self._authors: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"GitLabState({sorted(self._projects)})"

    def add_project(self, path: str, work: Work, *, branches: tuple[str, ...] = ("main",)) -> None:
        number = len(self._projects) + 101
        self._projects[path] = Project(number, path, work, frozenset(branches))

    def add_token(self, value: str, token: Token) -> None:
        self._tokens[value] = token

    def project(self, name: str) -> Project | None:
        by_number = (p for p in self._projects.values() if str(p.number) == name)
        return self._projects.get(name) or next(by_number, None)

    def token(self, request: Request) -> Token | None:
        value = request.headers.get("private-token", "")
        if not value:
            value = request.headers.get("authorization", "").removeprefix("Bearer ")
        return self._tokens.get(value)

    def trigger(self, project: Project, variables: dict[str, str], user: str) -> Run:
        run = self.runs.start(project.path, variables, project.work)
        self._authors[run.number] = user
        return run

    def author(self, run: Run) -> str:
        return self._authors[run.number]

    def document(self, run: Run, ref: str = "main") -> dict[str, Any]:
        moment = f"{run.created:%Y-%m-%dT%H:%M:%S.000Z}"
        return {
            "id": run.number,
            "iid": run.number - 5000,
            "status": self.odd_status.get(run.number, _STATUS[run.state]),
            "source": "api",
            "ref": ref,
            "web_url": f"{self.html_base}/{run.job}/-/pipelines/{run.number}",
            "created_at": moment,
            "updated_at": moment,
        }


Act = Callable[["_Api", Request, Project, Token], Awaitable[Response]]


def gitlab_app(state: GitLabState) -> ASGIApp:
    """The app to give to `Loopback`."""
    api = _Api(state)
    base = "/api/v4/projects/{project:path}"
    pipeline = f"{base}/pipelines/{{number:int}}"
    return state.faults.around(
        Starlette(
            routes=[
                Route(f"{base}/pipeline", api.behind(_Api.create), methods=["POST"]),
                Route(f"{pipeline}/variables", api.behind(_Api.variables)),
                Route(f"{pipeline}/jobs", api.behind(_Api.jobs)),
                Route(pipeline, api.behind(_Api.pipeline)),
                Route(f"{base}/pipelines", api.behind(_Api.pipelines)),
            ]
        )
    )


class _Api:
    def __init__(self, state: GitLabState) -> None:
        self._state = state

    def behind(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            window = self._state.window
            if not window.take():
                return PlainTextResponse(
                    "Retry later\n",
                    429,
                    headers={
                        "Retry-After": str(window.seconds_left),
                        "RateLimit-Limit": str(window.calls),
                        "RateLimit-Remaining": "0",
                        "RateLimit-Reset": str(window.resets_at),
                    },
                )
            token = self._state.token(request)
            if token is None:
                return JSONResponse({"message": "401 Unauthorized"}, 401)
            if request.method != "GET" and token.scope != "api":
                return JSONResponse(
                    {
                        "error": "insufficient_scope",
                        "error_description": "The request requires higher privileges than "
                        "provided by the access token.",
                        "scope": "api",
                    },
                    403,
                )
            # A path whose slash is not encoded is another route of GitLab's.
            raw = request.scope["raw_path"].decode()
            named = raw.removeprefix("/api/v4/projects/").split("/")[0]
            project = self._state.project(request.path_params["project"])
            if project is None or ("/" in request.path_params["project"] and "%2F" not in named):
                return JSONResponse({"message": "404 Project Not Found"}, 404)
            return await act(self, request, project, token)

        return guarded

    async def create(self, request: Request, project: Project, token: Token) -> Response:
        if token.role not in ("developer", "maintainer"):
            return JSONResponse({"message": "403 Forbidden"}, 403)
        body = await request.json()
        if body.get("ref") not in project.branches:
            return JSONResponse({"message": {"base": ["Reference not found"]}}, 400)
        variables = {v["key"]: str(v["value"]) for v in body.get("variables", [])}
        run = self._state.trigger(project, variables, token.user)
        return JSONResponse(self._state.document(run, body["ref"]), 201)

    async def pipelines(self, request: Request, project: Project, _: Token) -> Response:
        query = request.query_params
        size = min(100, int(query.get("per_page", "20")))
        page = max(1, int(query.get("page", "1")))
        since = query.get("updated_after")
        moment = datetime.min.replace(tzinfo=UTC)
        if since:
            moment = datetime.fromisoformat(since.replace("Z", "+00:00"))
        shown = [
            self._state.document(run)
            for run in self._state.runs.newest_first(project.path)
            if query.get("source", "api") == "api" and run.created >= moment
        ]
        return JSONResponse(
            shown[(page - 1) * size : page * size], headers={"X-Total": str(len(shown))}
        )

    async def pipeline(self, request: Request, project: Project, _: Token) -> Response:
        run = self._run(request, project)
        return _no_pipeline() if run is None else JSONResponse(self._state.document(run))

    async def variables(self, request: Request, project: Project, token: Token) -> Response:
        run = self._run(request, project)
        if run is None:
            return _no_pipeline()
        if token.role != "maintainer" and token.user != self._state.author(run):
            return JSONResponse({"message": "403 Forbidden"}, 403)
        return JSONResponse(
            [
                {"variable_type": "env_var", "key": k, "value": v, "raw": False}
                for k, v in run.parameters.items()
            ]
        )

    async def jobs(self, request: Request, project: Project, _: Token) -> Response:
        run = self._run(request, project)
        if run is None:
            return _no_pipeline()
        jobs = [
            {
                "id": run.number * 10,
                "name": "restart",
                "status": _STATUS[run.state],
                "web_url": f"{self._state.html_base}/{run.job}/-/jobs/{run.number * 10}",
            }
        ]
        wanted = request.query_params.getlist("scope[]")
        return JSONResponse([j for j in jobs if not wanted or j["status"] in wanted])

    def _run(self, request: Request, project: Project) -> Run | None:
        run = self._state.runs.get(request.path_params["number"])
        return run if run is not None and run.job == project.path else None


def _no_pipeline() -> Response:
    return JSONResponse({"message": "404 Not found"}, 404)
