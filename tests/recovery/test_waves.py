"""Placement: everybody once, the canary mixed, high priority before the rest, for life."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from recovery.accounts import Affected, Priority, PriorityReason
from recovery.policy import WavePolicy
from recovery.waves import EXCLUDED_WAVE, assign

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def affected(number: int, high: bool = False, excluded: str | None = None) -> Affected:
    return Affected(
        account_id=f"u-{number:05}",
        handle=f"h{number}",
        email=None,
        phone=None,
        last_active=None,
        linked_apps=(),
        locale="en",
        priority=Priority.HIGH if high else Priority.NORMAL,
        reasons=(PriorityReason.BRAND,) if high else (),
        first_seen=NOW,
        last_seen=NOW,
        resets=1,
        excluded=excluded,
    )


crowd = st.lists(
    st.tuples(st.booleans(), st.sampled_from([None, None, None, "break-glass"])), max_size=300
).map(lambda rows: [affected(i, high, why) for i, (high, why) in enumerate(rows)])
policies = st.builds(
    WavePolicy,
    canary=st.integers(1, 20),
    canary_high_priority=st.floats(0, 1),
    growth=st.lists(st.integers(1, 60), max_size=3).map(tuple),
    batch=st.integers(1, 50),
)


@given(crowd, policies)
def test_everybody_is_placed_once_and_batches_are_bounded(
    accounts: list[Affected], policy: WavePolicy
) -> None:
    placed = assign(accounts, policy)
    assert sorted(p.account.account_id for p in placed) == sorted(a.account_id for a in accounts)
    sizes: dict[tuple[int, int], int] = {}
    for p in placed:
        assert (p.wave == EXCLUDED_WAVE) == (p.account.excluded is not None)
        if p.wave >= 0:
            sizes[p.wave, p.batch] = sizes.get((p.wave, p.batch), 0) + 1
    assert all(size <= policy.batch for size in sizes.values())
    waves = sorted({wave for wave, _ in sizes})
    assert waves == list(range(len(waves)))


@given(crowd, policies)
def test_high_priority_goes_before_the_rest(accounts: list[Affected], policy: WavePolicy) -> None:
    later = [p for p in assign(accounts, policy) if p.wave > 0]
    high = [p.wave for p in later if p.account.priority is Priority.HIGH]
    normal = [p.wave for p in later if p.account.priority is Priority.NORMAL]
    if high and normal:
        assert max(high) < min(normal)


@given(crowd, policies, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(accounts, policy, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(accounts)
    random.shuffle(shuffled)
    assert set(map(repr, assign(accounts, policy))) == set(map(repr, assign(shuffled, policy)))


def test_the_canary_has_both_kinds() -> None:
    accounts = [affected(i, high=i < 18) for i in range(338)]
    placed = assign(accounts, WavePolicy(canary=10, canary_high_priority=0.5, growth=(100,)))
    canary = [p.account for p in placed if p.wave == 0]
    assert len(canary) == 10
    assert sum(a.priority is Priority.HIGH for a in canary) == 5
    sizes = [sum(p.wave == w for p in placed) for w in range(4)]
    assert sizes == [10, 13, 100, 215]


def test_late_arrivals_follow_and_have_no_canary() -> None:
    placed = assign([affected(1), affected(2, high=True)], WavePolicy(), taken={-1: 1, 0: 1, 3: 2})
    assert {p.account.account_id: p.wave for p in placed} == {"u-00002": 4, "u-00001": 5}
