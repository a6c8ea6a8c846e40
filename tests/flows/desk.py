"""One operator's desk on a rehearsal that is up: runs, forms and answers of any deployment."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recovery.accounts import Stage as AccountStage
from recovery.accounts import Verdict
from recovery.approvals import REFUSED_CODE
from rehearsal.operator import RunState
from tests.flows.rehearsed import RUN_TIMEOUT, Rehearsed, Runbook, runbook_file

POLL_SECONDS = 0.2
CODES = 4


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

    async def approve(self, run: RunState, approver: str, **more: str) -> RunState:
        """An answer that counts; lets the run go and returns it as it was answered. On a busy
        machine a code may have died before it could be checked: then with the next one."""
        ledger = self.rehearsed.ledger
        incident_id, gate = run.name.split(" ")[-1], run.gate.replace("-", ".")
        for _ in range(CODES):
            before = len(ledger.approvals(incident_id, gate))
            answer = await self.good(run, approver, **more)
            said = await self.rehearsed.operator.resume(run.run_id, answer)
            assert said.startswith("ACCEPT"), said
            await self.until(
                lambda before=before: len(ledger.approvals(incident_id, gate)) > before  # type: ignore[misc]
            )
            refusal = ledger.approvals(incident_id, gate)[-1].refusal
            if refusal != REFUSED_CODE:
                assert refusal == ""
                return run
            run = await self.waiting(run)
        raise AssertionError("no code was taken in time")

    async def waiting(self, run: RunState) -> RunState:
        """The run as it waits with its next form."""
        async with asyncio.timeout(RUN_TIMEOUT):
            while True:
                now = await self.rehearsed.operator.look(run.run_id)
                assert not now.ended, f"{now.state} {now.message}"
                if now.type == "PAUSED" and now.pause_key != run.pause_key:
                    return now
                await asyncio.sleep(POLL_SECONDS)

    async def answer(self, run: RunState, approver: str, **more: str) -> RunState:
        """An answer that counts, and the run as it ended or waits at the next gate."""
        run = await self.approve(run, approver, **more)
        async with asyncio.timeout(RUN_TIMEOUT):
            while True:
                now = await self.rehearsed.operator.look(run.run_id)
                if now.ended or (now.type == "PAUSED" and now.gate != run.gate):
                    return now
                await asyncio.sleep(POLL_SECONDS)

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
