"""Freeze windows: a moment is inside or not, by the wall clock of the window's zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.errors import Misconfigured
from recovery.freeze import FreezeWindow, holding, minute_of_week
from recovery.policy import parse_policy
from rehearsal.prefect_server import ROOT

BERLIN = ZoneInfo("Europe/Berlin")
WEEKEND = FreezeWindow("fri 16:00", "mon 07:00", BERLIN, "nobody is in")


@pytest.mark.parametrize(
    ("moment", "inside"),
    [
        (datetime(2026, 11, 27, 14, 59, tzinfo=UTC), False),
        (datetime(2026, 11, 27, 15, 0, tzinfo=UTC), True),
        (datetime(2026, 11, 29, 12, 0, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 5, 59, tzinfo=UTC), True),
        (datetime(2026, 11, 30, 6, 0, tzinfo=UTC), False),
        # In summer Berlin is two hours ahead.
        (datetime(2026, 7, 3, 14, 0, tzinfo=UTC), True),
        (datetime(2026, 7, 3, 13, 59, tzinfo=UTC), False),
    ],
)
def test_a_weekend_by_the_clock_of_berlin(moment: datetime, inside: bool) -> None:
    assert bool(holding([WEEKEND], moment)) is inside


def test_a_hold_says_which_window_and_until_when() -> None:
    said = holding([WEEKEND], datetime(2026, 11, 28, 12, tzinfo=UTC))
    assert said == (
        "freeze window fri 16:00 to mon 07:00 Europe/Berlin (nobody is in), "
        "until 2026-11-30 07:00 Europe/Berlin"
    )


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)).map(lambda d: d.replace(tzinfo=UTC)),
    st.integers(min_value=0, max_value=7 * 1440 - 1),
    st.integers(min_value=1, max_value=7 * 1440 - 1),
)
def test_the_reason_is_one_and_the_same_for_a_whole_window(
    now: datetime, start: int, length: int
) -> None:
    """An approval is bound to the reason: it must not change from minute to minute."""
    window = FreezeWindow(_moment(start), _moment(start + length), ZoneInfo("UTC"))
    minute = (now.weekday() * 24 + now.hour) * 60 + now.minute
    since = (minute - start) % (7 * 1440)
    assert bool(holding([window], now)) is (since < length)
    if since < length - 1:
        assert holding([window], now) == holding([window], now + timedelta(minutes=1))


def _moment(minute: int) -> str:
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    hours, minutes = divmod(minute % (7 * 1440), 60)
    return f"{days[hours // 24]} {hours % 24:02}:{minutes:02}"


@pytest.mark.parametrize("wrong", ["friday 16:00", "fri 24:00", "fri 9:00", "fri", ""])
def test_a_moment_that_is_none(wrong: str) -> None:
    with pytest.raises(ValueError, match="moment of the week"):
        minute_of_week(wrong)


def test_a_runbook_names_windows_and_wrong_ones_are_refused() -> None:
    text = (ROOT / "runbooks" / "mass-password-reset.yaml").read_text(encoding="utf-8")

    def with_freeze(window: str) -> str:
        begin = text.index("  freeze: []")
        end = text.index("\n", begin)
        return text[:begin] + f"  freeze: [{window}]" + text[end:]

    good = '{from: "fri 16:00", until: "mon 07:00", timezone: Europe/Berlin, reason: "no one in"}'
    (window,) = parse_policy(with_freeze(good), source="test").rotate.freeze
    assert str(window.window()) == "fri 16:00 to mon 07:00 Europe/Berlin (no one in)"
    for wrong in (
        '{from: "fri 16:00", until: "fri 16:00"}',
        '{from: "fri 16:00", until: "someday"}',
        '{from: "fri 16:00", until: "mon 07:00", timezone: Mars/Olympus}',
    ):
        with pytest.raises(Misconfigured, match=r"rotate\.freeze"):
            parse_policy(with_freeze(wrong), source="test")
