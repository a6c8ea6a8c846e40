"""What approvers read: the counts, and a digest that changes with everything that matters."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recovery.accounts import Account, Act, Priority, Stage, Verdict
from recovery.approvals import GatePlan
from recovery.incident import ActRecord, ClientRecord, Incident, Phase, ScopeCounts, Tally
from recovery.plans import (
    NO_CANARY,
    contain_plan,
    dry_run_summary,
    hold_situation,
    notify_plan,
    overrule_plan,
    reopen_plan,
    retire_plan,
)
from recovery.policy import Quota, RecoveryPolicy, load_policy

RUNBOOK = Path(__file__).resolve().parents[2] / "runbooks" / "mass-password-reset.yaml"
POLICY, DIGEST = load_policy(RUNBOOK)
START = datetime(2026, 11, 24, 8, 30, tzinfo=UTC)
INCIDENT = Incident(
    incident_id="INC-2026-0142",
    opened_at=START + timedelta(minutes=9),
    window_start=START,
    window_end=START + timedelta(minutes=8),
    runbook_digest=DIGEST,
    runbook_commit="0" * 40,
    requested_by="oscar",
)
SCOPE = ScopeCounts(
    sighted=33,
    admitted=30,
    excluded=1,
    unrostered=2,
    high_priority=4,
    quarantined_fields=3,
    unattributed_events=5,
)


def account(number: int, wave: int = 1, priority: Priority = Priority.NORMAL) -> Account:
    return Account(
        ref=f"acc-{number:04}",
        account_id=f"u-{number:04}",
        handle=f"person{number}",
        email=f"person{number}@example.com",
        phone="+12025550127",
        locale="en",
        last_active=None,
        linked_apps=(),
        priority=priority,
        reasons=(),
        wave=wave,
        batch=0,
        stage=Stage.SCOPED,
    )


CANARY = [account(n, wave=0, priority=Priority.HIGH) for n in range(4)]
EVERYBODY = [*CANARY, *(account(n) for n in range(4, 30))]


def plan_of(
    accounts: list[Account] = EVERYBODY,
    *,
    incident: Incident = INCIDENT,
    policy: RecoveryPolicy = POLICY,
    scope: ScopeCounts = SCOPE,
    gate: str = "contain",
) -> GatePlan:
    return contain_plan(incident, policy, gate=gate, accounts=accounts, scope=scope)


def with_rate(per_second: float) -> RecoveryPolicy:
    platform = Quota(per_second=per_second, concurrent=4)
    return POLICY.model_copy(
        update={"quotas": POLICY.quotas.model_copy(update={"platform": platform})}
    )


def test_a_containment_is_shown_with_its_counts() -> None:
    plan = plan_of()
    assert plan.title == "Contain 30 accounts"
    assert plan.facts == {
        "Incident": "INC-2026-0142",
        "Burst": "2026-11-24 08:30 to 08:38 UTC",
        "Accounts": "30",
        "of high priority": "4",
        "Never touched (excluded)": "1",
        "Not in the roster (quarantined)": "2",
        "Events without an account": "5",
        "Waves": "canary of 4, 26",
        "Canary": NO_CANARY,
        "Requests to the platform": "210",
        "Rate": "at most 50 a second",
        "Expected duration": "4 s",
        "Runbook": f"mass-password-reset ({DIGEST[:12]})",
    }
    assert "30 accounts: revoke refresh tokens, recovery tokens, sessions" in plan.detail


def test_the_expected_duration_follows_the_quota() -> None:
    assert plan_of(policy=with_rate(2)).facts["Expected duration"] == "1 min 45 s"
    assert plan_of(policy=with_rate(210)).facts["Expected duration"] == "1 s"


def test_a_late_wave_has_no_canary() -> None:
    late = plan_of([account(n, wave=3) for n in range(5)], gate="contain.late.3")
    assert late.gate == "contain.late.3"
    assert late.facts["Waves"] == "5"


def test_nobody_is_named_in_a_plan() -> None:
    plan = plan_of()
    shown = "\n".join([plan.title, *plan.facts.values(), plan.detail])
    for one in EVERYBODY:
        for value in (one.account_id, one.handle, one.email, one.phone):
            assert value is not None
            assert value not in shown


def test_the_order_of_the_accounts_does_not_matter() -> None:
    assert plan_of(EVERYBODY[::-1]).digest == plan_of().digest


@pytest.mark.parametrize(
    "other",
    [
        plan_of(EVERYBODY[:-1]),
        plan_of([*EVERYBODY[:-1], account(99)]),
        plan_of([*EVERYBODY[:-1], replace(EVERYBODY[-1], wave=2)]),
        plan_of(gate="contain.late.1"),
        plan_of(scope=replace(SCOPE, unrostered=3)),
        plan_of(incident=replace(INCIDENT, window_end=START + timedelta(minutes=9))),
        plan_of(incident=replace(INCIDENT, incident_id="INC-2026-0143")),
        plan_of(incident=replace(INCIDENT, runbook_digest="f" * 64)),
        plan_of(policy=with_rate(49)),
    ],
    ids=[
        "one fewer",
        "somebody else",
        "another wave",
        "another gate",
        "another scope",
        "another window",
        "another incident",
        "another runbook",
        "another rate",
    ],
)
def test_an_approval_is_bound_to_exactly_this_containment(other: GatePlan) -> None:
    assert other.digest != plan_of().digest


def test_same_count_and_other_people_differ_by_digest_alone() -> None:
    other = plan_of([*EVERYBODY[:-1], account(99)])
    assert other.facts == plan_of().facts


def test_the_text_of_messages_is_approved_word_by_word() -> None:
    plan = notify_plan(INCIDENT, POLICY, preview="Dear reader", text_digest="abc")
    assert plan.detail == "Dear reader"
    assert plan.facts["Channels"] == "email, sms, in_app"
    assert plan.facts["Address people type themselves"] == "accounts.example.com"
    assert plan.facts["Digest of the text"] == "abc"
    other = notify_plan(INCIDENT, POLICY, preview="Dear Reader", text_digest="abc")
    assert other.digest != plan.digest


def client(number: int) -> ClientRecord:
    return ClientRecord(
        client_id=f"app-{number}",
        name=f"app {number}",
        owner="team-care",
        risk="low",
        consumers=("api", "worker"),
        linked_accounts=7,
        wave=0,
    )


def test_retiring_names_each_old_secret_by_its_id() -> None:
    retiring = [(client(1), "sec-aa"), (client(2), "sec-bb")]
    plan = retire_plan(INCIDENT, POLICY, retiring=retiring, validation="9 of 9 passed")
    assert plan.title == "Retire 2 old client secrets"
    assert plan.facts["Validation"] == "9 of 9 passed"
    assert "| app-1 | team-care | low | 2 | sec-aa |" in plan.detail
    swapped = [(client(1), "sec-bb"), (client(2), "sec-aa")]
    other = retire_plan(INCIDENT, POLICY, retiring=swapped, validation="9 of 9 passed")
    assert other.digest != plan.digest


def test_overruling_is_bound_to_the_reason_of_the_hold() -> None:
    plan = overrule_plan("INC-2026-0142", gate="hold.contain.0", reason="3 of 10 refused")
    assert (plan.gate, plan.facts["Reason"]) == ("hold.contain.0", "3 of 10 refused")
    other = overrule_plan("INC-2026-0142", gate="hold.contain.0", reason="4 of 10 refused")
    assert other.digest != plan.digest


def test_a_dry_run_is_a_table_of_phases_in_order() -> None:
    summary = dry_run_summary({"detect": "30 seen", "contain": "29 accounts"})
    assert summary.splitlines() == [
        "| Phase | What would be done |",
        "|---|---|",
        "| detect | 30 seen |",
        "| contain | 29 accounts |",
    ]


def test_the_notify_gate_counts_who_gets_what() -> None:
    linked = [replace(account(n, wave=n % 2), stage=Stage.TOKEN_ISSUED) for n in range(6)]
    by_hand = [replace(account(9, priority=Priority.HIGH), stage=Stage.MANUAL, phone=None)]
    done = [replace(account(7), stage=Stage.ENROLLED)]
    plan = notify_plan(
        INCIDENT,
        POLICY,
        preview="the text",
        text_digest="d" * 64,
        accounts=[*linked, *by_hand, *done],
        canary="nothing",
    )
    assert plan.facts["People who get a link"] == "6"
    assert plan.facts["People who get word without a link"] == "1"
    assert plan.facts["of high priority"] == "1"
    assert plan.facts["Messages"] == "7 by email, 6 by sms, 7 by in_app"
    assert plan.facts["Waves"] == "canary of 3, 4"
    assert "| 0 (canary) | 3 | 0 |" in plan.detail
    assert plan.detail.endswith("the text")


def test_a_hold_says_what_the_canary_did_and_what_would_follow() -> None:
    tally = Tally(
        stages={(0, Stage.CONTAINED): 8, (1, Stage.SCOPED): 40, (2, Stage.SCOPED): 360},
        verdicts={
            ("contain.account", 0, Verdict.DONE): 6,
            ("contain.account", 0, Verdict.REFUSED): 2,
            ("notify.email", 0, Verdict.DONE): 99,
        },
    )
    situation = hold_situation(POLICY, tally, Phase.CONTAIN, 0)
    assert situation["Canary"] == "6 acts done, 2 refused, 0 unknown"
    assert situation["Next, if you approve"] == "400 accounts in waves of 40, 360"
    # Seven requests an account at 50 a second.
    assert situation["Expected duration"] == "56 s"
    assert hold_situation(POLICY, tally, Phase.ROTATE, 0) == {}


def test_reopening_is_bound_to_the_exact_acts() -> None:
    def refused(*subjects: str) -> GatePlan:
        records = [
            ActRecord(
                Act(s, "contain.account"),
                Verdict.REFUSED,
                "sessions still alive: 1",
                "",
                {},
                START,
                START,
            )
            for s in subjects
        ]
        return reopen_plan("INC-2026-0142", step="contain.account", refused=records)

    assert refused("acc-a", "acc-b").facts["refused: sessions still alive: 1"] == "2"
    assert refused("acc-a", "acc-b").digest == refused("acc-b", "acc-a").digest
    assert refused("acc-a", "acc-b").digest != refused("acc-a", "acc-c").digest
