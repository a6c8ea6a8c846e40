"""What counts as a drift between two rehearsals, and what may move."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recovery.drift import CheckResult, Figure, RehearsalResult, drift, drift_markdown
from recovery.policy import DriftPolicy
from recovery.report_kpis import Standing

POLICY = DriftPolicy(tolerance=0.5, slack=timedelta(seconds=30), share=0.05)


def figure(key: str, measured: float | None, standing: Standing = Standing.MET) -> Figure:
    return Figure(key=key, title=key, value=f"{measured}", measured=measured, standing=standing)


def result(**changes: Any) -> RehearsalResult:
    fields: dict[str, Any] = {
        "scenario": "mass-reset",
        "runbook": "rehearsal",
        "seed": 1,
        "accounts": 338,
        "at": datetime(2026, 3, 14, 9, 0, tzinfo=UTC),
        "seconds": 60.0,
        "state": "COMPLETED",
        "checks": (CheckResult(name="nobody twice", passed=True, found="0 doubled"),),
        "figures": (
            figure("all_contained", 100.0),
            figure("first_containment", 2.0),
            figure("enrolled_24h_notified", 0.86),
            figure("failed_integrations", 0.0),
        ),
        "counts": {"sighted": 341, "admitted": 340},
    }
    return RehearsalResult(**{**fields, **changes})


def test_the_same_result_is_no_drift() -> None:
    assert drift(result(), result(seconds=900.0), POLICY) == ()


@pytest.mark.parametrize(
    ("key", "measured", "drifts"),
    [
        ("all_contained", 150.0, False),
        ("all_contained", 151.0, True),
        ("all_contained", 5.0, False),
        ("first_containment", 32.0, False),  # a short time may grow by the slack
        ("first_containment", 33.0, True),
        ("enrolled_24h_notified", 0.82, False),
        ("enrolled_24h_notified", 0.80, True),
        ("enrolled_24h_notified", 1.0, False),
        ("failed_integrations", 1.0, True),
    ],
)
def test_a_figure_may_move_within_the_runbooks_tolerance(
    key: str, measured: float, drifts: bool
) -> None:
    found = drift(result(), result(figures=(figure(key, measured),)), POLICY)
    assert bool(found) is drifts
    if drifts:
        assert found[0].startswith(f"worse: {key} {measured}, was ")


def test_a_target_that_was_met_and_is_not_any_more_is_a_drift() -> None:
    now = result(figures=(figure("all_contained", None, Standing.MISSED),))
    assert drift(result(), now, POLICY) == ("worse: all_contained None, was 100.0",)


def test_a_check_that_turned_red_comes_first_and_one_that_is_gone_is_told() -> None:
    red = CheckResult(name="nobody twice", passed=False, found="1 doubled")
    now = result(checks=(red,), counts={"sighted": 342, "admitted": 340, "late": 1})
    assert drift(result(), now, POLICY) == (
        "turned red: nobody twice (1 doubled)",
        "counts differ: late 1, was 0",
        "counts differ: sighted 342, was 341",
    )
    other = CheckResult(name="nobody at all", passed=True, found="-")
    assert drift(result(), result(checks=(other,)), POLICY) == ("not asked any more: nobody twice",)


def test_what_was_red_before_is_no_drift_and_no_measure_either() -> None:
    red = result(checks=(CheckResult(name="nobody twice", passed=False, found="1"),))
    assert drift(red, red, POLICY) == ()
    assert not red.measure
    assert not result(drift=("worse: x",)).measure
    assert not result(checks=()).measure
    assert not result(state="FAILED").measure
    assert result().measure


def test_the_page_shows_the_drift_and_both_sides() -> None:
    before = result()
    now = result(counts={"sighted": 342, "admitted": 340}, drift=("counts differ: sighted 342",))
    page = drift_markdown(now, before)
    assert "- **counts differ: sighted 342**" in page
    assert "| sighted | 342 | 341 |" in page
    assert "| all_contained | 100.0 | 100.0 | met |" in page
    assert "nothing to compare with" in drift_markdown(now, None)
    assert "No drift." in drift_markdown(before, before)


def test_a_result_survives_its_file() -> None:
    again = RehearsalResult.model_validate_json(result().model_dump_json())
    assert again == result()
