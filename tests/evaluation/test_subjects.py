"""The speed that an evaluation tells, by hand."""

from __future__ import annotations

import pytest

from trtkit.evaluation.subjects import Pace


def pace(*batches: tuple[int, float]) -> float | None:
    counted = Pace()
    for images, seconds in batches:
        counted.add(images, seconds)
    return counted.images_per_second


def test_the_median_batch_without_the_first():
    assert pace((8, 100.0), (8, 1.0), (8, 2.0), (8, 4.0)) == 4.0
    assert pace((8, 100.0), (8, 1.0), (8, 2.0)) == pytest.approx(8 / 1.5)


def test_one_batch_is_all_there_is():
    assert pace((5, 2.0)) == 2.5


@pytest.mark.parametrize("place", [0, 1, 3])
def test_remainders_do_not_count(place):
    batches = [(8, 50.0), (8, 2.0), (8, 2.0)]
    batches[place:place] = [(3, 100.0), (3, 100.0)]
    assert pace(*batches) == 4.0


def test_nothing_that_could_be_measured():
    assert pace() is None
    assert pace((8, 0.0), (8, 0.0)) is None
