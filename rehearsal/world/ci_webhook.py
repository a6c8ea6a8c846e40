"""A webhook before some CI, as docs/systems.md asks for it: signed requests, idempotency keys, a
status address for each job."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rehearsal.world.ci_runs import Run, Runs, Window, Work
from rehearsal.world.faults import Faults

_CLOCKS_DIFFER = 300.0


class WebhookState:
    """Some jobs behind one signing secret. `forbidden` are jobs that this secret may not start;
    `status_base` makes the status addresses point elsewhere, as a hijacked webhook would."""

    def __init__(self, *, secret: str, calls: int = 1000, window_seconds: float = 60.0) -> None:
        self.faults = Faults()
        self.runs = Runs()
        self.window = Window(calls, window_seconds)
        self.forbidden: set[str] = set()
        self.status_base = ""
        self._secret = secret
        self._jobs: dict[str, Work] = {}
        self._keys: dict[str, tuple[bytes, Run]] = {}

    def __repr__(self) -> str:
        return f"WebhookState({sorted(self._jobs)})"

    def add_job(self, name: str, work: Work) -> None:
        self._jobs[name] = work

    def has(self, job: str) -> bool:
        return job in self._jobs

    def refusal(self, method: str, target: str, headers: Callable[[str], str], body: bytes) -> str:
        """Why a request is not ours or not of now; empty where it is."""
        moment = headers("x-recovery-timestamp")
        if not moment.isdigit() or abs(time.time() - int(moment)) > _CLOCKS_DIFFER:
            return "stale"
        signed = b"\n".join([moment.encode(), method.encode(), target.encode(), body])
        expected = hmac.new(self._secret.encode(), signed, hashlib.sha256).hexdigest()
        given = headers("x-recovery-signature")
        return "" if hmac.compare_digest(given, f"sha256={expected}") else "bad_signature"

    def start(self, key: str, body: bytes, job: str, parameters: dict[str, str]) -> Run | None:
        """The run of that key; None where the key was used for something else."""
        if key in self._keys:
            known, run = self._keys[key]
            return run if known == body else None
        run = self.runs.start(job, parameters, self._jobs[job])
        self._keys[key] = (body, run)
        return run


def webhook_app(state: WebhookState) -> ASGIApp:
    """The app to give to `Loopback`."""

    async def start(request: Request) -> Response:
        body = await request.body()
        if (refused := _refused(state, request, body)) is not None:
            return refused
        key = request.headers.get("idempotency-key", "")
        if not key:
            return JSONResponse({"error": "idempotency_key_missing"}, 400)
        document = json.loads(body)
        job = document["job"]
        if job in state.forbidden:
            return JSONResponse({"error": "job_not_allowed"}, 403)
        if not state.has(job):
            return JSONResponse({"error": "no_such_job"}, 404)
        run = state.start(key, body, job, document["parameters"])
        if run is None:
            return JSONResponse({"error": "idempotency_key_reused"}, 422)
        address = f"{state.status_base}/jobs/{run.number}"
        return JSONResponse({"id": run.number}, 202, headers={"Location": address})

    async def status(request: Request) -> Response:
        if (refused := _refused(state, request, b"")) is not None:
            return refused
        run = state.runs.get(request.path_params["number"])
        if run is None:
            return JSONResponse({"error": "no_such_run"}, 404)
        return JSONResponse(
            {
                "id": run.number,
                "state": run.state,
                "log_url": f"https://ci.example/jobs/{run.number}/log",
            }
        )

    return state.faults.around(
        Starlette(
            routes=[
                Route("/jobs", start, methods=["POST"]),
                Route("/jobs/{number:int}", status),
            ]
        )
    )


def _refused(state: WebhookState, request: Request, body: bytes) -> Response | None:
    if not state.window.take():
        return JSONResponse(
            {"error": "too_many"}, 429, headers={"Retry-After": str(state.window.seconds_left)}
        )
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    problem = state.refusal(
        request.method, target, lambda name: request.headers.get(name, ""), body
    )
    return JSONResponse({"error": problem}, 401) if problem else None
