"""When a breaker opens, whom it lets through, when it closes."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from recovery.breaker import Admission, Breaker, BreakerRule, Turn

RULE = BreakerRule(window=10, failures=5, probe=timedelta(seconds=5), longest=timedelta(minutes=10))


def opened_at(now: float) -> Breaker:
    breaker = Breaker(RULE)
    turns = [breaker.outcome(False, now) for _ in range(5)]
    assert turns == [Turn.NOTHING] * 4 + [Turn.OPENED]
    return breaker


def test_some_failures_among_many_answers_do_not_open_it() -> None:
    breaker = Breaker(RULE)
    for number in range(200):
        assert breaker.outcome(number % 3 > 0, number) is Turn.NOTHING
    assert breaker.admit(200) is Admission.GO


def test_open_it_gives_one_probe_at_a_time_and_ever_more_slowly() -> None:
    breaker = opened_at(100)
    assert breaker.admit(104.9) is Admission.WAIT
    assert [breaker.admit(105) for _ in range(3)] == [
        Admission.PROBE,
        Admission.WAIT,
        Admission.WAIT,
    ]
    breaker.outcome(False, 106)
    assert breaker.admit(113.4) is Admission.WAIT
    assert breaker.admit(113.5) is Admission.PROBE


def test_requests_that_were_under_way_when_it_opened_do_not_slow_the_probes() -> None:
    breaker = opened_at(100)
    for _ in range(20):
        breaker.outcome(False, 101)
    assert breaker.admit(105) is Admission.PROBE


def test_the_first_good_answer_closes_it_and_the_past_is_forgotten() -> None:
    breaker = opened_at(100)
    assert breaker.admit(105) is Admission.PROBE
    assert breaker.outcome(True, 105.1) is Turn.CLOSED
    assert [breaker.admit(105.1) for _ in range(8)] == [Admission.GO] * 8
    assert [breaker.outcome(False, 106) for _ in range(4)] == [Turn.NOTHING] * 4


def test_a_probe_that_never_comes_back_is_followed_by_another() -> None:
    breaker = opened_at(100)
    assert breaker.admit(105) is Admission.PROBE
    assert breaker.admit(164) is Admission.WAIT
    assert breaker.admit(165) is Admission.PROBE


def test_after_the_longest_wait_it_gives_up_until_an_answer_comes() -> None:
    breaker = opened_at(0)
    assert breaker.admit(601) is Admission.GIVE_UP
    breaker.outcome(True, 602)
    assert breaker.admit(603) is Admission.GO


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 20)), max_size=200))
def test_whatever_comes_it_is_never_stuck(story: list[tuple[bool, float]]) -> None:
    """After any history an answer closes it, and an open one gives a probe within a minute."""
    breaker, now = Breaker(RULE), 0.0
    for answered, passed in story:
        now += passed
        breaker.admit(now)
        breaker.outcome(answered, now)
    if breaker.open:
        later = now + 61
        assert breaker.admit(later) in (Admission.PROBE, Admission.GIVE_UP)
    breaker.outcome(True, now + 62)
    assert breaker.admit(now + 62) is Admission.GO
