"""What a person does in the Prefect UI, by the same REST calls: start a run, read the Resume form,
answer it, watch the run to its end."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
POLL_SECONDS = 0.4
BUSY_TRIES = 10
ANSWER_SECONDS = 30.0


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
    """Asks again where the server says 503: its SQLite was locked by another write, nothing was
    done, and a person would click again. A look that got no answer in time is repeated too."""

    def __init__(self) -> None:
        # Less than the server's five seconds: it must not close what we are about to use.
        super().__init__(limits=httpx.Limits(keepalive_expiry=2.0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
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

    def __init__(self, api: str) -> None:
        self._http = httpx.AsyncClient(base_url=api, timeout=ANSWER_SECONDS, transport=Patient())

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
        found = await self._http.get(f"/deployments/name/{deployment}")
        found.raise_for_status()
        run = await self._post(
            f"/deployments/{found.json()['id']}/create_flow_run",
            {"parameters": parameters, "state": {"type": "SCHEDULED"}},
        )
        return str(run["id"])

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
        schema = json.loads(await self._input(run.run_id, f"{base}-schema"))
        try:
            description = json.loads(await self._input(run.run_id, f"{base}-description"))
        except httpx.HTTPStatusError:
            description = ""
        properties = schema.get("properties", {})
        defaults = {name: p["default"] for name, p in properties.items() if "default" in p}
        return ResumeForm(run.gate, description, defaults)

    async def _input(self, run_id: str, key: str) -> str:
        answer = await self._http.get(f"/flow_runs/{run_id}/input/{key}")
        answer.raise_for_status()
        return answer.text

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
