"""Medians with their spread and an interval that assumes no distribution.

Times of programs are skewed and have outliers, so a mean with a normal interval misleads. The interval
of a median needs no such model: whether a value lies below the true median is a fair coin.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trtkit.errors import TrtkitError

CONFIDENCE = 0.95


class DisorderedInterval(TrtkitError, ValueError):
    """Bounds that do not contain their median; a ValueError too, so that readers name the field."""


@dataclass(frozen=True)
class Interval:
    """A median and the bounds around it, in the unit of the values (ratios have none).

    Raises TrtkitError when they are not in order, as they are not when one of them is not a number.
    """

    low: float
    median: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.median <= self.high:
            raise DisorderedInterval(
                f"The interval from {self.low:g} to {self.high:g} does not contain its median "
                f"{self.median:g}."
            )

    def overlaps(self, other: Interval) -> bool:
        """Whether both have a value in common; a common end counts."""
        return self.low <= other.high and other.low <= self.high

    @property
    def relative_width(self) -> float:
        """From low to high, as a share of the median: 0.03 is 3 %. Infinite around a median of 0."""
        width = self.high - self.low
        if width == 0:
            return 0.0
        return width / abs(self.median) if self.median else math.inf


@dataclass(frozen=True)
class Summary:
    """Samples of one contestant in a few figures; all but `count` are in seconds.

    Percentiles are interpolated between the two nearest samples (numpy's default). With few samples
    p99 is next to the greatest: it says something from about 100 on.
    """

    count: int  # samples
    median: float  # seconds, as all below
    mean: float
    p10: float
    p90: float
    p99: float
    least: float
    greatest: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """The figures of `samples` (seconds, in any order).

        Raises TrtkitError when there are none or one of them is not finite.
        """
        _check(samples)
        cuts = [samples[0]] * 99
        if len(samples) > 1:
            cuts = statistics.quantiles(samples, n=100, method="inclusive")
        return cls(
            count=len(samples),
            median=statistics.median(samples),
            mean=statistics.fmean(samples),
            p10=cuts[9],
            p90=cuts[89],
            p99=cuts[98],
            least=min(samples),
            greatest=max(samples),
        )


@dataclass(frozen=True)
class PairedRatio:
    """The ratio of two contestants' medians, and the spread of the rounds' ratios; no unit."""

    of_medians: float
    p10: float
    median: float
    p90: float

    @classmethod
    def of(cls, samples: Sequence[float], baseline_samples: Sequence[float]) -> PairedRatio:
        """`samples` to `baseline_samples`, round by round; below 1 is faster.

        Raises TrtkitError for the same reasons as `ratio_interval`.
        """
        rounds = Summary.of(_paired(samples, baseline_samples))
        of_medians = statistics.median(samples) / statistics.median(baseline_samples)
        return cls(of_medians, rounds.p10, rounds.median, rounds.p90)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median of `values` and an interval that holds the true one with `confidence` or more.

    Of n values in order it reaches from the j-th to the (n + 1 - j)-th, with the greatest j for which
    1 - 2 P(B <= j - 1) >= confidence, B being the number of heads of n fair coins. It holds for
    values drawn independently from any continuous distribution (with ties it is the surer); the
    actual confidence is mostly higher, since ranks are whole. Sources: W. J. Conover, Practical
    Nonparametric Statistics, 3rd edition, 1999, section 3.2; J.-Y. Le Boudec, Performance Evaluation
    of Computer and Communication Systems, 2010, section 2.2.

    Below `fewest_values(confidence)` no ranks reach it: the range of all values is returned, which
    holds the true median with 1 - 2 ** (1 - n) only.

    Raises TrtkitError when there are no values, one is not finite, or `confidence` is not between 0
    and 1.
    """
    _check(values)
    _check_confidence(confidence)
    ordered = sorted(values)
    rank = _rank(len(ordered), confidence)
    return Interval(ordered[rank - 1], statistics.median(ordered), ordered[-rank])


def fewest_values(confidence: float = CONFIDENCE) -> int:
    """How many values `median_interval` needs to reach `confidence`: 6 for 0.95, 8 for 0.99.

    Raises TrtkitError when `confidence` is not between 0 and 1.
    """
    _check_confidence(confidence)
    count = 1
    while 2.0 ** (1 - count) > 1 - confidence:
        count += 1
    return count


def ratio_interval(
    samples: Sequence[float],
    baseline_samples: Sequence[float],
    confidence: float = CONFIDENCE,
) -> Interval:
    """The interval of `samples[i] / baseline_samples[i]`: times the baseline's time, below 1 faster.

    The two of a pair come from the same round, so that what slowed the machine down in it slowed both
    and cancels. With the arguments exchanged it is the speed-up, the ratio of frames per second.

    Raises TrtkitError when the numbers of samples differ, there are none, one is not finite, or one
    of the baseline's is not above 0.
    """
    return median_interval(_paired(samples, baseline_samples), confidence)


def _paired(samples: Sequence[float], baseline_samples: Sequence[float]) -> list[float]:
    """The ratio of every round, checked."""
    if len(samples) != len(baseline_samples):
        raise TrtkitError(
            f"Ratios need pairs from the same rounds, but there are {len(samples)} samples and "
            f"{len(baseline_samples)} of the baseline."
        )
    _check(baseline_samples)
    least = min(baseline_samples)
    if least <= 0:
        raise TrtkitError(
            f"No ratio to a baseline that took {least:g} seconds exists; give it more work."
        )
    return [sample / base for sample, base in zip(samples, baseline_samples, strict=True)]


def _rank(count: int, confidence: float) -> int:
    """The j of `median_interval`, from 1.

    In whole numbers, without rounding: with five values the range has a confidence of exactly 0.9375.
    """
    part, whole = confidence.as_integer_ratio()
    allowed = (whole - part) << count
    rank, heads, outside = 1, 1, 0
    for below in range(count // 2):
        # `heads` is the number of outcomes with `below` heads, of 2 ** count.
        outside += 2 * heads
        if outside * whole > allowed:
            break
        rank = below + 1
        heads = heads * (count - below) // (below + 1)
    return rank


def _check(values: Sequence[float]) -> None:
    if not values:
        raise TrtkitError("There are no samples to take a median of; measure at least one round.")
    for value in values:
        if not math.isfinite(value):
            raise TrtkitError(f"The samples have to be finite numbers, and {value} is among them.")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise TrtkitError(
            f"The confidence {confidence:g} is not between 0 and 1; give 0.95, for example."
        )
