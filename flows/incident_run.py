"""One run's hold on an incident: its lease, the stop order, its requester, and how it ends.

Works for `respond` and for each phase on its own, so that no two of them act on one incident at
once. A crashed holder blocks nobody: see docs/decisions/0006-operating.md.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from prefect import get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Failed

from flows.approve import Rejected, read_answers
from flows.report import report
from flows.run_state import ended
from ledger import Ledger
from recovery.accounts import Stage, Verdict
from recovery.errors import Busy, Misconfigured, RecoveryError, Stopped
from recovery.incident import Lease
from recovery.policy import RecoveryPolicy
from tasks import brake
from tasks.case import Case, Rights, open_case, preflight

RECOVERY = "recovery"
"""The lane of everything that moves an incident on. `serve-links` and `follow-up` have their own:
they run beside it by design."""
LEASE = timedelta(seconds=90)
RENEW_SECONDS = 15.0
PATIENCE = timedelta(minutes=2)
"""How long a resumed run waits for the lane: an answer was given to it."""
NOBODY = "operator"
"""What the form says where nobody wrote a name."""
COURTESY = timedelta(seconds=5)
"""How long any other run waits: the one before may just be ending."""


@dataclass(frozen=True, slots=True)
class Who:
    """Which flow, who asks for it, and whether a rejection is to be asked about once more."""

    flow: str
    requested_by: str
    ask_again: bool = False


def named(requested_by: str, policy: RecoveryPolicy) -> None:
    """Raises Misconfigured where nobody put his name to a run that acts, and four eyes count."""
    approvals = policy.approvals
    gates = (approvals.contain, approvals.notify, approvals.retire, approvals.hold)
    if requested_by == NOBODY and any(gate.required and gate.four_eyes for gate in gates):
        raise Misconfigured(
            "Find out who requests this run",
            subject="requested_by",
            expected="your own approver name",
            got=f"the form's `{NOBODY}`",
            advice="Who requests a run can't approve it; fill in your name and start it again.",
        )


@asynccontextmanager
async def at_work(case: Case, lane: str, who: Who) -> AsyncIterator[None]:
    """Holds the incident's lane as long as the body runs. Raises Busy where another run has it,
    and Stopped while a stop order stands.

    Answers that were given to this run while it was suspended are read before anything is done.
    """
    run_id = str(flow_run.id)
    resumed = await read_answers(case, run_id)
    async with leased(case.ledger, case.incident_id, lane, flow=who.flow, patient=resumed):
        await case.brake.check()
        if await opened(case):
            await put_name(case, who)
        yield


async def put_name(case: Case, who: Who) -> None:
    """Who requested this run, in the ledger; from then on one of the incident's requesters."""
    await asyncio.to_thread(
        case.ledger.begin_run,
        case.incident_id,
        str(flow_run.id),
        flow=who.flow,
        requested_by=who.requested_by,
        ask_again=who.ask_again,
    )


async def opened(case: Case) -> bool:
    """Whether the ledger knows the incident: a dry run of a new one leaves nothing there."""
    known = await asyncio.to_thread(case.ledger.incidents)
    return any(i.incident_id == case.incident_id for i in known)


@asynccontextmanager
async def leased(
    ledger: Ledger, incident_id: str, lane: str, *, flow: str, patient: bool = False
) -> AsyncIterator[None]:
    """The lane of the incident for this run, renewed while the body runs."""
    now = datetime.now(UTC)
    lease = Lease(incident_id, lane, str(flow_run.id), flow, now, now + LEASE)
    await _take(ledger, lease, patient=patient)
    renewing = asyncio.create_task(_renew(ledger, lease))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        await asyncio.to_thread(ledger.drop_lease, lease)


async def _take(ledger: Ledger, lease: Lease, *, patient: bool) -> None:
    deadline = datetime.now(UTC) + (PATIENCE if patient else COURTESY)
    dead = ""
    while True:
        now = datetime.now(UTC)
        wanted = replace(lease, taken_at=now, until=now + LEASE)
        held = await asyncio.to_thread(ledger.take_lease, wanted, from_run=dead, now=now)
        if held is None:
            return
        if await ended(held.run_id):
            # Its process is gone: it would have let go if it had ended by itself.
            dead = held.run_id
            continue
        if now > deadline:
            raise Busy(
                f"Begin {lease.flow}",
                subject=lease.incident_id,
                expected="no other run to work on this incident",
                got=f"{held.flow}, run {held.run_id}, since {held.taken_at:%H:%M:%S} UTC",
                advice="Nothing was done. Wait for that run or cancel it, then start this one "
                f"again; a dead one lets go within {LEASE.seconds} seconds.",
            )
        await asyncio.sleep(2.0)


async def _renew(ledger: Ledger, lease: Lease) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            until = datetime.now(UTC) + LEASE
            if await asyncio.to_thread(ledger.renew_lease, replace(lease, until=until)):
                continue
        except RecoveryError:
            continue
        brake.pull("another run has taken this incident over")
        return


async def run_on(
    incident_id: str,
    runbook: str,
    work: Callable[[Case], Awaitable[State[object]]],
    *,
    rights: Rights = Rights.READ,
) -> State[object]:
    """Opens the case and works on it. Returns the run's last state with one sentence that says
    what happened and what to do; where a person ended it, also what was and was not done."""
    try:
        async with open_case(incident_id, runbook, rights=rights) as case:
            await preflight(case)
            try:
                return await work(case)
            except Rejected as no:
                written = await _written(case)
                return Cancelled(message=f"{no} {await so_far(case)} {written}")
            except Stopped as stop:
                return Cancelled(name="Stopped", message=f"{stop} {await _so_far_if(case)}".strip())
    except Busy as busy:
        get_run_logger().warning("%s", busy)
        return Cancelled(name="Refused", message=str(busy))
    except RecoveryError as error:
        get_run_logger().error("%s", error)
        return Failed(message=str(error))


async def _written(case: Case) -> str:
    """Writes the report of a run that a person ended, and says where it is."""
    try:
        await report(case.incident_id, case.runbook)
    except RecoveryError as error:
        return f"No report could be written: {error}"
    return f"The report is in {case.directory}."


async def _so_far_if(case: Case) -> str:
    return await so_far(case) if await opened(case) else ""


async def so_far(case: Case) -> str:
    """What stands done and what does not, in one line of counts."""
    ledger, incident_id = case.ledger, case.incident_id
    tally = await asyncio.to_thread(ledger.tally, incident_id)
    path = [s for s in Stage if s.rank > Stage.SCOPED.rank]
    ahead = tally.in_stage(Stage.SCOPED)
    contained = sum(tally.in_stage(stage) for stage in path)
    told = tally.in_stage(Stage.NOTIFIED, Stage.ENROLLED, Stage.VALIDATED)
    by_hand = tally.in_stage(Stage.MANUAL)
    enrolled = tally.in_stage(Stage.ENROLLED, Stage.VALIDATED)
    clients = [c for c in await asyncio.to_thread(ledger.clients, incident_id) if c.wave >= 0]
    renewed = tally.of_verdict("rotate.test", Verdict.DONE)
    retired = tally.of_verdict("rotate.retire.drop_previous", Verdict.DONE)
    return (
        f"Done: {contained} accounts contained, {told} sent a link, {enrolled} enrolled, "
        f"{renewed} client secrets renewed, {retired} retired. "
        f"Not done: {ahead} accounts not contained, {by_hand} left to a person, "
        f"{max(0, len(clients) - retired)} old client secrets not retired."
    )
