"""What counts as contained, as enrolled and as a passed smoke test; and who is sampled."""

import random
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.accounts import Account, Priority, Stage
from recovery.contain import CredentialKind
from recovery.gates import Hold, Promote, smoke_gate
from recovery.policy import ContainPolicy
from recovery.validate import (
    Judgement,
    LiveCredentials,
    Probe,
    ProbeKind,
    judge,
    judge_probe,
    sample,
    smoke,
    still_alive,
)

DEAD = LiveCredentials(0, 0, 0, 0, 0, 0, password_reset_required=True, authenticators=0)
_counts = st.integers(0, 3)
_live = st.builds(
    LiveCredentials, _counts, _counts, _counts, _counts, _counts, _counts, st.booleans(), _counts
)


def account(ref: str = "acc-1", **changes: object) -> Account:
    values: dict[str, object] = {
        "ref": ref,
        "account_id": f"u-{ref}",
        "handle": "ana",
        "email": None,
        "phone": None,
        "locale": "en",
        "last_active": None,
        "linked_apps": (),
        "priority": Priority.NORMAL,
        "reasons": (),
        "wave": 0,
        "batch": 0,
        "stage": Stage.CONTAINED,
    }
    return Account(**{**values, **changes})  # type: ignore[arg-type]


def test_nothing_alive_passes() -> None:
    assert not DEAD.any
    assert judge(account(), DEAD, ContainPolicy()) == Judgement("acc-1")
    assert judge(account(), DEAD, ContainPolicy()).detail == "passed"


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("sessions", "sessions still alive: 2"),
        ("device_sessions", "device sessions still alive: 2"),
        ("refresh_tokens", "refresh tokens still alive: 2"),
        ("access_tokens", "refresh tokens still alive: 2"),
        ("grants", "grants still alive: 2"),
        ("recovery_tokens", "recovery tokens still alive: 2"),
    ],
)
def test_each_kind_that_lives_is_named(name: str, failure: str) -> None:
    live = replace(DEAD, **{name: 2})  # type: ignore[arg-type]
    assert live.any
    for stage in (Stage.CONTAINED, Stage.TOKEN_ISSUED, Stage.NOTIFIED, Stage.MANUAL):
        judgement = judge(account(stage=stage), live, ContainPolicy())
        assert judgement.failures == (failure,)
        assert not judgement.passed


def test_what_the_runbook_leaves_alone_may_live() -> None:
    live = replace(DEAD, grants=4, password_reset_required=False)
    policy = ContainPolicy(grants=False, force_password_reset=False)
    assert judge(account(), live, policy).passed
    assert still_alive(live, policy) == ()
    assert live.alive == "grants 4, password not reset"
    assert DEAD.alive == ""
    assert judge(account(), live, ContainPolicy()).detail == (
        "grants still alive: 4; the password is not reset"
    )


def test_after_the_person_came_back_the_authenticator_counts() -> None:
    back = replace(DEAD, sessions=1, password_reset_required=False, authenticators=1)
    for stage in (Stage.ENROLLED, Stage.VALIDATED):
        assert judge(account(stage=stage), back, ContainPolicy()).passed
        bare = judge(account(stage=stage), DEAD, ContainPolicy())
        assert bare.failures == ("no authenticator is bound",)


def test_an_account_that_was_never_contained_does_not_pass() -> None:
    for stage in (Stage.SCOPED, Stage.EXCLUDED):
        assert not judge(account(stage=stage), DEAD, ContainPolicy()).passed


@settings(deadline=None)
@given(_live)
def test_whatever_is_alive_is_seen(live: LiveCredentials) -> None:
    assert judge(account(), live, ContainPolicy()).passed == (not live.any)
    assert sum(live.of(kind) for kind in CredentialKind) == sum(
        getattr(live, f.name)
        for f in fields(live)
        if f.name not in ("password_reset_required", "authenticators")
    )


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (ProbeKind.OLD_PASSWORD, 401, 200),
        (ProbeKind.OLD_SESSION, 401, 200),
        (ProbeKind.OLD_SECRET, 401, 200),
        (ProbeKind.NEW_SECRET, 200, 401),
        (ProbeKind.CONSUMER_HEALTH, 200, 503),
    ],
)
def test_smoke_tests(kind: ProbeKind, good: int, bad: int) -> None:
    assert judge_probe(Probe("acc-1", kind, good)).passed
    assert judge_probe(Probe("acc-1", kind, bad)).detail == (
        f"{kind.value}: expected {good}, got {bad}"
    )
    assert judge_probe(Probe("acc-1", kind, None)).detail.endswith("got no answer")
    assert not judge_probe(Probe("acc-1", kind, 429)).passed


def test_a_round_is_counted_for_the_gate() -> None:
    probes = [Probe(f"acc-{n}", ProbeKind.OLD_PASSWORD, 401) for n in range(8)]
    probes += [
        Probe("acc-8", ProbeKind.OLD_PASSWORD, 200),
        Probe("acc-9", ProbeKind.NEW_SECRET, None),
    ]
    result = smoke(iter(probes))
    assert (result.passed, result.failed) == (8, 2)
    assert result.reasons == {
        "old password: expected 401, got 200": 1,
        "new client secret: expected 200, got no answer": 1,
    }
    held = smoke_gate(result.passed, result.failed, min_passed=1.0, what="probes")
    assert held == Hold("2 of 10 probes failed")
    none = smoke([])
    assert isinstance(smoke_gate(none.passed, none.failed, min_passed=0, what="probes"), Hold)
    good = smoke(probes[:8])
    assert isinstance(smoke_gate(good.passed, good.failed, min_passed=1, what="probes"), Promote)


_many = st.lists(
    st.builds(
        account,
        st.text(min_size=1, max_size=6),
        wave=st.integers(0, 3),
        priority=st.sampled_from(Priority),
        stage=st.sampled_from(Stage),
    ),
    unique_by=lambda a: a.ref,
    max_size=40,
)


@settings(deadline=None)
@given(accounts=_many, n=st.integers(-1, 45), seed=st.text(max_size=5), order=st.integers(0, 9))
def test_a_sample_is_chance_that_repeats_itself(
    accounts: list[Account], n: int, seed: str, order: int
) -> None:
    chosen = sample(accounts, n, seed)
    shuffled = list(accounts)
    random.Random(order).shuffle(shuffled)
    assert sample(shuffled, n, seed) == chosen
    eligible = [a for a in accounts if a.stage is not Stage.EXCLUDED]
    assert len(chosen) == min(max(n, 0), len(eligible))
    assert len({a.ref for a in chosen}) == len(chosen)
    assert all(a in eligible for a in chosen)
    strata = {(a.wave, a.priority) for a in eligible}
    if n >= len(strata):
        assert {(a.wave, a.priority) for a in chosen} == strata


def test_another_seed_chooses_others() -> None:
    accounts = [account(f"acc-{n}") for n in range(500)]
    first, second = sample(accounts, 50, "INC-1"), sample(accounts, 50, "INC-2")
    assert first != second
    assert len({a.ref for a in first} & {a.ref for a in second}) < 20
