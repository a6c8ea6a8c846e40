"""Counts of verdicts: what a task may tell about a batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.accounts import Act, Outcome, Verdict
from tasks.counts import BatchCounts, counted

VERDICTS = st.lists(st.sampled_from(list(Verdict)), max_size=40)


def outcomes(verdicts: list[Verdict]) -> list[Outcome]:
    return [Outcome(Act(f"acc-{n}", "contain.account"), v) for n, v in enumerate(verdicts)]


@given(VERDICTS)
def test_every_outcome_is_counted_under_its_verdict(verdicts: list[Verdict]) -> None:
    counts = counted(outcomes(verdicts))
    assert counts.total == len(verdicts)
    for verdict in Verdict:
        assert getattr(counts, verdict.value.lower()) == verdicts.count(verdict)


@given(VERDICTS, VERDICTS)
def test_counts_of_two_batches_add_up(first: list[Verdict], second: list[Verdict]) -> None:
    together = counted(outcomes(first)) + counted(outcomes(second))
    assert together == counted(outcomes(first + second))
    assert together + BatchCounts() == together


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (BatchCounts(), "nothing due"),
        (BatchCounts(done=3), "3 done"),
        (BatchCounts(already=1, unknown=2), "1 already, 2 unknown"),
        (BatchCounts(1, 2, 3, 4), "1 done, 2 already, 3 refused, 4 unknown"),
    ],
)
def test_counts_are_told_without_the_zeros(counts: BatchCounts, text: str) -> None:
    assert str(counts) == text
