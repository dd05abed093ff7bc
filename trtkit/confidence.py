"""What a sample proves about a share: a bound with its confidence, and how large a sample has to be."""

from __future__ import annotations

import math


def lower_bound(hits: int, count: int, confidence: float) -> float:
    """The bound, 0 to 1, that the true share is not below with that confidence, after `hits` of `count`.

    Clopper and Pearson's (Biometrika 26, 1934), exact: the share at which so many hits or more would
    have a probability of 1 - `confidence`. 0 if nothing was counted.
    """
    if count == 0 or hits == 0:
        return 0.0
    low, high = 0.0, hits / count
    for _ in range(60):
        middle = (low + high) / 2
        if _at_least(hits, count, middle) < 1 - confidence:
            low = middle
        else:
            high = middle
    return low


def _at_least(hits: int, count: int, share: float) -> float:
    """The probability of `hits` or more of `count` if each has the probability `share`."""
    if share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    inside, outside = math.log(share), math.log1p(-share)
    # In logarithms no term vanishes.
    terms = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * inside + (count - k) * outside
        for k in range(hits, count + 1)
    ]  # fmt: skip
    highest = max(terms)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(term - highest) for term in terms))


def fewest_to_prove(share: float, confidence: float) -> int | None:
    """How many must be counted, all of them hits, for `lower_bound` to reach `share`.

    None for a share of 1, which no number proves.

    >>> fewest_to_prove(0.95, 0.95), fewest_to_prove(0.99, 0.95), fewest_to_prove(1.0, 0.95)
    (59, 299, None)
    """
    if share <= 0:
        return 0
    if share >= 1:
        return None
    # Up to rounding: the bound after n hits of n is the n-th root of 1 - confidence.
    return math.ceil(round(math.log(1 - confidence) / math.log(share), 9))
