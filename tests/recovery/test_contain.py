"""Which credentials die in which order, and whose are never touched."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.accounts import Account, Priority, Stage
from recovery.contain import STEP, CredentialKind, containment, describe, kinds, plan
from recovery.policy import ContainPolicy, ExclusionPolicy

K = CredentialKind
DOORS = {K.REFRESH_TOKENS, K.RECOVERY_TOKENS}
EXCLUSIONS = ExclusionPolicy(accounts=("u-svc-recovery", "u-break-glass-1"))
SWITCHES = [kind.value for kind in CredentialKind]
policies = st.fixed_dictionaries(
    {name: st.booleans() for name in (*SWITCHES, "force_password_reset", "verify")}
).map(lambda switches: ContainPolicy(**switches))


def account(
    account_id: str = "u-1", stage: Stage = Stage.SCOPED, excluded: str | None = None
) -> Account:
    return Account(
        ref=f"acc-{account_id}",
        account_id=account_id,
        handle="someone",
        email=None,
        phone=None,
        locale="en",
        last_active=None,
        linked_apps=(),
        priority=Priority.NORMAL,
        reasons=(),
        wave=0,
        batch=0,
        stage=stage,
        excluded=excluded,
    )


@given(policies)
def test_doors_close_before_rooms_are_cleared(policy: ContainPolicy) -> None:
    """A session killed first would be opened again by the refresh token that lives on."""
    chosen = {K(name) for name in SWITCHES if getattr(policy, name)}
    made = containment(account(), policy)
    assert {*made.doors, *made.inside} == chosen
    assert set(made.doors) == chosen & DOORS
    assert len(made.doors) + len(made.inside) == len(chosen)
    if policy.refresh_tokens:
        assert made.doors[0] is K.REFRESH_TOKENS
    assert kinds(policy) == (*made.doors, *made.inside)


@given(policies)
def test_calls_counts_every_request_of_the_plan(policy: ContainPolicy) -> None:
    made = containment(account(), policy)
    switched_on = [name for name in SWITCHES if getattr(policy, name)]
    assert made.calls == len(switched_on) + policy.force_password_reset + policy.verify


def test_an_account_is_contained_by_one_act() -> None:
    made = containment(account("u-7"), ContainPolicy())
    assert (made.act.subject, made.act.step, made.act.generation) == ("acc-u-7", STEP, 1)


@pytest.mark.parametrize(
    ("one", "planned"),
    [
        (account(), True),
        (account(excluded="role service"), False),
        (account("u-break-glass-1"), False),
        (account("u-svc-recovery", excluded="own service account"), False),
        *[(account(stage=stage), False) for stage in Stage if stage is not Stage.SCOPED],
    ],
    ids=lambda value: f"{value.account_id}-{value.stage}" if isinstance(value, Account) else "",
)
def test_only_who_waits_and_may_be_touched_is_planned(one: Account, planned: bool) -> None:
    """The runbook's exclusions are looked at again, even where admission let somebody through."""
    assert len(plan([one], ContainPolicy(), EXCLUSIONS)) == planned


def test_a_plan_keeps_the_order_of_the_accounts() -> None:
    ids = [f"u-{n}" for n in (5, 3, 9)]
    made = plan([account(i) for i in ids], ContainPolicy(), EXCLUSIONS)
    assert [p.account.account_id for p in made] == ids


def test_a_plan_is_told_in_one_line() -> None:
    accounts = [account(f"u-{n}") for n in range(3)]
    assert describe(plan(accounts, ContainPolicy(), EXCLUSIONS)) == (
        "3 accounts: revoke refresh tokens, recovery tokens, sessions, device sessions, grants, "
        "and reset the password by force (21 requests)"
    )
    gentle = ContainPolicy(force_password_reset=False, verify=False, grants=False)
    assert describe(plan(accounts, gentle, EXCLUSIONS)) == (
        "3 accounts: revoke refresh tokens, recovery tokens, sessions, device sessions "
        "(12 requests)"
    )
    assert describe([]) == "nothing to contain"


def test_every_kind_has_a_switch_in_the_runbook() -> None:
    for name, on in product(SWITCHES, (True, False)):
        only = ContainPolicy(**{n: n == name and on for n in SWITCHES})
        assert kinds(only) == ((K(name),) if on else ())
