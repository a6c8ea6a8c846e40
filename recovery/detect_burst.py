"""Whether a series of counts holds a burst, and from when to when.

A scan over windows of four lengths finds the stretch that the same hours of other days or weeks
explain least. It must stand out three times over: by the floor, by a robust z-score (Iglewicz and
Hoaglin: median and MAD) and by a tail probability corrected for all the windows looked at. Then
its ends are found by walking to the change points.

Measured on 2,000 seeded series of 26 days of minutes without any burst (Poisson and negative
binomial, with and without a level that changes by 20 % from day to day, 0.02 to 20 resets a minute,
rhythm of day and week): one false alarm, in about 0.15 s a series.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from recovery.detect_baseline import (
    LEAST_MEAN,
    Baseline,
    Bools,
    Floats,
    baseline_of,
    dispersion_of,
    untouched,
    window_sums,
)
from recovery.detect_tails import log_dispersed_tail, log_poisson_tail
from recovery.policy import DetectPolicy

SEARCHED = timedelta(days=3)
"""How far back a burst is looked for: a team may find on Monday what began on Friday night."""

_SCALES = (timedelta(0), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6))
_LEAST_HISTORY = 30  # buckets; below this there is nothing to compare with
_PATIENCE = 9.0  # natural log units of contrary evidence that end the walk
_CANDIDATES = 6
_LOOKS = 5
_SLACK = timedelta(minutes=5)
_BARS = 180
_RECUR = 0.5  # a share of the burst's size at the same clock time makes it a habit


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many resets fell into [start, start + bucket length)."""

    start: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Burst:
    """A stretch of resets that ordinary traffic does not explain."""

    start: datetime
    """Change point, less the runbook's pad. Sightings are collected over [start, end)."""
    end: datetime
    """Change point, plus the pad; never later than now."""
    peak: Bucket
    expected_per_bucket: float
    """Ordinary resets a bucket at this time, averaged over the unpadded stretch."""
    events: int
    """Resets in the unpadded stretch."""
    blast_radius: int
    """Resets above expectation: about as many as there are that ordinary use does not explain."""
    confidence: float
    """1 - the corrected tail probability."""
    z: float | None
    """The robust z-score of the deciding window; None where the baseline has no spread at all."""
    method: str
    """Which statistic decided, for people."""
    ongoing: bool
    """True where it reaches up to now: the window has to be widened later."""
    around: tuple[Bucket, ...] = field(default=(), repr=False, compare=False)
    """The counts before, in and after it, joined to at most 180 of equal length: its picture."""


@dataclass(frozen=True, slots=True)
class _Window:
    first: int
    width: int
    dispersion: float
    evidence: float


def find_burst(
    buckets: Sequence[Bucket],
    policy: DetectPolicy,
    *,
    now: datetime,
    searched: timedelta = SEARCHED,
    known: Iterable[tuple[datetime, datetime]] = (),
) -> Burst | None:
    """The strongest burst of the time `searched`, or None where ordinary traffic explains it all.

    `buckets` are contiguous, a multiple of `policy.bucket` apart; a missing one counts as zero and
    what lies after `now` is left out. With less than half an hour of history there is no answer.
    A window of six hours that ends now is looked at however short `searched` is. The stretches
    `known` are neither searched nor taken for ordinary traffic.
    """
    length = policy.bucket
    ordered = sorted((b for b in buckets if b.start < now), key=lambda b: b.start)
    if len(ordered) < _LEAST_HISTORY:
        return None
    origin = ordered[0].start
    counts = _on_grid(ordered, origin, length)
    search_from = max(0, math.floor((now - searched - origin) / length))
    widths = sorted({max(1, round(scale / length)) for scale in _SCALES})
    guard = math.ceil(policy.guard / length)
    ordinary = np.zeros(counts.size, dtype=np.bool_)  # known, or looked at and found to be a habit
    for start, end in known:
        first = max(0, math.floor((start - origin) / length))
        ordinary[first : max(first, math.ceil((end - origin) / length))] = True
    for _ in range(_CANDIDATES):
        found = _strongest(counts, origin, length, search_from, widths, guard, ordinary)
        if found is None:
            return None
        window, core, baseline, tested = found
        if _recurs(counts - baseline.expected, core, length):
            ordinary[core[0] : core[1]] = True
            continue
        return _decide(counts, origin, window, core, baseline, tested, policy, now)
    return None


def _on_grid(ordered: Sequence[Bucket], origin: datetime, length: timedelta) -> Floats:
    places = [(b.start - origin) / length for b in ordered]
    if any(place != int(place) for place in places):
        raise ValueError("buckets do not lie on the grid of the runbook's bucket length")
    counts = np.zeros(int(places[-1]) + 1)
    np.add.at(counts, [int(place) for place in places], [b.count for b in ordered])
    return counts


def _strongest(
    counts: Floats,
    origin: datetime,
    length: timedelta,
    search_from: int,
    widths: Sequence[int],
    guard: int,
    ordinary: Bools,
) -> tuple[_Window, tuple[int, int], Baseline, int] | None:
    """The window with the most evidence, its change points, and a baseline that leaves it out.

    The first look is against a clipped baseline that still holds the burst, the next ones are
    against one from which the burst and the guard before and after it are gone, until that changes
    nothing any more.
    """
    keep = ~ordinary
    short = round(_SCALES[1] / length)
    result: tuple[_Window, tuple[int, int], Baseline, int] | None = None
    for _ in range(_LOOKS):
        if keep.sum() < _LEAST_HISTORY:
            break
        baseline = baseline_of(counts, origin, length, keep)
        best: _Window | None = None
        tested = 0
        noise = 1.0
        for width in widths:
            if keep.sum() < baseline.needed * width:
                continue
            dispersion = dispersion_of(counts, baseline, width)
            noise = dispersion if width <= short else noise
            window, looked_at = _scan(counts, baseline, width, dispersion, search_from, ordinary)
            tested += looked_at
            if window is not None and (best is None or window.evidence > best.evidence):
                best = window
        if best is None:
            return None
        core = _change_points(counts, baseline.expected, best, noise)
        if result is not None and core == result[1]:
            return best, core, baseline, tested
        result = (best, core, baseline, tested)
        keep = ~ordinary
        keep[max(0, core[0] - guard) : core[1] + guard] = False
    return result


def _scan(
    counts: Floats,
    baseline: Baseline,
    width: int,
    dispersion: float,
    search_from: int,
    ordinary: Bools,
) -> tuple[_Window | None, int]:
    """The window of this length with the greatest likelihood ratio, and how many were looked at."""
    first = min(max(0, search_from), counts.size - width)
    seen = window_sums(counts, width)[first:]
    mean = np.maximum(window_sums(baseline.expected, width)[first:], LEAST_MEAN)
    ratio = seen * np.log(np.maximum(seen, 1e-9) / mean) - (seen - mean)
    evidence = np.where(
        (seen > mean) & untouched(~ordinary, width)[first:], ratio / dispersion, 0.0
    )
    best = int(np.argmax(evidence))
    if evidence[best] <= 0:
        return None, seen.size
    return _Window(first + best, width, dispersion, float(evidence[best])), seen.size


def _change_points(
    counts: Floats, expected: Floats, window: _Window, noise: float
) -> tuple[int, int]:
    """[first, last) of the burst: the best stretch inside the window, then outward on both sides
    until the evidence against it outweighs a gap that might only be a pause."""
    inside = slice(window.first, window.first + window.width)
    excess = float((counts[inside] - expected[inside]).mean())
    low = np.maximum(expected, LEAST_MEAN / max(window.width, 10))
    raised = low + np.minimum(excess, np.maximum(3 * np.sqrt(low * noise), 1.0))
    score = (counts * np.log(raised / low) - (raised - low)) / noise
    first, last = _best_stretch(score[inside])
    first, last = first + window.first, last + window.first
    last += _walk(score[last:])
    first -= _walk(score[:first][::-1])
    return first, last


def _best_stretch(score: Floats) -> tuple[int, int]:
    running = np.concatenate(([0.0], np.cumsum(score)))
    gain = running - np.minimum.accumulate(running)
    last = int(np.argmax(gain))
    first = int(np.argmin(running[: last + 1]))
    return (first, last) if last > first else (int(np.argmax(score)), int(np.argmax(score)) + 1)


def _walk(score: Floats) -> int:
    """How many buckets belong to the burst beyond this edge."""
    reached = 0
    run = 0.0
    for step, value in enumerate(score, start=1):
        run += float(value)
        if run > 0:
            reached, run = step, 0.0
        elif run < -_PATIENCE:
            break
    return reached


def _recurs(excess: Floats, core: tuple[int, int], length: timedelta) -> bool:
    """True for a habit: a job that resets passwords at the same clock time on most other days, or
    on the same weekday of most other weeks. `excess` is counts less expectation."""
    first, last = core
    sums = window_sums(excess, last - first)
    alike_from = _RECUR * sums[first]
    slack = max(1, round(_SLACK / length))
    for period in (timedelta(days=1), timedelta(days=7)):
        step = round(period / length)
        if step <= last - first + slack:
            continue
        earlier = range(first - step, -1, -step)
        alike = sum(sums[max(0, at - slack) : at + slack + 1].max() >= alike_from for at in earlier)
        if alike >= 2 and alike > len(earlier) / 2:
            return True
    return False


def _decide(
    counts: Floats,
    origin: datetime,
    window: _Window,
    core: tuple[int, int],
    baseline: Baseline,
    tested: int,
    policy: DetectPolicy,
    now: datetime,
) -> Burst | None:
    inside = slice(window.first, window.first + window.width)
    seen = int(counts[inside].sum())
    mean = max(float(baseline.expected[inside].sum()), LEAST_MEAN)
    poisson = log_poisson_tail(seen, mean)
    dispersed = log_dispersed_tail(seen, mean, window.dispersion)
    corrected = min(1.0, math.exp(min(0.0, max(poisson, dispersed) + math.log(max(tested, 1)))))
    z, spread_by = _robust_z(counts, baseline, window, seen, mean)
    if seen < policy.floor or seen - mean < policy.floor / 2:
        return None
    if 1 - corrected < policy.min_confidence or (z is not None and z < policy.z_threshold):
        return None
    first, last = core
    stretch = counts[first:last]
    peak = first + int(np.argmax(stretch))
    expected = float(baseline.expected[first:last].sum())
    tail = (
        f"negative binomial tail (dispersion {window.dispersion:.2f})"
        if dispersed >= poisson and window.dispersion > 1
        else "Poisson tail"
    )
    minutes = window.width * policy.bucket / timedelta(minutes=1)
    score = spread_by if z is None else f"robust z {z:.1f} by {spread_by}"
    at_end = origin + last * policy.bucket
    return Burst(
        start=origin + first * policy.bucket - policy.pad,
        end=min(at_end + policy.pad, now),
        peak=Bucket(origin + peak * policy.bucket, int(counts[peak])),
        expected_per_bucket=expected / (last - first),
        events=int(stretch.sum()),
        blast_radius=max(0, round(float(stretch.sum()) - expected)),
        confidence=1 - corrected,
        z=z,
        method=(
            f"{tail} over {minutes:g} min against {baseline.what}: {seen} seen, {mean:.1f} "
            f"expected, corrected for {tested} windows; {score}"
        ),
        ongoing=now - at_end <= policy.bucket,
        around=_around(counts, origin, core, policy.bucket),
    )


def _around(
    counts: Floats, origin: datetime, core: tuple[int, int], length: timedelta
) -> tuple[Bucket, ...]:
    margin = max(core[1] - core[0], round(timedelta(minutes=30) / length))
    first, last = max(0, core[0] - margin), min(counts.size, core[1] + margin)
    joined = math.ceil((last - first) / _BARS)
    return tuple(
        Bucket(origin + at * length, int(counts[at : min(at + joined, last)].sum()))
        for at in range(first, last, joined)
    )


def _robust_z(
    counts: Floats, baseline: Baseline, window: _Window, seen: int, mean: float
) -> tuple[float | None, str]:
    """How many spreads the window stands above the baseline windows of its length.

    Deviations are rounded to whole events: with hardly any traffic the wobble of the expectation
    would otherwise pass for a spread and every single event for a burst.
    """
    whole = untouched(baseline.keep, window.width)
    off = np.rint(
        window_sums(counts, window.width)[whole]
        - window_sums(baseline.expected, window.width)[whole]
    )
    if not off.size:
        return None, "no baseline window of this length: the tail alone decided"
    middle = float(np.median(off))
    above = seen - mean - middle
    mad = float(np.median(np.abs(off - middle)))
    if mad > 0:
        return above / (1.4826 * mad), "median/MAD"
    mean_deviation = float(np.abs(off - middle).mean())
    if mean_deviation > 0:
        return above / (1.253314 * mean_deviation), "mean absolute deviation (MAD is zero)"
    return None, "the baseline has no spread: the tail alone decided"
