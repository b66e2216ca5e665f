"""Tests of whether methods differ: Welch's t-test, and Holm's correction for several tests."""

import math
from typing import NamedTuple

NO_SPREAD = 1e-9  # sum of two standard deviations up to which there is no test


class Sample(NamedTuple):
    """What a test needs of a method's scores: mean, variance (ddof 1), number."""

    mean: float
    variance: float
    n: int


class Difference(NamedTuple):
    """The difference of two means, the ends of its 95 % interval, and p; NaN where there is no
    test.
    """

    value: float
    low: float
    high: float
    p_value: float


def sample_of(scores):
    """The Sample of a Series of scores."""
    return Sample(scores.mean(), scores.var(ddof=1), len(scores))


def welch(one, other):
    """The Difference of two Samples, one - other, by Welch's t-test, two-sided.

    Without a test where one of them has a single number, or neither has any spread.
    """
    difference = one.mean - other.mean
    spread = math.sqrt(one.variance) + math.sqrt(other.variance)
    if not (min(one.n, other.n) > 1 and spread > NO_SPREAD):
        return Difference(difference, math.nan, math.nan, math.nan)
    from scipy.stats import t  # here, as it imports for a second

    u, v = one.variance / one.n, other.variance / other.n
    error = math.sqrt(u + v)
    freedom = (u + v) ** 2 / (u**2 / (one.n - 1) + v**2 / (other.n - 1))
    half = t.ppf(0.975, freedom) * error
    p_value = 2 * t.sf(abs(difference) / error, freedom)
    return Difference(difference, difference - half, difference + half, p_value)


def holm(p_values):
    """Holm's correction: of m, the k-th smallest times m - k + 1, never below one before it.

    NaN counts among the m, as the largest, and stays NaN.
    """
    m, corrected, largest = len(p_values), [math.nan] * len(p_values), 0.0
    order = sorted(range(m), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    for k, i in enumerate(order):
        if not math.isnan(p_values[i]):
            corrected[i] = largest = max(largest, min(1.0, (m - k) * p_values[i]))
    return corrected
