"""One client's way through a rotation: look, take the next step, write down intent and outcome.

Holds only what this run has seen itself; everything else is looked up, so any run can go on.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import assert_never

from recovery import rotate
from recovery.accounts import Act, Outcome, Verdict
from recovery.app_clients import AppClient
from recovery.errors import (
    Conflict,
    Incomplete,
    RecoveryError,
    Refused,
    Stopped,
    Unknown,
    Unverified,
)
from recovery.refusals import still_wanted
from recovery.rotate import Evidence, Move, Observed, Step, StepKind
from recovery.rotate_in_place import in_place, next_step_in_place
from tasks.acts import UNFINISHED
from tasks.case import Case
from tasks.claims import held
from tasks.rotate_deploy import Deployment
from tasks.run_log import run_log

OUTCOME_STEP = "rotate.outcome"
MAX_STEPS = 80
"""A rotation takes about ten steps; more than this means that looking and acting disagree."""
MAX_SURPRISES = 4
"""So often a lost answer or somebody else's write is met by looking again."""
_ON_TRIAL = (Move.PROMOTE, Move.RESTART, Move.PROVE)
"""Moves whose failure makes the new secret suspect."""
_CREATING = (Move.CREATE_SECRET, Move.ROTATE_IN_PLACE)


@dataclass(frozen=True, slots=True)
class Rotated:
    """What became of one client: `state` is renewed, retired, or asks for a person."""

    client_id: str
    state: StepKind
    reason: str

    @property
    def failed(self) -> bool:
        return self.state is StepKind.ASK


class Rotation:
    """`approved` is whether a person let this client be rotated in spite of what speaks against
    it: it matters where the platform holds one secret."""

    def __init__(self, case: Case, client_id: str, *, approved: bool = False) -> None:
        self._case = case
        self._client_id = client_id
        self._path = secret_path(case, client_id)
        self._marker = rotate.marker(case.incident_id)
        self._approved = approved
        self._evidence = Evidence()
        self._surprises = 0
        self._gap_began: float | None = None

    async def run(self, *, stop_before: StepKind | None) -> Rotated:
        client = await self._client()
        deployment = Deployment(self._case, client, self._path)
        for number in range(MAX_STEPS):
            await self._case.brake.check()
            observed = await self._case.courier.observe(self._client_id, self._path)
            if number == 0 and observed.labels.previous_id is None:
                await deployment.remember_the_ill()
            self._evidence = replace(self._evidence, running=await deployment.running())
            step = self._next(observed, client)
            if step.final or step.kind is stop_before:
                return await self._conclude(step)
            await self._do(step, observed, deployment)
        raise Refused(
            "Rotate a client secret",
            subject=self._client_id,
            code="no_end",
            expected=f"an end within {MAX_STEPS} steps",
            advice="Look at the client's acts in the report; the secret in force was not touched.",
        )

    def _next(self, observed: Observed, client: AppClient) -> Step:
        stages = self._case.policy.rotate.consumer_waves
        if in_place(client):
            return next_step_in_place(
                observed,
                marker=self._marker,
                evidence=self._evidence,
                approved=self._approved,
                prepared={c.name for c in client.consumers if c.tries_both},
                stages=stages,
            )
        return rotate.next_step(
            observed,
            marker=self._marker,
            evidence=self._evidence,
            max_secrets=client.max_secrets,
            can_deactivate=client.can_deactivate,
            stages=stages,
        )

    async def _client(self) -> AppClient:
        found = await self._case.platform.app_clients([self._client_id])
        if not found:
            raise Refused("Look up a client", subject=self._client_id, code="not_found")
        return found[0]

    async def _do(self, step: Step, observed: Observed, deployment: Deployment) -> None:
        """One move, with its intent before and its outcome after. A failed deployment or test
        becomes evidence, by which the next look rolls back; a surprise is looked at once more."""
        held().sure()
        act = await self._intend(f"{rotate.STEP}.{step.kind}.{step.move}")
        try:
            receipt = await self._move(step, observed, deployment, act)
        except UNFINISHED as error:
            # Looking again tells what happened; nothing is done twice.
            await self._settle(act, Verdict.UNKNOWN, type(error).__name__)
            self._doubt_or_raise(step, error)
        except Stopped:
            # Only what may be lost is not waited for; the next look finds out how it ended.
            await self._settle(act, Verdict.UNKNOWN, "stopped while waiting for it")
            raise
        except Incomplete as error:
            # Nobody can tell how it went: no evidence for the secret, and none against it.
            await self._settle(act, Verdict.UNKNOWN, type(error).__name__)
            raise
        except (Refused, Unverified) as error:
            code = error.code if isinstance(error, Refused) else f"unverified: {error.got}"
            await self._settle(act, Verdict.REFUSED, code)
            self._doubt_or_raise(step, error)
        else:
            counts = self._gap(step, deployment)
            await self._settle(act, Verdict.DONE, step.reason, receipt, counts)

    def _doubt_or_raise(self, step: Step, error: RecoveryError) -> None:
        """What fails on a new secret makes it suspect; anything else is not the secret's fault."""
        lost = isinstance(error, Unknown) and step.move in _CREATING
        if lost or isinstance(error, Conflict):
            # What came of it shows at the platform by our marker, or in Vault by its version.
            self._surprises += 1
            if self._surprises <= MAX_SURPRISES:
                return
        if step.secret_id is None or step.move not in _ON_TRIAL or isinstance(error, Conflict):
            raise error
        failed = self._evidence.failed | {step.secret_id}
        self._evidence = replace(self._evidence, failed=failed)

    def _gap(self, step: Step, deployment: Deployment) -> tuple[tuple[str, int], ...]:
        """After a rotation in place: how long whoever was restarted now may have gone without."""
        if step.move is not Move.RESTART or self._gap_began is None:
            return ()
        if not deployment.helpless(step.consumers):
            return ()
        return (("gap_ms", round((time.monotonic() - self._gap_began) * 1000)),)

    async def _intend(self, name: str) -> Act:
        """The act of that name. One that is repeated (after a rollback) is a new generation."""
        for generation in range(1, 10 * MAX_STEPS):
            act = Act(self._client_id, name, generation)
            intention = await asyncio.to_thread(
                self._case.ledger.intend, self._case.incident_id, [act]
            )
            if intention.fresh or intention.unsettled:
                return act
        raise Refused("Rotate a client secret", subject=self._client_id, code="no_end")

    async def _settle(
        self,
        act: Act,
        verdict: Verdict,
        detail: str,
        receipt: str = "",
        counts: tuple[tuple[str, int], ...] = (),
    ) -> None:
        outcome = Outcome(act, verdict, detail, receipt, counts)
        await asyncio.to_thread(self._case.ledger.settle, self._case.incident_id, [outcome])

    async def _move(self, step: Step, observed: Observed, deployment: Deployment, act: Act) -> str:
        """Does it; returns the receipt: a secret's id, a version or a build number."""
        courier, platform = self._case.courier, self._case.platform
        store, brake = self._case.client_secrets, self._case.brake
        cas, secret_id = observed.labels.version, step.secret_id or ""
        match step.move:
            case Move.CREATE_SECRET:
                return await courier.create(self._client_id, self._path, self._marker)
            case Move.ROTATE_IN_PLACE:
                self._gap_began = time.monotonic()
                return await courier.rotate_in_place(self._client_id, self._path, self._marker)
            case Move.PROMOTE:
                if len(observed.secrets) > 1:
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
                return await brake.unless(deployment.restart(step, observed, act))
            case Move.PROVE:
                proof = await brake.unless(deployment.prove(observed))
                self._evidence = replace(self._evidence, proof=proof)
                return proof.secret_id
            case Move.WATCH:
                return await brake.unless(self._watch(secret_id, deployment))
            case Move.NONE:
                return ""
            case _:
                assert_never(step.move)

    async def _watch(self, secret_id: str, deployment: Deployment) -> str:
        """Puts what was seen into the evidence; the receipt says it."""
        counts = await deployment.refused()
        proof = self._evidence.proof
        if still_wanted(counts, proof.refusals if proof else 0):
            wanted = self._evidence.wanted | {secret_id}
            self._evidence = replace(self._evidence, wanted=wanted)
            return f"{counts.refused} of {counts.total} authentications refused"
        unwanted = self._evidence.unwanted | {secret_id}
        self._evidence = replace(self._evidence, unwanted=unwanted)
        return "nobody asked for it"

    async def _conclude(self, step: Step) -> Rotated:
        if step.kind is StepKind.ASK:
            await self._settle(await self._intend(OUTCOME_STEP), Verdict.REFUSED, step.reason)
        else:
            await self._reconcile(step)
        run_log().info("%s: %s, %s", self._client_id, step.kind, step.reason)
        return Rotated(self._client_id, step.kind, step.reason)

    async def _reconcile(self, step: Step) -> None:
        """Acts whose outcome never came (a crash, a lost answer): the look at all sides that has
        just been taken is the answer to what became of them."""
        ledger, incident_id = self._case.ledger, self._case.incident_id
        open_acts = await asyncio.to_thread(ledger.unsettled, incident_id)
        outcomes = [
            Outcome(record.act, Verdict.ALREADY, f"found by looking: {step.reason}")
            for record in open_acts
            if record.act.subject == self._client_id
            and record.act.step.startswith(f"{rotate.STEP}.")
        ]
        if outcomes:
            await asyncio.to_thread(ledger.settle, incident_id, outcomes)


def secret_path(case: Case, client_id: str) -> str:
    return case.policy.rotate.vault_path.format(client_id=client_id)


def trouble(client_id: str, error: RecoveryError) -> Rotated:
    """A rotation that ended in an error counts as one that asks for a person."""
    return Rotated(client_id, StepKind.ASK, str(error))
