"""One operator's desk on a rehearsal that is up: runs, forms and answers of any deployment."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recovery.accounts import Stage as AccountStage
from recovery.accounts import Verdict
from rehearsal.operator import RunState
from tests.flows.rehearsed import RUN_TIMEOUT, Rehearsed, Runbook, runbook_file

POLL_SECONDS = 0.2


@dataclass(slots=True)
class Desk:
    """One operator's desk: runs, forms and answers of any deployment."""

    rehearsed: Rehearsed
    runbook: str

    async def start(self, deployment: str, incident_id: str, **more: Any) -> str:
        given = {"incident_id": incident_id, "runbook": self.runbook, **more}
        return await self.rehearsed.operator.start(f"{deployment}/{deployment}", given)

    async def run(self, deployment: str, incident_id: str, **more: Any) -> RunState:
        """A run to its end, or to the gate at which it waits."""
        run_id = await self.start(deployment, incident_id, **more)
        return await self.rest(run_id)

    async def rest(self, run_id: str) -> RunState:
        return await self.rehearsed.operator.follow(run_id, approve=None, timeout=RUN_TIMEOUT)

    async def good(self, run: RunState, approver: str, **more: str) -> dict[str, str]:
        form = await self.rehearsed.operator.form(run)
        code = more.pop("code", "") or await self.rehearsed.fresh_code(approver)
        return {
            "approver": approver,
            "decision": "approve",
            "reason": "read it",
            "digest": str(form.defaults["digest"]),
            "code": code,
            **more,
        }

    async def answer(self, run: RunState, approver: str, **more: str) -> RunState:
        return await self.rehearsed.answer(run, await self.good(run, approver, **more))

    async def approve(self, run: RunState, approver: str) -> str:
        """Approves and lets it run; returns the run's id."""
        said = await self.rehearsed.operator.resume(run.run_id, await self.good(run, approver))
        assert said.startswith("ACCEPT"), said
        return run.run_id

    async def form(self, run: RunState) -> str:
        return (await self.rehearsed.operator.form(run)).description

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(RUN_TIMEOUT):
            while not await asyncio.to_thread(what):
                await asyncio.sleep(POLL_SECONDS)

    def settled(self, incident_id: str, step: str) -> int:
        ledger = self.rehearsed.ledger
        return ledger.tally(incident_id).of_verdict(
            step, Verdict.DONE, Verdict.ALREADY, Verdict.REFUSED
        )

    def stage(self, incident_id: str, stage: AccountStage) -> int:
        return self.rehearsed.ledger.tally(incident_id).in_stage(stage)


@contextmanager
def desk_with(rehearsed: Rehearsed, document: Runbook) -> Iterator[Desk]:
    """A desk whose runs follow this runbook, in small batches."""
    document["waves"] = {"canary": 10, "growth": [20], "batch": 10}
    with runbook_file(document) as name:
        yield Desk(rehearsed, name)
