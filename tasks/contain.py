"""Revoke what an attacker may hold: one batch of accounts per task run, in the planned order."""

import asyncio
from collections import Counter

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from clients.oauth import OAuthClient
from recovery import contain
from recovery.accounts import Act, BatchRef, Outcome, Stage, Verdict
from recovery.contain import Containment
from recovery.errors import NotFound, Refused, Unverified
from recovery.validate import still_alive
from tasks.acts import NO_ACCOUNT, UNFINISHED, carry_out, failed
from tasks.case import Case
from tasks.counts import BatchCounts, counted
from tasks.retries import RETRIES

APP_TOKENS_STEP = "contain.app_tokens"
PASSES = 3
"""How often an account is gone over where an attacker came back in between."""


@task(
    task_run_name="contain {batch.incident_id} wave {batch.wave} batch {batch.batch}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=3600,
    **RETRIES,
)
async def revoke_batch(case: Case, batch: BatchRef) -> BatchCounts:
    """CONTAINED for every account of the batch that is due; repeating it is harmless."""
    policy = case.policy
    due = await asyncio.to_thread(case.ledger.due, batch, Stage.CONTAINED)
    plans = {p.act: p for p in contain.plan(due, policy.contain, policy.exclusions)}
    carried = await carry_out(
        case,
        plans,
        lambda act: _contain(case, plans[act]),
        width=case.width(policy.contain.concurrency, "platform"),
        advance=Stage.CONTAINED,
    )
    counts = counted(carried.now.or_raise())
    if counts.total:
        get_run_logger().info("%s: %s", batch, counts)
    return counts


async def _contain(case: Case, plan: Containment) -> Outcome:
    """All kills of one account, and again where something was born while we killed."""
    killed: Counter[str] = Counter()
    alive: tuple[str, ...] = ()
    try:
        for _ in range(PASSES):
            await _kill(case, plan, killed)
            if not plan.verify:
                break
            live = await case.platform.live(plan.account.account_id)
            alive = still_alive(live, case.policy.contain)
            if not alive:
                break
    except NotFound:
        return Outcome(plan.act, Verdict.REFUSED, NO_ACCOUNT)
    except (Refused, *UNFINISHED) as error:
        # Some of the kills may have happened. Containing repeats, so the next run settles it.
        return failed(plan.act, error)
    if alive:
        return Outcome(plan.act, Verdict.REFUSED, "; ".join(alive))
    verdict = Verdict.DONE if any(killed.values()) else Verdict.ALREADY
    return Outcome(plan.act, verdict, counts=tuple(sorted(killed.items())))


async def _kill(case: Case, plan: Containment, killed: Counter[str]) -> None:
    account_id = plan.account.account_id
    for kind in plan.doors:
        killed[kind] += (await case.platform.revoke(account_id, kind))[1]
        await case.mark_once("contain.first_action")
    if plan.force_password_reset:
        reset = await case.platform.force_password_reset(account_id)
        killed["password"] += reset is Verdict.DONE
    for kind in plan.inside:
        killed[kind] += (await case.platform.revoke(account_id, kind))[1]
        await case.mark_once("contain.first_action")


@task(
    task_run_name="revoke app tokens of {client_id}",
    cache_policy=NO_CACHE,
    persist_result=False,
    timeout_seconds=1800,
    **RETRIES,
)
async def revoke_app_tokens(case: Case, client_id: str) -> BatchCounts:
    """RFC 7009 for the tokens that an app of ours stores for affected accounts, then introspection:
    a 200 does not prove that a token was alive, `active: false` proves that it is dead."""
    ledger, policy = case.ledger, case.policy.contain
    stored = await case.secrets.get(policy.app_tokens_path.format(client_id=client_id))
    accounts = await asyncio.to_thread(
        lambda: list(ledger.accounts(case.incident_id, stages=set(Stage) - {Stage.EXCLUDED}))
    )
    tokens = {a.ref: stored.data[a.account_id] for a in accounts if a.account_id in stored.data}
    _, secret = await case.client_secrets.current(
        case.policy.rotate.vault_path.format(client_id=client_id)
    )
    oauth: OAuthClient = case.oauth

    async def revoke(act: Act) -> Outcome:
        token = tokens[act.subject]
        try:
            await oauth.revoke(client_id, secret, token, "refresh_token")
            alive = await oauth.active(client_id, secret, token)
        except Unverified:
            return Outcome(act, Verdict.REFUSED, "the client's own secret was not accepted")
        except (Refused, *UNFINISHED) as error:
            return failed(act, error)
        if alive:
            return Outcome(act, Verdict.REFUSED, "still active after revocation")
        return Outcome(act, Verdict.DONE)

    carried = await carry_out(
        case,
        [Act(ref, f"{APP_TOKENS_STEP}.{client_id}") for ref in tokens],
        revoke,
        width=case.width(policy.concurrency, "platform"),
    )
    counts = counted(carried.now.or_raise())
    if counts.total:
        get_run_logger().info("tokens of %s: %s", client_id, counts)
    return counts
