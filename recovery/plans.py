"""What an approver is asked to let happen at each gate, as a digestible value with its counts."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from recovery import contain
from recovery.accounts import Account, Priority
from recovery.app_clients import AppClient, Lift
from recovery.approvals import GatePlan, plan_facts
from recovery.incident import ClientRecord, Incident, ScopeCounts
from recovery.policy import RecoveryPolicy
from recovery.rotate_in_place import expected_gap


def contain_plan(
    incident: Incident,
    policy: RecoveryPolicy,
    *,
    gate: str,
    accounts: Sequence[Account],
    scope: ScopeCounts,
) -> GatePlan:
    """Cut off the attacker: whose credentials die, in how many waves, and how long it takes.

    The digest covers the exact accounts through a hash of their references.
    """
    steps = [contain.containment(a, policy.contain) for a in accounts]
    requests = sum(step.calls for step in steps)
    waves = sorted({a.wave for a in accounts})
    facts = plan_facts(
        {
            "Incident": incident.incident_id,
            "Burst": _window(incident.window_start, incident.window_end),
            "Accounts": len(accounts),
            "of high priority": sum(a.priority is Priority.HIGH for a in accounts),
            "Never touched (excluded)": scope.excluded,
            "Not in the roster (quarantined)": scope.unrostered,
            "Events without an account": scope.unattributed_events,
            "Waves": ", ".join(_wave(accounts, wave) for wave in waves),
            "Requests to the platform": requests,
            "Rate": f"at most {policy.quotas.platform.per_second:g} a second",
            "Expected duration": timedelta(seconds=requests / policy.quotas.platform.per_second),
            "Runbook": f"{policy.name} ({incident.runbook_digest[:12]})",
        }
    )
    detail = f"**What is done:** {contain.describe(steps)}.\n\n{_references(accounts)}"
    return GatePlan(gate, f"Contain {len(accounts)} accounts", facts, detail)


def notify_plan(
    incident: Incident, policy: RecoveryPolicy, *, preview: str, text_digest: str
) -> GatePlan:
    """The text that people will read; legal and PR approve exactly this wording."""
    facts = plan_facts(
        {
            "Incident": incident.incident_id,
            "Channels": ", ".join(channel.value for channel in policy.notify.channels),
            "Sender": policy.notify.organization,
            "Address people type themselves": policy.notify.site,
            "Messages to one person at most": policy.notify.max_messages,
            "Runbook": f"{policy.name} ({incident.runbook_digest[:12]})",
            "Digest of the text": text_digest,
        }
    )
    return GatePlan("notify", "Approve the text of the messages", facts, preview)


def retire_plan(
    incident: Incident,
    policy: RecoveryPolicy,
    *,
    retiring: Sequence[tuple[ClientRecord, str]],
    validation: str,
) -> GatePlan:
    """The old client secrets that stop to work. The one step that can't be undone."""
    facts = plan_facts(
        {
            "Incident": incident.incident_id,
            "Old secrets to retire": len(retiring),
            "Validation": validation,
            "Way back": "deactivated first, which can be undone; then deleted",
            "Runbook": f"{policy.name} ({incident.runbook_digest[:12]})",
        }
    )
    rows = "\n".join(
        f"| {client.client_id} | {client.owner} | {client.risk} | {len(client.consumers)} | {old} |"
        for client, old in retiring
    )
    detail = (
        f"| Client | Owner | Risk | Consumers | Old secret's id |\n|---|---|---|---|---|\n{rows}"
    )
    return GatePlan("retire", f"Retire {len(retiring)} old client secrets", facts, detail)


def lift_plan(incident_id: str, lift: Lift, clients: Sequence[AppClient]) -> GatePlan:
    """Rotate clients that are otherwise left to a person, each by its name."""
    names = ", ".join(c.client_id for c in clients)
    facts = {"Incident": incident_id, "Clients": f"{len(clients)}: {names}"}
    head = "| Client | Name | Owner | Linked accounts |"
    lines = [f"| {c.client_id} | {c.name} | {c.owner} | {c.linked_accounts} |" for c in clients]
    if lift is Lift.GAP:
        title = f"Rotate {len(clients)} secrets that can't overlap"
        facts["Way back"] = "none: the platform drops the old secret when it makes the new one"
        head = f"{head} Expected gap |\n|---|---|---|---|---|"
        rows = [f"{line} {expected_gap(c)} |" for line, c in zip(lines, clients, strict=True)]
    else:
        title = f"Rotate {len(clients)} secrets that nobody is known to use"
        facts["Risk"] = "who reads such a secret fails from when the old one is off until it is on"
        head = f"{head}\n|---|---|---|---|"
        rows = lines
    choice = "Reject to leave these clients to a person; the rest goes on."
    detail = "\n".join([head, *rows, "", choice])
    return GatePlan(str(lift), title, facts, detail)


def overrule_plan(incident_id: str, *, gate: str, reason: str) -> GatePlan:
    """Go on in spite of a hold, for exactly this reason."""
    return GatePlan(
        gate,
        "A gate holds: go on all the same?",
        {"Incident": incident_id, "Gate": gate, "Reason": reason},
        "Approve only if you know why this happened and that the next wave won't repeat it.",
    )


def _wave(accounts: Iterable[Account], wave: int) -> str:
    count = sum(a.wave == wave for a in accounts)
    return f"canary of {count}" if wave == 0 else f"{count}"


def _window(start: datetime, end: datetime) -> str:
    return f"{start:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"


def _references(accounts: Iterable[Account]) -> str:
    joined = "\n".join(sorted(a.ref for a in accounts))
    return (
        f"Exact list (SHA-256 of the references): `{hashlib.sha256(joined.encode()).hexdigest()}`"
    )


def dry_run_summary(plans: Mapping[str, str]) -> str:
    """The phases of a dry run as a Markdown table."""
    rows = "\n".join(f"| {phase} | {what} |" for phase, what in plans.items())
    return f"| Phase | What would be done |\n|---|---|\n{rows}"
