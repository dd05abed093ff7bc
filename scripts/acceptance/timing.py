"""Timing in turns, and the figures that are kept of it."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from measure.common import spread

# What a clock of no resolution would yield; a ratio to it is never wanted.
LEAST_SECONDS = 1e-9


@dataclass(frozen=True)
class Timing:
    """Seconds of one batch: the median of `samples` rounds, the 10th and the 90th percentile."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        low, high = spread(seconds)
        return cls(statistics.median(seconds), low, high, len(seconds))


@dataclass(frozen=True)
class Ratio:
    """`of_medians`, and what the single rounds say: p10, median, p90 of their ratios. No unit."""

    of_medians: float
    p10: float
    median: float
    p90: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        """Of samples that were taken in turns; where one side has more, only the medians are compared."""
        of_medians = statistics.median(above) / statistics.median(below)
        if len(above) != len(below):
            return cls(of_medians, of_medians, of_medians, of_medians)
        rounds = [a / b for a, b in zip(above, below, strict=True)]
        low, high = spread(rounds)
        return cls(of_medians, low, statistics.median(rounds), high)


def in_turns(competitors: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each competitor measures, seconds: A B, B A, A B, ... after one round that is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    gc.collect()
    for turn in range(-1, rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            value = competitors[name]()
            if turn >= 0:
                samples[name].append(max(LEAST_SECONDS, value))
    return samples


def repeats_for(once: float, sample_seconds: float, most: int) -> int:
    """How often to do what takes `once` seconds, so that a sample lasts `sample_seconds`."""
    return max(1, min(most, math.ceil(sample_seconds / max(LEAST_SECONDS, once))))
