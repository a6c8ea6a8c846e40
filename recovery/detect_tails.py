"""Tail probabilities of counts, as natural logarithms so that a flood does not underflow to zero.

Poisson for ordinary counts, negative binomial where the baseline scatters more than Poisson
(variance = dispersion x mean). Both sum the tail upwards from the observed count.
"""

import math
from collections.abc import Callable

_TERMS = 100_000
_NEGLIGIBLE = 1e-17


def log_poisson_tail(observed: int, mean: float) -> float:
    """ln P(X >= observed) for a Poisson count of this mean."""
    if observed <= 0 or observed <= mean:
        return 0.0
    first = observed * math.log(mean) - mean - math.lgamma(observed + 1)
    return min(0.0, first + math.log(_series(observed, lambda k: mean / (k + 1))))


def log_dispersed_tail(observed: int, mean: float, dispersion: float) -> float:
    """ln P(X >= observed) for a negative binomial of this mean and variance dispersion x mean."""
    if dispersion <= 1.0:
        return log_poisson_tail(observed, mean)
    if observed <= 0 or observed <= mean:
        return 0.0
    size = mean / (dispersion - 1)
    log_more = math.log1p(-1 / dispersion)
    first = (
        math.lgamma(observed + size)
        - math.lgamma(observed + 1)
        - math.lgamma(size)
        - size * math.log(dispersion)
        + observed * log_more
    )
    more = math.exp(log_more)
    return min(0.0, first + math.log(_series(observed, lambda k: (k + size) / (k + 1) * more)))


def _series(start: int, ratio: Callable[[int], float]) -> float:
    """1 + r0 + r0 r1 + ...: the tail divided by its first term; the ratios fall below 1."""
    total = term = 1.0
    for k in range(start, start + _TERMS):
        term *= ratio(k)
        total += term
        if term < total * _NEGLIGIBLE:
            break
    return total
