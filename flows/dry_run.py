"""A dry run: the same scoping and the same plans as a real run, on a ledger that is thrown away.

Reads the SIEM and the platform, writes nothing to them, to Vault, to the real ledger or to people.
"""

import asyncio
import secrets
import tempfile
from datetime import datetime
from pathlib import Path

from prefect import get_run_logger

from flows.detect import given_window, scope
from flows.progress import show_markdown
from ledger import Ledger
from recovery import app_clients, contain, enroll
from recovery import notify as messages
from recovery.accounts import Account, Stage
from recovery.incident import Incident
from recovery.notify import NoticeKind, PlannedNotice
from recovery.plans import contain_plan, dry_run_summary
from tasks.case import Case
from tasks.inventory import merged_clients
from tasks.notify import preview_stage


async def plan_response(
    case: Case,
    *,
    window_start: datetime | None,
    window_end: datetime | None,
    scope_file: Path | None,
) -> str:
    """Shows the plan as an artifact and in the log; returns one line that sums it up.

    An incident that the ledger knows is planned from where it stands; a new one from the SIEM.
    """
    known = {i.incident_id: i for i in await asyncio.to_thread(case.ledger.incidents)}
    if case.incident_id in known:
        return await _show_plan(case, known[case.incident_id])
    with tempfile.TemporaryDirectory(prefix="recovery-dry-run-") as folder:
        sketch = Ledger(
            f"sqlite:///{folder}/ledger.db", key=secrets.token_bytes(32), clock=case.ledger.now
        )
        try:
            await asyncio.to_thread(sketch.migrate)
            planned = case.sketched(sketch, Path(folder))
            window = given_window(window_start, window_end)
            await scope(planned, window=window, scope_file=scope_file, requested_by="dry-run")
            incident = await asyncio.to_thread(sketch.incident, case.incident_id)
            return await _show_plan(planned, incident)
        finally:
            sketch.close()


async def _show_plan(case: Case, incident: Incident) -> str:
    ledger, policy = case.ledger, case.policy
    accounts = await asyncio.to_thread(lambda: list(ledger.accounts(incident.incident_id)))
    counts = await asyncio.to_thread(ledger.scope, incident.incident_id)
    waiting = [a for a in accounts if a.stage is Stage.SCOPED]
    plan = contain_plan(incident, policy, gate="contain", accounts=waiting, scope=counts)
    alone, by_hand = _split(case, accounts)
    clients = await merged_clients(case, {app for a in accounts for app in a.linked_apps})
    untouched = {c.client_id: why for c in clients if (why := app_clients.untouched_reason(c))}
    steps = {
        "detect": f"{counts.sighted} seen = {counts.admitted} admitted + {counts.excluded} "
        f"excluded + {counts.unrostered} not in the roster; "
        f"{counts.quarantined_fields} contact fields quarantined",
        "contain": contain.describe(contain.plan(waiting, policy.contain, policy.exclusions)),
        "enroll": f"{len(alone)} enrollments, {len(by_hand)} left to a person",
        "notify": _messages(case, alone, by_hand),
        "rotate": app_clients.describe_plan(
            app_clients.plan_waves(clients, policy.rotate.waves), untouched
        ),
        "validate": f"up to {policy.validation.sample} accounts and every rotated client",
    }
    markdown = "\n\n".join(
        [
            f"# Dry run of {incident.incident_id}",
            "Nothing was changed. Start `respond` with *Dry run* off to act on this plan.",
            dry_run_summary(steps),
            "## The containment gate would show",
            "| | |\n|---|---|\n" + "\n".join(f"| {k} | {v} |" for k, v in plan.facts.items()),
        ]
    )
    await show_markdown(case, "dry-run", markdown, f"The plan of {incident.incident_id}")
    for phase, what in steps.items():
        get_run_logger().info("would %s: %s", phase, what)
    return f"{len(waiting)} accounts would be contained, {len(alone)} get a link."


def _split(case: Case, accounts: list[Account]) -> tuple[list[Account], list[Account]]:
    """Who would enroll alone, and who is left to a person."""
    ahead = [a for a in accounts if a.stage in (Stage.SCOPED, Stage.CONTAINED, Stage.TOKEN_ISSUED)]
    proofing = case.policy.priority.manual_proofing
    alone = [a for a in ahead if enroll.manual_reason(a, proofing) is None]
    refs = {a.ref for a in alone}
    return alone, [a for a in ahead if a.ref not in refs]


def _messages(case: Case, alone: list[Account], by_hand: list[Account]) -> str:
    """How many messages over which channel, and what is skipped and why."""
    sent: dict[str, int] = {}
    skipped: dict[str, int] = {}
    for kind, accounts in ((NoticeKind.LINK, alone), (NoticeKind.MANUAL, by_hand)):
        for account in accounts:
            ahead = preview_stage(account, kind)
            for notice in messages.plan_notices(ahead, case.policy, kind=kind, generation=1):
                if isinstance(notice, PlannedNotice):
                    sent[notice.channel] = sent.get(notice.channel, 0) + 1
                else:
                    why = f"{notice.channel}: {notice.reason}"
                    skipped[why] = skipped.get(why, 0) + 1
    text = ", ".join(f"{n} by {channel}" for channel, n in sent.items()) or "nothing to send"
    if skipped:
        text += "; skipped " + ", ".join(f"{n}x {why}" for why, n in skipped.items())
    return text
