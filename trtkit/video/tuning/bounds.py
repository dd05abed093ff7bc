"""What a sample proves about a share: an exact bound, not an estimate."""

from __future__ import annotations

import math


def lower_bound(hits: int, count: int, confidence: float) -> float:
    """The share, 0 to 1, that the true one is not below with that confidence, after `hits` of `count`.

    Clopper and Pearson's (Biometrika 26, 1934): the share at which so many hits or more would have a
    probability of 1 - `confidence`. 0 where nothing was counted.
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
    """The probability of `hits` or more of `count` where each has that probability."""
    if share <= 0:
        return 0.0
    if share >= 1:
        return 1.0
    inside, outside = math.log(share), math.log1p(-share)
    # From the likelier end the terms fall at once, and in logarithms none vanishes.
    terms = [
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * inside + (count - k) * outside
        for k in range(hits, count + 1)
    ]  # fmt: skip
    highest = max(terms)
    return min(1.0, math.exp(highest) * math.fsum(math.exp(term - highest) for term in terms))
