"""What ordinary traffic would have brought: the expectation for every bucket and how far a window
of ordinary traffic strays from it.

The same hours of the week where there are three weeks of history, else coarser repetitions. Older
bursts in the history are clipped, the present one is left out by the caller (guard band).
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

LEAST_MEAN = 0.5
"""A window's expectation is never trusted to be smaller than this."""

_INDEPENDENT = 8  # a window needs this many times its own length of history,
_UNSEASONED = 24  # and this many where the hours of the day are not known yet
_CAP = 144.0  # twelve spreads squared: an older burst must not make the history look wild

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is expected of each bucket, and where that comes from."""

    expected: Floats
    slots: int
    """Repetitions behind each expectation."""
    needed: int
    """Times its own length that a window needs of history to be tested at all."""
    keep: Bools
    """The buckets that it was made from."""
    what: str
    """What it compares with, for people."""


def baseline_of(counts: Floats, origin: datetime, length: timedelta, keep: Bools) -> Baseline:
    """Ordinary resets for every bucket: the clipped mean of the same hour of the week, of like days
    (weekdays, weekends) where there are less than three weeks, then of the day, then of everything;
    between the middles of two hours it is interpolated."""
    days = counts.size * length / timedelta(days=1)
    week = np.arange(168)
    if days >= 21:
        group, slots, what = week, int(days // 7), "the same hours of the week"
    elif days >= 14:
        weekend = week // 24 >= 5
        group, slots, what = week % 24 + 24 * weekend, 4, "the same hours of like days"
    elif days >= 3:
        group, slots, what = week % 24, int(days), "the same hours of the day"
    else:
        group, slots, what = week * 0, int(keep.sum()), "the rest of the history"
    hour = _hours(counts.size, origin, length)
    where = group[hour.astype(np.int64) % 168]
    level = np.full(int(group.max()) + 1, _clipped_mean(counts[keep]))
    kept, place = counts[keep], where[keep]
    for g in range(level.size):
        same = kept[place == g]
        if same.size:
            level[g] = _clipped_mean(same)
    expected: Floats = np.asarray(
        np.interp(hour % 168, week + 0.5, level[group], period=168), dtype=np.float64
    )
    needed = _INDEPENDENT if level.size > 1 else _UNSEASONED
    return Baseline(expected, slots, needed, keep, what)


def _hours(size: int, origin: datetime, length: timedelta) -> Floats:
    """Hours since a Monday 00:00 UTC, at the middle of each bucket."""
    begin = origin.astimezone(UTC)
    monday = (begin - timedelta(days=begin.weekday())).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    hour = timedelta(hours=1)
    middles = np.arange(size, dtype=np.float64) + 0.5
    hours: Floats = (begin - monday) / hour + middles * (length / hour)
    return hours


def _clipped_mean(values: Floats) -> float:
    """The mean after cutting down what stands six spreads above the median."""
    middle = float(np.median(values))
    spread = max(1.4826 * float(np.median(np.abs(values - middle))), math.sqrt(middle), 1.0)
    return float(np.minimum(values, middle + 6 * spread).mean())


def window_sums(values: Floats, width: int) -> Floats:
    """The sum over every window of this many buckets, by its first bucket."""
    running = np.concatenate(([0.0], np.cumsum(values)))
    sums: Floats = running[width:] - running[:-width]
    return sums


def untouched(keep: Bools, width: int) -> Bools:
    """Windows that lie entirely in the baseline."""
    whole: Bools = window_sums((~keep).astype(np.float64), width) == 0
    return whole


def dispersion_of(counts: Floats, baseline: Baseline, width: int) -> float:
    """Variance over mean of a predicted window of this length; 1 is Poisson.

    The expectation was made from the same days, so the residuals are too small by (1 - 1/k) and a
    new window strays by (1 + 1/k) more, k being the repetitions behind it.
    """
    whole = untouched(baseline.keep, width)
    if not whole.any():
        return 1.0
    means = np.maximum(window_sums(baseline.expected, width)[whole], 1e-9)
    squares = (window_sums(counts, width)[whole] - means) ** 2
    usual = max(1.0, 2.198 * float(np.median(squares / np.maximum(means, LEAST_MEAN))))
    capped = np.minimum(squares, _CAP * usual * np.maximum(means, LEAST_MEAN))
    share = 1 / max(baseline.slots, 2)
    inside = max(1.0, float(capped.sum() / means.sum()) / (1 - share))
    return inside * (1 + share)
