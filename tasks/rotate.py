"""Rotate client secrets: one secret per task run, each step decided by looking, never by memory."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import assert_never

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from recovery import app_clients, rotate
from recovery.accounts import Act, Outcome, Stage, Verdict
from recovery.app_clients import AppClient, Consumer
from recovery.errors import RecoveryError, Refused, Stopped, Unverified
from recovery.incident import ClientRecord
from recovery.rotate import Evidence, Move, Observed, Proof, Step, StepKind
from tasks.acts import UNFINISHED
from tasks.case import Case
from tasks.claims import claimed, held
from tasks.retries import RETRIES

OUTCOME_STEP = "rotate.outcome"
MAX_STEPS = 60
"""A rotation takes about ten steps; more than this means that looking and acting disagree."""
_ON_TRIAL = (Move.PROMOTE, Move.RESTART, Move.PROVE)
"""Moves whose failure makes the new secret suspect."""
HEALTH_POLL = timedelta(milliseconds=250)


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of one client: `state` is renewed, retired, or asks for a person."""

    client_id: str
    state: StepKind
    reason: str

    @property
    def failed(self) -> bool:
        return self.state is StepKind.ASK


@task(task_run_name="take inventory", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def take_inventory(case: Case) -> list[list[str]]:
    """Writes every client linked to the affected accounts into the ledger, with its consumers and
    wave; returns the client ids to rotate, by wave. What nobody is known to use is left alone."""
    ledger, incident_id = case.ledger, case.incident_id

    def linked_apps() -> set[str]:
        return {
            app
            for account in ledger.accounts(incident_id)
            if account.stage is not Stage.EXCLUDED
            for app in account.linked_apps
        }

    clients = [
        app_clients.with_known_ci(client, case.ci.names)
        for client in await case.platform.app_clients(await asyncio.to_thread(linked_apps))
    ]
    waves = app_clients.plan_waves(clients, case.policy.rotate.waves)
    wave_of = {c.client_id: number for number, wave in enumerate(waves) for c in wave}
    records = [
        ClientRecord(
            client_id=c.client_id,
            name=c.name,
            owner=c.owner,
            risk=c.risk,
            consumers=tuple(consumer.name for consumer in c.consumers),
            linked_accounts=c.linked_accounts,
            wave=wave_of.get(c.client_id, -1),
            untouched_reason=app_clients.untouched_reason(c),
        )
        for c in clients
    ]
    await asyncio.to_thread(ledger.admit_clients, incident_id, records)
    known = await asyncio.to_thread(ledger.clients, incident_id)
    get_run_logger().info(
        "%s client secrets to rotate, %s left to a person",
        sum(not r.untouched_reason for r in known),
        sum(bool(r.untouched_reason) for r in known),
    )
    numbers = sorted({r.wave for r in known if not r.untouched_reason})
    return [
        [r.client_id for r in known if r.wave == number and not r.untouched_reason]
        for number in numbers
    ]


@task(
    task_run_name="renew {client_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=7200,
)
async def renew_secret(case: Case, client_id: str) -> Rotated:
    """Create, deploy, test. Ends with the new secret in force and the old one still valid; with
    the old one in force where anything went wrong."""
    async with claimed(case, [f"client.{client_id}"]):
        return await _Rotation(case, client_id).run(stop_before=StepKind.RETIRE)


@task(
    task_run_name="retire {client_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=7200,
)
async def retire_secret(case: Case, client_id: str) -> Rotated:
    """Tests once more, watches the old secret for the soak time, then takes it away."""
    async with claimed(case, [f"client.{client_id}"]):
        return await _Rotation(case, client_id).run(stop_before=None)


async def retiring_secrets(case: Case) -> list[tuple[ClientRecord, str]]:
    """The clients with a new secret in force and an old one that still works, with its id."""
    waiting: list[tuple[ClientRecord, str]] = []
    for record in await asyncio.to_thread(case.ledger.clients, case.incident_id):
        if record.untouched_reason:
            continue
        observed = await case.courier.observe(record.client_id, _path(case, record.client_id))
        if observed.labels.previous_id is not None:
            waiting.append((record, observed.labels.previous_id))
    return waiting


def _path(case: Case, client_id: str) -> str:
    return case.policy.rotate.vault_path.format(client_id=client_id)


class _Rotation:
    """One client's way through the steps. Holds only what this run has seen itself."""

    def __init__(self, case: Case, client_id: str) -> None:
        self._case = case
        self._client_id = client_id
        self._path = _path(case, client_id)
        self._marker = rotate.marker(case.incident_id)
        self._evidence = Evidence()
        self._soaked = False

    async def run(self, *, stop_before: StepKind | None) -> Rotated:
        client = await self._client()
        for _ in range(MAX_STEPS):
            await self._case.brake.check()
            observed = await self._case.courier.observe(self._client_id, self._path)
            self._evidence = replace(self._evidence, running=await self._running(client.consumers))
            step = rotate.next_step(
                observed,
                marker=self._marker,
                evidence=self._evidence,
                max_secrets=client.max_secrets,
            )
            if step.final or step.kind is stop_before:
                return await self._conclude(step)
            if step.kind is StepKind.RETIRE and not self._soaked:
                soak = self._case.policy.rotate.soak.total_seconds()
                await self._case.brake.unless(asyncio.sleep(soak))
                self._soaked = True
                continue
            await self._do(step, observed, client)
        raise Refused(
            "Rotate a client secret",
            subject=self._client_id,
            code="no_end",
            expected=f"an end within {MAX_STEPS} steps",
            advice="Look at the client's acts in the report; the secret in force was not touched.",
        )

    async def _client(self) -> AppClient:
        found = await self._case.platform.app_clients([self._client_id])
        if not found:
            raise Refused("Look up a client", subject=self._client_id, code="not_found")
        return found[0]

    async def _running(self, consumers: Iterable[Consumer]) -> dict[str, str | None]:
        """Which secret each consumer works with now; None where it isn't healthy."""
        reports = await asyncio.gather(*(self._case.health(c.health_url) for c in consumers))
        return {
            c.name: r.secret_id if r.ok else None for c, r in zip(consumers, reports, strict=True)
        }

    async def _do(self, step: Step, observed: Observed, client: AppClient) -> None:
        """One move, with its intent before and its outcome after. A failed deployment or test
        becomes evidence, by which the next look rolls back."""
        held().sure()
        act = await self._intend(f"{rotate.STEP}.{step.kind}.{step.move}")
        try:
            receipt = await self._move(step, observed, client, act)
        except UNFINISHED as error:
            # Looking again tells what happened; nothing is done twice.
            await self._settle(act, Verdict.UNKNOWN, type(error).__name__)
            self._doubt_or_raise(step, error)
        except Stopped:
            # Only a restart is not waited for; the next look finds out how it ended.
            await self._settle(act, Verdict.UNKNOWN, "stopped while waiting for it")
            raise
        except (Refused, Unverified) as error:
            code = error.code if isinstance(error, Refused) else "unverified"
            await self._settle(act, Verdict.REFUSED, code)
            self._doubt_or_raise(step, error)
        else:
            await self._settle(act, Verdict.DONE, step.reason, receipt)

    def _doubt_or_raise(self, step: Step, error: RecoveryError) -> None:
        """What fails on a new secret makes it suspect; anything else is not the secret's fault."""
        if step.secret_id is None or step.move not in _ON_TRIAL:
            raise error
        failed = self._evidence.failed | {step.secret_id}
        self._evidence = replace(self._evidence, failed=failed)

    async def _intend(self, name: str) -> Act:
        """The act of that name. One that is repeated (after a rollback) is a new generation."""
        for generation in range(1, MAX_STEPS):
            act = Act(self._client_id, name, generation)
            intention = await asyncio.to_thread(
                self._case.ledger.intend, self._case.incident_id, [act]
            )
            if intention.fresh or intention.unsettled:
                return act
        raise Refused("Rotate a client secret", subject=self._client_id, code="no_end")

    async def _settle(self, act: Act, verdict: Verdict, detail: str, receipt: str = "") -> None:
        outcome = Outcome(act, verdict, detail, receipt)
        await asyncio.to_thread(self._case.ledger.settle, self._case.incident_id, [outcome])

    async def _move(self, step: Step, observed: Observed, client: AppClient, act: Act) -> str:
        """Does it; returns the receipt: a secret's id, a version or a build number."""
        courier, platform = self._case.courier, self._case.platform
        store = self._case.client_secrets
        cas, secret_id = observed.labels.version, step.secret_id or ""
        match step.move:
            case Move.CREATE_SECRET:
                return await courier.create(self._client_id, self._path, self._marker)
            case Move.PROMOTE:
                # Tried before anybody is made to depend on it.
                await courier.probe_pending(self._client_id, self._path)
                return str(await store.promote(self._path, cas=cas))
            case Move.ROLL_BACK:
                return str(await store.roll_back(self._path, cas=cas))
            case Move.DROP_PENDING:
                return str(await store.drop_pending(self._path, cas=cas))
            case Move.DROP_PREVIOUS:
                return str(await store.drop_previous(self._path, cas=cas))
            case Move.DEACTIVATE:
                await platform.deactivate_secret(self._client_id, secret_id)
                return secret_id
            case Move.ACTIVATE:
                await platform.activate_secret(self._client_id, secret_id)
                return secret_id
            case Move.DELETE:
                await platform.delete_secret(self._client_id, secret_id)
                return secret_id
            case Move.RESTART:
                return await self._case.brake.unless(self._restart(step, client, act))
            case Move.PROVE:
                return await self._prove(observed)
            case Move.NONE:
                return ""
            case _:
                assert_never(step.move)

    async def _restart(self, step: Step, client: AppClient, act: Act) -> str:
        """Restarts the step's consumers through CI and waits until each works with the secret."""
        policy = self._case.policy.rotate
        consumers = [c for c in client.consumers if c.name in step.consumers]
        builds = await asyncio.gather(
            *(
                self._case.ci.run(
                    c.ci_job,
                    {"CONSUMER": c.name},
                    run_id=self._restart_id(act, step, c),
                    poll=policy.ci_poll,
                    timeout=policy.ci_timeout,
                )
                for c in consumers
            )
        )
        await asyncio.gather(*(self._healthy(c, step.secret_id) for c in consumers))
        return ",".join(str(build.number) for build in builds)

    def _restart_id(self, act: Act, step: Step, consumer: Consumer) -> str:
        """The same for the same act and secret: after a crash the CI's run is found, not started
        again."""
        return app_clients.restart_id(
            self._case.incident_id,
            self._client_id,
            act.step,
            str(act.generation),
            step.secret_id or "",
            consumer.name,
        )

    async def _healthy(self, consumer: Consumer, secret_id: str | None) -> None:
        deadline = asyncio.get_running_loop().time() + (
            self._case.policy.rotate.health_timeout.total_seconds()
        )
        while True:
            report = await self._case.health(consumer.health_url)
            if report.ok and report.secret_id == secret_id:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise Unverified(
                    "Wait for a consumer to work with the new secret",
                    subject=consumer.name,
                    got="not healthy in time" if not report.ok else "another secret",
                )
            await asyncio.sleep(HEALTH_POLL.total_seconds())

    async def _prove(self, observed: Observed) -> str:
        """The secret under CURRENT gets a token that the platform accepts."""
        secrets = {s.secret_id: s for s in observed.secrets}
        previous = secrets.get(observed.labels.previous_id or "")
        await self._case.courier.probe(self._client_id, self._path)
        current = observed.labels.current_id or ""
        used_at = previous.last_used_at if previous else None
        self._evidence = replace(self._evidence, proof=Proof(current, used_at))
        return current

    async def _conclude(self, step: Step) -> Rotated:
        if step.kind is not StepKind.ASK:
            await self._settle_interrupted()
        if step.kind is StepKind.ASK:
            await self._settle(await self._intend(OUTCOME_STEP), Verdict.REFUSED, step.reason)
        get_run_logger().info("%s: %s, %s", self._client_id, step.kind, step.reason)
        return Rotated(self._client_id, step.kind, step.reason)

    async def _settle_interrupted(self) -> None:
        """What an earlier run began and never settled had happened, or it would have been begun
        again: the way to here was found by looking at what there is."""
        mine = [
            Outcome(record.act, Verdict.ALREADY, "interrupted, then found by looking")
            for record in await asyncio.to_thread(
                self._case.ledger.unsettled, self._case.incident_id
            )
            if record.act.subject == self._client_id
            and record.act.step.startswith(f"{rotate.STEP}.")
        ]
        await asyncio.to_thread(self._case.ledger.settle, self._case.incident_id, mine)


def trouble(client_id: str, error: RecoveryError) -> Rotated:
    """A rotation that ended in an error counts as one that asks for a person."""
    return Rotated(client_id, StepKind.ASK, str(error))
