"""What an approver is asked to let happen at each gate, as a digestible value with its counts."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from recovery import contain
from recovery.accounts import Account, Priority, Stage, Verdict
from recovery.app_clients import AppClient, Lift
from recovery.approvals import GatePlan, plan_facts
from recovery.incident import ActRecord, ClientRecord, Incident, Phase, ScopeCounts, Tally
from recovery.policy import RecoveryPolicy
from recovery.rotate_in_place import expected_gap

NO_CANARY = "not run yet: wave 0 goes first, and its outcomes decide whether the next may go"


def contain_plan(
    incident: Incident,
    policy: RecoveryPolicy,
    *,
    gate: str,
    accounts: Sequence[Account],
    scope: ScopeCounts,
    canary: str = NO_CANARY,
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
            "Canary": canary,
            "Requests to the platform": requests,
            "Rate": f"at most {policy.quotas.platform.per_second:g} a second",
            "Expected duration": timedelta(seconds=requests / policy.quotas.platform.per_second),
            "Runbook": f"{policy.name} ({incident.runbook_digest[:12]})",
        }
    )
    detail = "\n\n".join(
        [
            f"**What is done:** {contain.describe(steps)}.",
            _actions(steps),
            _by_wave(accounts),
            _references(accounts),
        ]
    )
    return GatePlan(gate, f"Contain {len(accounts)} accounts", facts, detail)


def notify_plan(
    incident: Incident,
    policy: RecoveryPolicy,
    *,
    preview: str,
    text_digest: str,
    accounts: Sequence[Account] = (),
    canary: str = NO_CANARY,
) -> GatePlan:
    """The text that people will read; legal and PR approve exactly this wording. `accounts` are
    those who wait for it."""
    linked = [a for a in accounts if a.stage is Stage.TOKEN_ISSUED]
    by_hand = [a for a in accounts if a.stage is Stage.MANUAL]
    people = [*linked, *by_hand]
    quotas = policy.quotas
    facts = plan_facts(
        {
            "Incident": incident.incident_id,
            "People who get a link": len(linked),
            "People who get word without a link": len(by_hand),
            "of high priority": sum(a.priority is Priority.HIGH for a in people),
            "Messages": ", ".join(
                f"{sum(channel in a.channels for a in people):,} by {channel.value}"
                for channel in policy.notify.channels
            ),
            "Waves": ", ".join(_wave(people, wave) for wave in sorted({a.wave for a in people})),
            "Canary": canary,
            "Rate": f"at most {quotas.sms.per_second:g} text messages, "
            f"{quotas.platform.per_second:g} banners and {quotas.email.per_second:g} email "
            "requests a second",
            "Expected duration": expected(policy, Phase.NOTIFY, len(people)),
            "Channels": ", ".join(channel.value for channel in policy.notify.channels),
            "Sender": policy.notify.organization,
            "Address people type themselves": policy.notify.site,
            "Messages to one person at most": policy.notify.max_messages,
            "Runbook": f"{policy.name} ({incident.runbook_digest[:12]})",
            "Digest of the text": text_digest,
        }
    )
    detail = f"{_by_wave(people)}\n\n{preview}" if people else preview
    return GatePlan("notify", "Approve the text of the messages", facts, detail)


def retire_plan(
    incident: Incident,
    policy: RecoveryPolicy,
    *,
    retiring: Sequence[tuple[ClientRecord, str]],
    validation: str,
    renewed: str = "",
) -> GatePlan:
    """The old client secrets that stop to work. The one step that can't be undone."""
    facts = plan_facts(
        {
            "Incident": incident.incident_id,
            "Old secrets to retire": len(retiring),
            "of high risk": sum(client.risk == "high" for client, _ in retiring),
            "Renewed before, first wave first": renewed or "see the table `rotate`",
            "Validation": validation,
            "Expected duration": timedelta(seconds=policy.rotate.soak.total_seconds()),
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


def overrule_plan(
    incident_id: str, *, gate: str, reason: str, situation: Mapping[str, str] | None = None
) -> GatePlan:
    """Go on in spite of a hold, for exactly this reason. `situation` says what was done and what
    would follow."""
    return GatePlan(
        gate,
        "A gate holds: go on all the same?",
        {"Incident": incident_id, "Gate": gate, "Reason": reason, **(situation or {})},
        "Approve only if you know why this happened and that the next wave won't repeat it.",
    )


def reopen_plan(incident_id: str, *, step: str, refused: Sequence[ActRecord]) -> GatePlan:
    """Acts that were refused and may be tried again; bound to exactly these acts."""
    reasons = Counter(record.detail or "no reason given" for record in refused)
    facts = plan_facts(
        {
            "Incident": incident_id,
            "Step": step,
            "Acts to try again": len(refused),
            **{f"refused: {why}": number for why, number in reasons.most_common()},
        }
    )
    names = sorted(f"{r.act.subject} {r.act.step} {r.act.generation}" for r in refused)
    exact = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return GatePlan(
        "reopen",
        f"Try {len(refused)} refused acts again",
        facts,
        f"Exact acts (SHA-256): `{exact}`",
    )


def close_plan(incident_id: str, *, counts: str) -> GatePlan:
    """The end of an incident; every open link dies with it."""
    return GatePlan(
        "close",
        "Close the incident for good",
        {"Incident": incident_id, "As it stands": counts, "Way back": "none"},
        "Every enrollment link that was not used dies. Nothing can be done under this id later.",
    )


def hold_situation(policy: RecoveryPolicy, tally: Tally, phase: Phase, wave: int) -> dict[str, str]:
    """What an approver of a hold needs to know besides its reason, from the ledger's counts."""
    if phase not in (Phase.CONTAIN, Phase.ENROLL, Phase.NOTIFY):
        return {}
    later: dict[int, int] = {}
    for (of_wave, _), count in tally.stages.items():
        if of_wave > wave:
            later[of_wave] = later.get(of_wave, 0) + count
    left = sum(later.values())
    situation = {"Canary": wave_result(tally, phase, 0)}
    if wave > 0:
        situation[f"Wave {wave}"] = wave_result(tally, phase, wave)
    situation["Next, if you approve"] = (
        f"{left:,} accounts in waves of {', '.join(str(later[w]) for w in sorted(later))}"
        if left
        else "nothing more in this phase"
    )
    if left:
        situation |= plan_facts({"Expected duration": expected(policy, phase, left)})
    return situation


def wave_result(tally: Tally, phase: Phase, wave: int) -> str:
    """The outcomes of a wave's acts in this phase, or that there are none."""
    well = tally.of_verdict(phase.value, Verdict.DONE, Verdict.ALREADY, wave=wave)
    refused = tally.of_verdict(phase.value, Verdict.REFUSED, wave=wave)
    unknown = tally.of_verdict(phase.value, Verdict.UNKNOWN, None, wave=wave)
    if not well + refused + unknown:
        return NO_CANARY if wave == 0 else "not begun"
    return f"{well:,} acts done, {refused:,} refused, {unknown:,} unknown"


def expected(policy: RecoveryPolicy, phase: Phase, accounts: int) -> timedelta:
    """How long so many accounts take at the runbook's quotas; answers of the other side apart."""
    platform, sms = policy.quotas.platform.per_second, policy.quotas.sms.per_second
    match phase:
        case Phase.CONTAIN:
            calls = len(contain.kinds(policy.contain))
            calls += policy.contain.force_password_reset + policy.contain.verify
            seconds = accounts * calls / platform
        case Phase.NOTIFY:
            seconds = accounts * max(1 / sms, 1 / platform)
        case _:
            seconds = accounts / platform
    return timedelta(seconds=seconds)


def _actions(steps: Sequence[contain.Containment]) -> str:
    """How many accounts each kind of act concerns."""
    counts = Counter(name for step in steps for name in _named(step))
    rows = "\n".join(f"| {name} | {count:,} |" for name, count in counts.items())
    return f"| Action, in this order | Accounts |\n|---|---|\n{rows}"


def _named(step: contain.Containment) -> list[str]:
    names = [f"revoke {kind.value.replace('_', ' ')}" for kind in step.doors]
    names += ["force a password reset"] * step.force_password_reset
    names += [f"revoke {kind.value.replace('_', ' ')}" for kind in step.inside]
    return names + ["look what is still alive"] * step.verify


def _by_wave(accounts: Sequence[Account]) -> str:
    rows = []
    for wave in sorted({a.wave for a in accounts}):
        members = [a for a in accounts if a.wave == wave]
        high = sum(a.priority is Priority.HIGH for a in members)
        name = "0 (canary)" if wave == 0 else str(wave)
        rows.append(f"| {name} | {len(members):,} | {high:,} |")
    return "| Wave | Accounts | of high priority |\n|---|---|---|\n" + "\n".join(rows)


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
