"""Intervals of medians hold what they promise, whatever the distribution."""

from __future__ import annotations

import math
import random
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.benchmark.statistics import (
    Interval,
    PairedRatio,
    Summary,
    fewest_values,
    median_interval,
    ratio_interval,
)
from trtkit.errors import TrtkitError

# Order statistics of a 95 % interval of the median by number of values, from a printed table.
RANKS = {
    6: (1, 6),
    7: (1, 7),
    8: (1, 8),
    9: (2, 8),
    11: (2, 10),
    12: (3, 10),
    15: (4, 12),
    17: (5, 13),
    20: (6, 15),
}

finite = st.floats(-1e6, 1e6)
seconds = st.floats(1e-6, 1e4)


@pytest.mark.parametrize(("count", "ranks"), RANKS.items())
def test_the_ranks_are_those_of_the_tables(count, ranks):
    values = [float(value) for value in range(1, count + 1)]
    random.Random(count).shuffle(values)
    interval = median_interval(values)
    assert (interval.low, interval.high) == ranks
    assert interval.median == (count + 1) / 2


@given(count=st.integers(1, 300), confidence=st.floats(0.01, 0.999))
def test_the_ranks_are_the_narrowest_that_reach_the_confidence(count, confidence):
    interval = median_interval(range(1, count + 1), confidence)
    rank = int(interval.low)
    assert interval.high == count + 1 - rank

    def outside(rank: int) -> float:
        """How probable it is that the true median is not between the ranks."""
        return 2 * sum(math.comb(count, below) for below in range(rank)) / 2**count

    if count >= fewest_values(confidence):
        assert outside(rank) <= 1 - confidence + 1e-12
    else:
        assert rank == 1
    if 2 * (rank + 1) <= count + 1:
        assert outside(rank + 1) > 1 - confidence - 1e-12


@pytest.mark.parametrize("count", (1, 2, 3, 4, 5))
def test_of_too_few_values_it_is_the_range(count):
    interval = median_interval([float(2**power) for power in range(count)])
    assert (interval.low, interval.high) == (1, 2 ** (count - 1))


def test_a_confidence_that_is_reached_exactly_is_reached():
    # Five values: 1 - 2 / 32. Six would take ranks 2 to 5 from 1 - 14 / 64 on.
    assert fewest_values(0.9375) == 5
    interval = median_interval([1, 2, 3, 4, 5, 6], 0.78125)
    assert (interval.low, interval.high) == (2, 5)
    assert median_interval([1, 2, 3, 4, 5, 6], math.nextafter(0.78125, 1)).low == 1


@pytest.mark.parametrize(("confidence", "fewest"), ((0.5, 2), (0.9, 5), (0.95, 6), (0.99, 8)))
def test_how_many_values_a_confidence_needs(confidence, fewest):
    assert fewest_values(confidence) == fewest
    enough = [float(value) for value in range(fewest)]
    assert 1 - 2.0 ** (1 - fewest) >= confidence > 1 - 2.0 ** (2 - fewest)
    assert median_interval(enough, confidence).low == 0


@pytest.mark.parametrize("count", (7, 15, 40))
def test_the_true_median_is_inside_as_often_as_promised(count):
    chance = random.Random(20 + count)
    # Log-normal, its median is 1; skewed as times are.
    inside = 0
    for _ in range(2000):
        interval = median_interval([chance.lognormvariate(0, 1.5) for _ in range(count)])
        inside += interval.low <= 1 <= interval.high
    assert inside >= 0.93 * 2000


@given(st.lists(finite, min_size=1, max_size=60))
def test_the_interval_is_made_of_values_and_contains_the_median(values):
    interval = median_interval(values)
    assert {interval.low, interval.high} <= set(values)
    assert interval.low <= interval.median <= interval.high
    assert interval.median == statistics.median(values)


@given(st.lists(finite, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_the_order_of_the_values_says_nothing(values, chance):
    shuffled = list(values)
    chance.shuffle(shuffled)
    assert median_interval(shuffled) == median_interval(values)


@given(st.lists(finite, min_size=1, max_size=60), st.floats(0.5, 0.98))
def test_more_confidence_is_never_narrower(values, confidence):
    narrow, wide = median_interval(values, confidence), median_interval(values, 0.99)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@given(finite, finite, finite, finite)
def test_intervals_overlap_when_a_value_is_in_both(a, b, c, d):
    one, other = (Interval(*sorted((x, x, y))) for x, y in ((a, b), (c, d)))
    common = max(one.low, other.low) <= min(one.high, other.high)
    assert one.overlaps(other) == other.overlaps(one) == common
    assert one.overlaps(one)


def test_a_common_end_overlaps_and_a_gap_does_not():
    assert Interval(1, 2, 3).overlaps(Interval(3, 4, 5))
    assert not Interval(1, 2, 3).overlaps(Interval(3.1, 4, 5))
    assert Interval(1, 2, 9).overlaps(Interval(3, 4, 5))


def test_the_relative_width_is_a_share_of_the_median():
    assert Interval(0.99, 1.0, 1.02).relative_width == pytest.approx(0.03)
    assert Interval(19.8, 20, 20.4).relative_width == pytest.approx(0.03)
    assert Interval(0, 0, 0).relative_width == 0
    assert Interval(-1, 0, 1).relative_width == math.inf


@pytest.mark.parametrize("bounds", ((2, 1, 3), (1, 3, 2), (math.nan, 1, 2), (1, math.nan, 2)))
def test_bounds_that_are_not_in_order_are_refused(bounds):
    with pytest.raises(TrtkitError, match="does not contain its median"):
        Interval(*bounds)


@given(st.lists(seconds, min_size=1, max_size=60))
def test_a_summary_is_in_order(samples):
    summary = Summary.of(samples)
    figures = (
        summary.least, summary.p10, summary.median, summary.p90, summary.p99, summary.greatest,
    )  # fmt: skip
    # Interpolating rounds in the last place.
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(figures))
    assert summary.least * (1 - 1e-12) <= summary.mean <= summary.greatest * (1 + 1e-12)
    assert (summary.count, summary.median) == (len(samples), statistics.median(samples))


def test_a_summary_is_as_numpy_says():
    import numpy

    chance = random.Random(3)
    samples = [chance.expovariate(5) for _ in range(37)]
    summary = Summary.of(samples)
    expected = numpy.percentile(samples, (10, 50, 90, 99))
    assert (summary.p10, summary.median, summary.p90, summary.p99) == pytest.approx(tuple(expected))
    assert summary.mean == pytest.approx(numpy.mean(samples))
    assert (summary.least, summary.greatest) == (min(samples), max(samples))


def test_a_summary_of_one_sample_is_that_sample():
    assert Summary.of([0.25]) == Summary(1, *[0.25] * 7)


@given(st.lists(st.tuples(seconds, seconds), min_size=1, max_size=40))
def test_ratios_are_those_of_the_pairs(pairs):
    samples, baseline = [a for a, _ in pairs], [b for _, b in pairs]
    interval = ratio_interval(samples, baseline)
    assert interval == median_interval([a / b for a, b in pairs])
    # Exchanged it is the speed-up.
    speedup = ratio_interval(baseline, samples)
    assert speedup.low == pytest.approx(1 / interval.high)
    assert speedup.high == pytest.approx(1 / interval.low)


@given(
    st.lists(st.floats(0.1, 100), min_size=6, max_size=40),
    st.floats(0.2, 5),
)
def test_what_slows_both_of_a_pair_cancels(machine, factor):
    interval = ratio_interval([factor * speed for speed in machine], machine)
    assert interval.low == pytest.approx(factor)
    assert interval.high == pytest.approx(factor)


@pytest.mark.parametrize(
    ("call", "message"),
    (
        (lambda: median_interval([]), "no samples"),
        (lambda: median_interval([1.0, math.nan]), "nan is among them"),
        (lambda: median_interval([1.0, math.inf]), "inf is among them"),
        (lambda: median_interval([1.0], 1.0), "between 0 and 1"),
        (lambda: median_interval([1.0], 0.0), "between 0 and 1"),
        (lambda: median_interval([1.0], math.nan), "between 0 and 1"),
        (lambda: fewest_values(1.0), "between 0 and 1"),
        (lambda: Summary.of([]), "no samples"),
        (lambda: Summary.of([math.nan]), "nan is among them"),
        (lambda: ratio_interval([], []), "no samples"),
        (lambda: ratio_interval([1.0, 2.0], [1.0]), "2 samples and 1 of the baseline"),
        (lambda: ratio_interval([1.0], [0.0]), "took 0 seconds"),
        (lambda: ratio_interval([math.nan], [1.0]), "nan is among them"),
    ),
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(TrtkitError, match=message):
        call()


def test_a_paired_ratio_tells_the_medians_and_the_rounds_apart():
    ratio = PairedRatio.of([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert ratio == PairedRatio(of_medians=4 / 3, p10=pytest.approx(1.2), median=2.0, p90=2.8)
    with pytest.raises(TrtkitError, match="took 0 seconds"):
        PairedRatio.of([1.0], [0.0])
