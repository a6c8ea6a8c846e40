"""Probe the world after the acts: what still lives, what logs in, which secret serves."""

import asyncio
from dataclasses import dataclass, field

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from recovery import validate
from recovery.accounts import Account, Act, Outcome, Stage, Verdict
from recovery.errors import NotFound, Refused, Unverified
from recovery.validate import Probe, ProbeKind
from tasks.acts import NO_ACCOUNT, UNFINISHED, carry_out, failed
from tasks.case import Case
from tasks.counts import BatchCounts, counted
from tasks.retries import RETRIES
from tasks.rotate import rotatable
from tasks.spread import spread

STEP = "validate.account"
CONTAINED = (Stage.CONTAINED, Stage.TOKEN_ISSUED, Stage.NOTIFIED, Stage.MANUAL)
ENROLLED_CHUNK = 500


@dataclass(frozen=True, slots=True)
class Findings:
    """One kind of probe, counted, with the reasons of what failed."""

    what: str
    passed: int
    failed: int
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.passed + self.failed

    def __str__(self) -> str:
        text = f"{self.passed} of {self.total} {self.what} passed"
        if self.reasons:
            text += " (" + "; ".join(f"{n}x {why}" for why, n in self.reasons.items()) + ")"
        return text


@task(
    task_run_name="probe enrolled accounts", cache_policy=NO_CACHE, persist_result=False, **RETRIES
)
async def probe_enrolled(case: Case) -> BatchCounts:
    """VALIDATED for everybody who enrolled and whose authenticator the platform knows."""
    ledger, incident_id, total = case.ledger, case.incident_id, BatchCounts()
    enrolled = await asyncio.to_thread(
        lambda: list(ledger.accounts(incident_id, stages={Stage.ENROLLED}))
    )
    for start in range(0, len(enrolled), ENROLLED_CHUNK):
        by_act = {Act(a.ref, STEP): a for a in enrolled[start : start + ENROLLED_CHUNK]}

        async def probe(act: Act, by_act: dict[Act, Account] = by_act) -> Outcome:
            try:
                live = await case.platform.live(by_act[act].account_id)
            except (NotFound, Refused):
                return Outcome(act, Verdict.REFUSED, NO_ACCOUNT)
            except UNFINISHED as error:
                return failed(act, error)
            judgement = validate.judge(by_act[act], live, case.policy.contain)
            verdict = Verdict.DONE if judgement.passed else Verdict.REFUSED
            return Outcome(act, verdict, "" if judgement.passed else judgement.detail)

        carried = await carry_out(
            case,
            by_act,
            probe,
            width=case.width(case.policy.validation.concurrency, "platform"),
            advance=Stage.VALIDATED,
        )
        total = total + counted(carried.now.or_raise())
    return total


@task(
    task_run_name="probe contained accounts", cache_policy=NO_CACHE, persist_result=False, **RETRIES
)
async def probe_contained(case: Case) -> Findings:
    """A sample of the contained accounts, the same for the same incident: does anything live?"""
    accounts = await asyncio.to_thread(
        lambda: list(case.ledger.accounts(case.incident_id, stages=set(CONTAINED)))
    )
    chosen = validate.sample(accounts, case.policy.validation.sample, case.incident_id)

    async def probe(account: Account) -> validate.Judgement:
        live = await case.platform.live(account.account_id)
        return validate.judge(account, live, case.policy.contain)

    worked = await spread(
        chosen,
        probe,
        width=case.width(case.policy.validation.concurrency, "platform"),
        before=case.brake.check,
    )
    judgements = worked.or_raise()
    # Who enrolled while we looked has new sessions and a new password, and rightly so.
    now = await asyncio.to_thread(
        lambda: {
            a.ref
            for a in case.ledger.accounts(
                case.incident_id, stages={Stage.ENROLLED, Stage.VALIDATED}
            )
        }
    )
    return _found("contained accounts", [j for j in judgements if j.subject not in now])


@task(task_run_name="try old passwords", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def try_old_passwords(case: Case) -> Findings:
    """Our own test accounts among the affected: the password they had must not log in any more."""
    ledger, incident_id = case.ledger, case.incident_id
    try:
        stored = await case.secrets.get(case.policy.validation.probe_accounts_path)
    except NotFound:
        return Findings("old passwords", 0, 0)
    probes: list[Probe] = []
    accounts = await asyncio.to_thread(lambda: list(ledger.accounts(incident_id)))
    for account in accounts:
        if account.account_id not in stored.data or account.stage not in CONTAINED:
            continue
        entered = await case.platform.login(account.handle, stored.data[account.account_id])
        probes.append(Probe(account.ref, ProbeKind.OLD_PASSWORD, 200 if entered else 401))
    return _found("old passwords", [validate.judge_probe(probe) for probe in probes])


@task(task_run_name="probe clients", cache_policy=NO_CACHE, persist_result=False, **RETRIES)
async def probe_clients(case: Case) -> Findings:
    """Every rotated client: its new secret gets a token that serves, its consumers are healthy."""
    judgements: list[validate.Judgement] = []
    for record in await rotatable(case):
        path = case.policy.rotate.vault_path.format(client_id=record.client_id)
        try:
            await case.courier.probe(record.client_id, path)
            got: int | None = 200
        except Unverified:
            got = 401
        except UNFINISHED:
            got = None
        judgements.append(validate.judge_probe(Probe(record.client_id, ProbeKind.NEW_SECRET, got)))
    for client in await case.platform.app_clients([j.subject for j in judgements]):
        for consumer in client.consumers:
            report = await case.health(consumer.health_url)
            probe = Probe(consumer.name, ProbeKind.CONSUMER_HEALTH, 200 if report.ok else 503)
            judgements.append(validate.judge_probe(probe))
    return _found("clients and consumers", judgements)


def _found(what: str, judgements: list[validate.Judgement]) -> Findings:
    reasons: dict[str, int] = {}
    for judgement in judgements:
        for failure in judgement.failures:
            reasons[failure] = reasons.get(failure, 0) + 1
    passed = sum(j.passed for j in judgements)
    findings = Findings(what, passed, len(judgements) - passed, reasons)
    get_run_logger().info("%s", findings)
    return findings
