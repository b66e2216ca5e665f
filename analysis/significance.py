"""Tests of whether methods differ: Welch's t-test, and Holm's correction for several tests."""

import math
from typing import NamedTuple

NO_SPREAD = 1e-9  # two samples whose standard deviations add up to no more are not tested


class Sample(NamedTuple):
    """The numbers that a test needs of a method's scores: mean, variance (ddof 1), their count."""

    mean: float
    variance: float
    n: int


class Difference(NamedTuple):
    """The difference of two means, the ends of its 95 % interval, and p; the last three are NaN if
    no test is possible.
    """

    value: float
    low: float
    high: float
    p_value: float


def sample_of(scores):
    """The Sample of a Series of scores."""
    return Sample(scores.mean(), scores.var(ddof=1), len(scores))


def welch(one, other):
    """The Difference one - other of two Samples, by Welch's two-sided t-test.

    No test is possible if a Sample has a single number, or if neither has any spread.
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
    """The p-values after Holm's correction, a list in their order.

    The k-th smallest of m p-values is multiplied by m - k + 1, then cut to at most 1, and raised to
    the corrected one before it if that is larger. A NaN counts among the m, as the largest, and
    stays NaN.
    """
    m, corrected, largest = len(p_values), [math.nan] * len(p_values), 0.0
    order = sorted(range(m), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    for k, i in enumerate(order):
        if not math.isnan(p_values[i]):
            corrected[i] = largest = max(largest, min(1.0, (m - k) * p_values[i]))
    return corrected
