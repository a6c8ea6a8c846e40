"""One small incident in which processes are killed: wait for the moment, SIGKILL, start again, and
do what the operator's guide says ("It crashed") until the incident has ended.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from ledger import Ledger
from rehearsal.kill_checks import at_any_time, at_the_end
from rehearsal.kill_points import ACTS, Edge, Point, Trigger, Victim
from rehearsal.operator import Operator, ResumeForm, RunState
from rehearsal.processes import processes_with
from rehearsal.stage import REQUESTER, Stage
from rehearsal.world.turnstile import Hold

INCIDENT = "INC-2026-0142"
LOOK_SECONDS = 0.25
MOMENT_SECONDS = 0.02
INCIDENT_SECONDS = 2400.0
FROZEN_SECONDS = 25.0
"""From when a new run was started until the frozen process wakes up, in the middle of it."""
AFTERMATH_SECONDS = 10.0
DEAD_AFTER = 12.0
"""Seconds for which a run shows Running without a process, before the operator marks it Crashed."""
STUCK_AFTER = 90.0


@dataclass(frozen=True, slots=True)
class Size:
    """What an unharmed incident of this size makes: requests at the world, audit entries."""

    requests: int
    entries: int


@dataclass(slots=True)
class Struck:
    """One kill that happened."""

    point: Point
    phase: str
    happened: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    at: float = 0.0
    seconds: float = 0.0
    """From the kill until the run went on or a new one worked."""


@dataclass(slots=True)
class Ended:
    """An incident to its end."""

    kills: list[Struck]
    missed: list[Point]
    """Points whose moment did not come before the end."""
    run: RunState
    wrong: list[str]
    seconds: float
    size: Size


class KillDrive:
    """Operator, approvers and killer of one incident on a stage that is up."""

    def __init__(self, stage: Stage, points: list[Point], size: Size, say: Callable[[str], None]):
        self._stage = stage
        self._waiting = list(points)
        self._size = size
        self._say = say
        self._operator = Operator(stage.prefect.api, stage.prefect.auth)
        self._ledger: Ledger = stage.open_ledger()
        self._kills: list[Struck] = []
        self._run_id = ""
        self._quiet_since = 0.0
        self._armed: Point | None = None
        self._hold: Hold | None = None
        self._answered: set[str] = set()
        self._advanced = False
        self._frozen: dict[int, float] = {}
        """Process ids that stand still, and when each is to wake up."""

    async def whole(self) -> Ended:
        """The incident from the first run to the last check."""
        began = time.monotonic()
        stop = asyncio.Event()
        acting = asyncio.create_task(self._stage.people.run_prompt(stop))
        run = RunState(self._run_id, "", "", "Not ended", "", "")
        try:
            async with asyncio.timeout(INCIDENT_SECONDS):
                run = await self._through()
        except TimeoutError:
            self._note(f"the incident had not ended after {INCIDENT_SECONDS:.0f} s")
        finally:
            self._stage.world.turnstiles.forget()
            self._wake(all_of_them=True)
            stop.set()
            await acting
        if any(struck.point.victim is Victim.FROZEN for struck in self._kills):
            # Whoever woke up last gets his chance to do harm.
            await asyncio.sleep(AFTERMATH_SECONDS)
        wrong = await at_the_end(self._stage, self._ledger, INCIDENT)
        size = Size(self._stage.world.turnstiles.passed, self._ledger.audit_head().seq)
        left = [*([self._armed] if self._armed else []), *self._waiting]
        return Ended(self._kills, left, run, wrong, time.monotonic() - began, size)

    async def close(self) -> None:
        await self._operator.close()
        self._ledger.close()

    # ------------------------------------------------------------------ the operator

    async def _through(self) -> RunState:
        await self._start()
        while True:
            await self._kill_at_its_moment()
            self._wake()
            run = await self._look()
            if run is None:
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if run.type == "COMPLETED":
                return run
            if run.type == "PAUSED":
                await self._answer(run)
            elif run.ended:
                self._note(f"run {run.state}, started again")
                await self._start()
            elif run.type in ("RUNNING", "PENDING", "CANCELLING"):
                await self._bury(run)
            await asyncio.sleep(MOMENT_SECONDS if self._armed else LOOK_SECONDS)

    async def _start(self) -> None:
        parameters = {
            "incident_id": INCIDENT,
            "runbook": self._stage.scenario.runbook,
            "dry_run": False,
            "requested_by": REQUESTER,
        }
        while True:
            try:
                self._run_id = await self._operator.start("respond/respond", parameters)
                break
            except httpx.TransportError:
                await asyncio.sleep(1.0)
        self._quiet_since = 0.0

    async def _look(self) -> RunState | None:
        """The run as the UI shows it; None while the server is away."""
        try:
            run = await self._operator.look(self._run_id)
        except (httpx.TransportError, httpx.HTTPStatusError):
            return None
        if run.type == "RUNNING" and self._kills and not self._kills[-1].seconds:
            alive = await asyncio.to_thread(processes_with, "PREFECT__FLOW_RUN_ID", self._run_id)
            if alive:
                self._kills[-1].seconds = time.monotonic() - self._kills[-1].at
        return run

    async def _bury(self, run: RunState) -> None:
        """A run that shows Running and has no process is marked Crashed by hand, as in the UI. In
        production the heartbeat automation does that."""
        alive = await asyncio.to_thread(processes_with, "PREFECT__FLOW_RUN_ID", run.run_id)
        now = time.monotonic()
        if alive:
            self._quiet_since = 0.0
            return
        self._quiet_since = self._quiet_since or now
        limit = DEAD_AFTER if run.type != "PENDING" else STUCK_AFTER
        if now - self._quiet_since > limit:
            with suppress(httpx.HTTPError):
                await self._operator.mark_crashed(run.run_id)
                self._note(f"{run.state} without a process, marked Crashed by hand")

    async def _answer(self, run: RunState) -> None:
        if run.pause_key in self._answered:
            return
        if self._at_gate(Trigger.GATE, run.gate):
            await self._strike("waiting")
        if not self._advanced:
            # Late arrivals come while the first gate waits.
            self._advanced = True
            self._stage.world.clock.advance(self._stage.late)
        try:
            answer = await self._signed(await self._operator.form(run))
            said = await self._operator.resume(run.run_id, answer)
        except (httpx.TransportError, httpx.HTTPStatusError) as error:
            self._note(f"form not answered ({type(error).__name__}), tried again")
            await asyncio.sleep(1.0)
            return
        if said.startswith("ACCEPT"):
            self._answered.add(run.pause_key)
            if self._at_gate(Trigger.RESUMED, run.gate):
                await self._strike("resumed")
        else:
            self._note(f"form answered with {said}")

    async def _signed(self, form: ResumeForm) -> dict[str, str]:
        approvals = self._stage.policy.approvals
        names = approvals.of_gate(form.gate.replace("-", ".")).approvers
        approvers = [self._stage.world.approvers[name] for name in names]
        approver = min(approvers, key=lambda one: one.seconds_until_fresh())
        await asyncio.sleep(approver.seconds_until_fresh())
        return {
            "approver": approver.name,
            "decision": "approve",
            "reason": "read the plan in a rehearsal of crashes",
            "code": approver.lasting_code(),
            "digest": str(form.defaults["digest"]),
        }

    # ------------------------------------------------------------------ the killer

    async def _kill_at_its_moment(self) -> None:
        if self._armed is None and self._waiting and self._settled():
            self._armed = self._waiting.pop(0)
            self._arm(self._armed)
        point, hold = self._armed, self._hold
        if point is None:
            return
        if point.trigger is Trigger.ENTRY:
            if self._ledger.audit_head().seq >= point.place * self._size.entries:
                await self._strike(self._phase())
        elif hold is not None and hold.reached.is_set():
            hold.lost = point.edge is Edge.LOST and point.victim in (Victim.FLOW, Victim.PORTAL)
            await self._strike(self._phase(), hold)

    def _settled(self) -> bool:
        """The kill before is over: the next one is not to fall into its restart unseen."""
        return not self._kills or bool(self._kills[-1].seconds)

    def _arm(self, point: Point) -> None:
        self._hold = None
        turnstiles = self._stage.world.turnstiles
        after = point.edge is Edge.DONE
        if point.trigger is Trigger.ACT:
            kind = ACTS[point.what]
            self._hold = turnstiles.hold(kind.pattern, after=after, skip=point.skip)
        elif point.trigger is Trigger.REQUEST:
            # A run that was started again asks much twice; how far the incident is, the log says.
            reached = self._ledger.audit_head().seq / self._size.entries
            skip = int((point.place - reached) * self._size.requests)
            self._hold = turnstiles.hold("", after=after, skip=max(0, skip))

    def _at_gate(self, trigger: Trigger, gate: str) -> bool:
        point = self._armed
        return (
            point is not None
            and point.trigger is trigger
            and gate.split("-")[0] in (point.what, f"late-{point.what}")
        )

    def _phase(self) -> str:
        """The phase that began last, by the ledger."""
        if not self._ledger.incidents():
            return "before the first"
        marks = [mark.name for mark in self._ledger.marks(INCIDENT)]
        begun = [name for name in marks if name.endswith((".started", ".finished"))]
        return begun[-1] if begun else "opened"

    async def _strike(self, phase: str, hold: Hold | None = None) -> None:
        point = self._armed
        assert point is not None
        self._armed, self._hold = None, None
        struck = Struck(point, phase, at=time.monotonic())
        self._kills.append(struck)
        self._say(f"  kill {point.number}: {point.victim}, {point}, {phase}")
        await asyncio.to_thread(self._kill, point.victim, struck)
        if hold is not None:
            hold.go.set()
        await asyncio.sleep(point.away)
        await asyncio.to_thread(self._restart, point.victim)
        if point.victim is Victim.FROZEN:
            await self._operator.mark_crashed(self._run_id)
            struck.happened.append("taken for dead, marked Crashed by hand")
        if point.victim is Victim.PORTAL:
            await self._stage.portal_ready()
            struck.seconds = time.monotonic() - struck.at
        struck.wrong = await asyncio.to_thread(at_any_time, self._stage)

    def _kill(self, victim: Victim, struck: Struck) -> None:
        prefect = self._stage.prefect
        match victim:
            case Victim.FLOW:
                dead = _kill_all(processes_with("PREFECT__FLOW_RUN_ID", self._run_id))
                if not dead:
                    struck.happened.append("no process to kill")
            case Victim.FROZEN:
                for pid in processes_with("PREFECT__FLOW_RUN_ID", self._run_id):
                    os.kill(pid, signal.SIGSTOP)
                    self._frozen[pid] = time.monotonic() + FROZEN_SECONDS
            case Victim.WORKER:
                assert prefect.worker is not None
                prefect.worker.kill()
                left = processes_with("PREFECT__FLOW_RUN_ID", self._run_id)
                if left:
                    struck.happened.append("the flow's process lives on")
            case Victim.SERVER:
                assert prefect.server is not None
                prefect.server.kill()
            case Victim.PORTAL:
                assert self._stage.portal is not None
                self._stage.portal.kill()

    def _restart(self, victim: Victim) -> None:
        prefect = self._stage.prefect
        match victim:
            case Victim.WORKER:
                prefect.start_worker()
            case Victim.SERVER:
                prefect.start_server()
                prefect.wait_ready()
            case Victim.PORTAL:
                self._stage.start_portal()
            case Victim.FLOW | Victim.FROZEN:
                return

    def _wake(self, *, all_of_them: bool = False) -> None:
        """Frozen processes go on, beside the run that has their work now."""
        now = time.monotonic()
        for pid in [p for p, at in self._frozen.items() if all_of_them or now > at]:
            del self._frozen[pid]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                self._note("the frozen one woke up")

    def _note(self, text: str) -> None:
        if self._kills:
            self._kills[-1].happened.append(text)
        self._say(f"    {text}")


def _kill_all(pids: Iterable[int]) -> list[int]:
    dead = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            dead.append(pid)
    return dead
