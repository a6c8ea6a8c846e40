"""One rehearsal from the first run to the last question: respond, the hours after, the verdict."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ledger import Ledger
from recovery.accounts import Stage, Verdict
from rehearsal.board import PHASES, Board, Glance
from rehearsal.operator import Operator, ResumeForm, RunState
from rehearsal.stage import REQUESTER
from rehearsal.stage import Stage as Rehearsal
from rehearsal.verdict import Check, judge

RESPOND_TIMEOUT = 900.0
SHORT_RUN_TIMEOUT = 180.0
WATCH_SECONDS = 0.5
INCIDENT = "INC-2026-0142"
THREE_DAYS = timedelta(hours=72)
FOLLOW_UP = timedelta(hours=12)
"""When who has not enrolled is reminded, and our team has proofed the high-priority accounts."""
ROUND = timedelta(hours=3)
"""World time over which requests for fresh links are gathered."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a rehearsal ended with."""

    run: RunState
    checks: list[Check]
    seconds: float
    peak_bytes: int
    attacker_last_accepted: datetime | None


class Drive:
    """Plays the operator, the approvers and the hours after."""

    def __init__(self, rehearsal: Rehearsal, board: Board) -> None:
        self._rehearsal = rehearsal
        self._board = board
        self._operator = Operator(rehearsal.prefect.api, rehearsal.prefect.auth)
        self._ledger: Ledger = rehearsal.open_ledger()
        self._began = time.monotonic()
        self._peak = 0
        self._run = RunState("", "", "SCHEDULED", "Scheduled", "", "")
        self._next_round = rehearsal.world.clock.now()

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    async def close(self) -> None:
        await self._operator.close()
        self._ledger.close()

    async def whole(self) -> Finished:
        """Respond with every gate approved, a day, the follow-up, two days more, the report."""
        watching = asyncio.create_task(self._watch())
        try:
            run = await self._respond()
            # Counted before hours pass in seconds: a token that dies of age is no outage.
            broken = self._rehearsal.world.fleet.failures, self._rehearsal.world.fleet.requests
            if run.type == "COMPLETED":
                await self._days_after()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        stage = self._rehearsal
        last = stage.world.attacker.last_accepted_at()
        checks = await judge(stage, broken)
        return Finished(run, checks, time.monotonic() - self._began, self._peak, last)

    async def _respond(self) -> RunState:
        run_id = await self._operator.start(
            "respond/respond",
            self._parameters({"dry_run": False, "requested_by": REQUESTER}),
        )
        self._board.say(f"respond started: {self._rehearsal.prefect.url}/runs/flow-run/{run_id}")
        stop = asyncio.Event()
        acting = asyncio.create_task(self._rehearsal.people.run_prompt(stop))
        try:
            return await self._operator.follow(
                run_id, approve=self.approve, timeout=RESPOND_TIMEOUT, watch=self._seen
            )
        finally:
            stop.set()
            await acting

    async def approve(self, form: ResumeForm) -> Mapping[str, Any]:
        """An approver of the gate reads the form and signs with a fresh one-time code: the first
        one who has not approved this plan yet."""
        name = await asyncio.to_thread(self._next_approver, form)
        approver = self._rehearsal.world.approvers[name]
        await asyncio.sleep(approver.seconds_until_fresh())
        self._board.say(f"gate {form.gate}: {name} approves")
        return {
            "approver": name,
            "decision": "approve",
            "reason": "read the plan in a rehearsal",
            "code": approver.code(),
            "digest": form.defaults["digest"],
        }

    def _next_approver(self, form: ResumeForm) -> str:
        gate, digest = form.gate.replace("-", "."), form.defaults["digest"]
        said = {
            attempt.approver
            for attempt in self._ledger.approvals(INCIDENT, gate)
            if not attempt.refusal and attempt.digest == digest
        }
        approvers = self._rehearsal.policy.approvals.of_gate(gate).approvers
        return next(name for name in approvers if name not in said)

    async def _days_after(self) -> None:
        """The people who did not act at once, in the world's time: 72 hours in some seconds."""
        start = self._rehearsal.world.clock.now()
        self._board.say("hours pass; people who are slow ask for fresh links")
        async with self._links_served():
            await self._pass_time(start + FOLLOW_UP)
            manual = await asyncio.to_thread(self._manual_refs)
            self._board.say(
                f"after 12 hours {len(manual)} accounts have been proofed by hand, others reminded"
            )
            await self._short_run(
                "follow-up/follow-up", {"release": manual, "requested_by": REQUESTER}
            )
            await self._pass_time(start + THREE_DAYS)
            self._board.say("after 72 hours the report is written anew")
            await self._short_run("report/report", {})

    async def _pass_time(self, until: datetime) -> None:
        clock = self._rehearsal.world.clock
        await self._rehearsal.people.fast_forward(
            until, clock.advance, meanwhile=self._served, every=ROUND
        )

    @asynccontextmanager
    async def _links_served(self) -> AsyncIterator[None]:
        """A `serve-links` run in the background, cancelled at the end as in the UI."""
        run_id = await self._operator.start(
            "serve-links/serve-links", self._parameters({"interval_seconds": 0.2})
        )
        try:
            await self._operator.wait_running(run_id, timeout=SHORT_RUN_TIMEOUT)
            yield
        finally:
            await self._operator.cancel(run_id)

    async def _served(self) -> None:
        """Returns when every request for a fresh link was answered; asks are gathered for a
        while of the world's time first, since hours pass in seconds here."""
        now = self._rehearsal.world.clock.now()
        if now < self._next_round:
            return
        self._next_round = now + ROUND
        async with asyncio.timeout(SHORT_RUN_TIMEOUT):
            while await asyncio.to_thread(self._ledger.pending_link_requests, INCIDENT):
                await asyncio.sleep(0.1)
        await self._rehearsal.world.delivered()

    def _parameters(self, more: Mapping[str, Any]) -> dict[str, Any]:
        runbook = self._rehearsal.scenario.runbook
        return {"incident_id": INCIDENT, "runbook": runbook, **more}

    def _manual_refs(self) -> list[str]:
        """Who stands aside for proofing alone; without a second channel nobody can be released."""
        accounts = self._ledger.accounts(INCIDENT, stages={Stage.MANUAL})
        return [a.ref for a in accounts if a.email and a.phone]

    async def _short_run(self, deployment: str, parameters: Mapping[str, Any]) -> None:
        run_id = await self._operator.start(deployment, self._parameters(parameters))
        run = await self._operator.follow(
            run_id, approve=self.approve, timeout=SHORT_RUN_TIMEOUT, watch=self._seen
        )
        if run.type != "COMPLETED":
            raise RuntimeError(f"{deployment} ended as {run.state}: {run.message}")

    def _seen(self, run: RunState) -> None:
        self._rehearsal.prefect.check()
        self._run = run

    async def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, await asyncio.to_thread(self._rehearsal.resident_bytes))
            glance = await asyncio.to_thread(self._glance)
            if glance is not None:
                self._board.show(glance)
            await asyncio.sleep(WATCH_SECONDS)

    def _glance(self) -> Glance | None:
        if not self._ledger.incidents():
            return None
        marks = {m.name for m in self._ledger.marks(INCIDENT)}
        tally = self._ledger.tally(INCIDENT)
        attacker = self._rehearsal.world.attacker
        last = attacker.last_accepted_at()
        now = self._rehearsal.world.clock.now()
        ago = f"{(now - last).total_seconds():.0f} s ago" if last else "never"
        return Glance(
            elapsed=time.monotonic() - self._began,
            run_state=self._run.state or self._run.type,
            gate=self._run.gate if self._run.type == "PAUSED" else "",
            started=frozenset(p for p in PHASES if f"{p}.started" in marks),
            finished=frozenset(p for p in PHASES if f"{p}.finished" in marks),
            tally=tally,
            clients=len(self._ledger.clients(INCIDENT)),
            clients_done={
                "rotate": tally.of_verdict("rotate.test", Verdict.DONE),
                "retire": tally.of_verdict("rotate.retire.drop_previous", Verdict.DONE),
            },
            attacker=f"attacker: {attacker.attempts:,} attempts, last one accepted {ago}",
        )
