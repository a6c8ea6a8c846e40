"""What a person does in the Prefect UI, by the same REST calls: start a run, read the Resume form,
answer it, watch the run to its end."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
POLL_SECONDS = 0.4
BUSY_TRIES = 10
ANSWER_SECONDS = 30.0
FORM_SECONDS = 30.0
DESCRIPTION_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class RunState:
    """A flow run as the UI shows it."""

    run_id: str
    name: str
    type: str
    state: str
    message: str
    pause_key: str

    @property
    def ended(self) -> bool:
        return self.type in FINAL

    @property
    def gate(self) -> str:
        """The gate that a suspended run waits at, from its pause key `gate-attempt`."""
        return self.pause_key.rsplit("-", 1)[0] if self.pause_key else ""


@dataclass(frozen=True, slots=True)
class ResumeForm:
    """What the Resume form shows: the Markdown above it and the fields with their defaults."""

    gate: str
    description: str
    defaults: Mapping[str, Any]


Approve = Callable[[ResumeForm], Awaitable[Mapping[str, Any]]]


class Patient(httpx.AsyncHTTPTransport):
    """What the UI does below its buttons: sends the password, and with each change the token that
    the server gave this client (CSRF).

    Asks again where the server says 503: its SQLite was locked by another write, nothing was
    done, and a person would click again. A look that got no answer in time is repeated too.
    """

    def __init__(self, auth: str) -> None:
        # Less than the server's five seconds: it must not close what we are about to use.
        super().__init__(limits=httpx.Limits(keepalive_expiry=2.0))
        self._authorization = f"Basic {base64.b64encode(auth.encode()).decode()}"
        self._client = str(uuid4())
        self._token = ""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.headers["Authorization"] = self._authorization
        if request.method == "GET":
            return await self._patiently(request)
        if not self._token:
            await self._fetch_token(request.url)
        self._sign(request)
        answer = await self._patiently(request)
        if answer.status_code == 403 and b"Invalid CSRF token" in await answer.aread():
            # A token lives for an hour.
            await answer.aclose()
            await self._fetch_token(request.url)
            self._sign(request)
            return await self._patiently(request)
        return answer

    def _sign(self, request: httpx.Request) -> None:
        request.headers["Prefect-Csrf-Client"] = self._client
        request.headers["Prefect-Csrf-Token"] = self._token

    async def _fetch_token(self, url: httpx.URL) -> None:
        asked = httpx.Request(
            "GET",
            url.copy_with(path="/api/csrf-token", query=f"client={self._client}".encode()),
            headers={"Authorization": self._authorization},
            # A request of its own has none of its client's bounds.
            extensions={"timeout": httpx.Timeout(ANSWER_SECONDS).as_dict()},
        )
        answer = await self._patiently(asked)
        document = json.loads(await answer.aread())
        await answer.aclose()
        self._token = document.get("token", "")

    async def _patiently(self, request: httpx.Request) -> httpx.Response:
        for _ in range(BUSY_TRIES):
            try:
                answer = await super().handle_async_request(request)
            except httpx.TimeoutException:
                if request.method != "GET":
                    raise
                continue
            if answer.status_code != 503:
                return answer
            await answer.aread()
            await answer.aclose()
            await asyncio.sleep(POLL_SECONDS)
        return await super().handle_async_request(request)


class Operator:
    """One browser's worth of REST calls to the Prefect API."""

    def __init__(self, api: str, auth: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=api, timeout=ANSWER_SECONDS, transport=Patient(auth)
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = await self._http.post(path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    async def create_pool(self, name: str) -> None:
        """A process work pool, as the UI's Create button makes it."""
        await self._post("/work_pools/", {"name": name, "type": "process"})

    async def start(self, deployment: str, parameters: Mapping[str, Any]) -> str:
        """Starts `flow/deployment` as its run form does; returns the run's id."""
        run = await self._post(
            f"/deployments/{await self.deployment_id(deployment)}/create_flow_run",
            {"parameters": parameters, "state": {"type": "SCHEDULED"}},
        )
        return str(run["id"])

    async def deployment_id(self, deployment: str) -> str:
        """Of `flow/deployment`."""
        found = await self._http.get(f"/deployments/name/{deployment}")
        found.raise_for_status()
        return str(found.json()["id"])

    async def newest_run(self, deployment_id: str) -> str:
        """The run that was asked for last."""
        wanted = {"deployment_id": {"any_": [deployment_id]}}
        runs = await self._post(
            "/flow_runs/filter",
            {"flow_runs": wanted, "sort": "EXPECTED_START_TIME_DESC", "limit": 1},
        )
        return str(runs[0]["id"])

    async def look(self, run_id: str) -> RunState:
        answer = await self._http.get(f"/flow_runs/{run_id}")
        answer.raise_for_status()
        run = answer.json()
        state = run.get("state") or {}
        details = state.get("state_details") or {}
        return RunState(
            run_id,
            run["name"],
            state.get("type") or "PENDING",
            state.get("name") or "",
            state.get("message") or "",
            str(details.get("pause_key") or ""),
        )

    async def form(self, run: RunState) -> ResumeForm:
        """The Resume form of a suspended run."""
        base = f"suspended-{run.pause_key}"
        schema = json.loads(await self._input(run.run_id, f"{base}-schema", FORM_SECONDS))
        try:
            text = await self._input(run.run_id, f"{base}-description", DESCRIPTION_SECONDS)
            description = json.loads(text)
        except httpx.HTTPStatusError:
            description = ""
        properties = schema.get("properties", {})
        defaults = {name: p["default"] for name, p in properties.items() if "default" in p}
        return ResumeForm(run.gate, description, defaults)

    async def _input(self, run_id: str, key: str, patience: float) -> str:
        """Prefect suspends a run first and writes its form after: for a moment there is none."""
        deadline = asyncio.get_running_loop().time() + patience
        while True:
            answer = await self._http.get(f"/flow_runs/{run_id}/input/{key}")
            if answer.status_code != 404 or asyncio.get_running_loop().time() > deadline:
                answer.raise_for_status()
                return answer.text
            await asyncio.sleep(POLL_SECONDS)

    async def resume(self, run_id: str, values: Mapping[str, Any]) -> str:
        """Sends the form; returns the API's answer: ACCEPT, or REJECT with its reason."""
        answer = await self._post(f"/flow_runs/{run_id}/resume", {"run_input": values})
        reason = (answer.get("details") or {}).get("reason") or ""
        return f"{answer['status']} {reason}".strip()

    async def wait_running(self, run_id: str, *, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            while (run := await self.look(run_id)).type in ("SCHEDULED", "PENDING"):
                await asyncio.sleep(POLL_SECONDS)
        if run.type != "RUNNING":
            raise RuntimeError(f"{run.name} is {run.state}: {run.message}")

    async def cancel(self, run_id: str) -> None:
        """Asks for the end of a run as the Cancel button does; it ends some seconds later."""
        await self._post(
            f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING"}, "force": False}
        )

    async def mark_crashed(self, run_id: str) -> None:
        """Change state > Crashed, as on a run's page: for a run whose process is gone."""
        state = {"type": "CRASHED", "message": "Its process is gone; marked by an operator."}
        await self._post(f"/flow_runs/{run_id}/set_state", {"state": state, "force": True})

    async def children(self, run_id: str) -> list[RunState]:
        """The sub-runs of a run, oldest first."""
        rows = await self._post(
            "/flow_runs/filter",
            {
                "flow_runs": {"parent_flow_run_id": {"any_": [run_id]}},
                "sort": "START_TIME_ASC",
                "limit": 200,
            },
        )
        return [
            RunState(
                r["id"],
                r["name"],
                (r.get("state") or {}).get("type") or "PENDING",
                (r.get("state") or {}).get("name") or "",
                (r.get("state") or {}).get("message") or "",
                "",
            )
            for r in rows
        ]

    async def follow(
        self,
        run_id: str,
        *,
        approve: Approve | None,
        timeout: float,
        watch: Callable[[RunState], None] = lambda run: None,
    ) -> RunState:
        """Watches the run to its end, answering each gate by `approve`.

        Without `approve` a suspended run is returned as it waits. TimeoutError after `timeout`
        seconds.
        """
        answered: set[str] = set()
        async with asyncio.timeout(timeout):
            while True:
                run = await self.look(run_id)
                watch(run)
                if run.ended:
                    return run
                if run.type == "PAUSED" and run.pause_key not in answered:
                    if approve is None:
                        return run
                    answered.add(run.pause_key)
                    said = await self.resume(run_id, await approve(await self.form(run)))
                    if not said.startswith("ACCEPT"):
                        raise RuntimeError(f"the Resume form was answered with {said}")
                await asyncio.sleep(POLL_SECONDS)
