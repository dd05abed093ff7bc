"""The bound of a share, against scipy's and by trying."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from trtkit import confidence as module
from trtkit.confidence import fewest_to_prove, lower_bound


@given(st.integers(1, 1000), st.floats(0, 1), st.floats(0.5, 0.9999))
@settings(max_examples=60, deadline=None)
def test_it_is_clopper_and_pearsons(count: int, share: float, confidence: float) -> None:
    hits = max(1, round(share * count))
    expected = stats.beta.ppf(1 - confidence, hits, count - hits + 1)
    assert lower_bound(hits, count, confidence) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("count", [1, 50, 459, 100_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.995])
def test_without_a_miss_it_is_a_root(count: int, confidence: float) -> None:
    expected = (1 - confidence) ** (1 / count)
    assert lower_bound(count, count, confidence) == pytest.approx(expected, rel=1e-9)


def test_the_examples() -> None:
    assert doctest.testmod(module).failed == 0


@given(st.floats(0.01, 0.9999), st.floats(0.5, 0.999))
def test_the_fewest_that_prove_a_share(share: float, confidence: float) -> None:
    fewest = fewest_to_prove(share, confidence)
    assert fewest is not None
    assert lower_bound(fewest, fewest, confidence) >= share - 1e-9
    assert fewest == 1 or lower_bound(fewest - 1, fewest - 1, confidence) < share + 1e-9


def test_nothing_proves_nothing() -> None:
    assert lower_bound(0, 0, 0.95) == 0.0
    assert lower_bound(0, 100, 0.95) == 0.0


@given(st.integers(2, 200), st.data())
@settings(max_examples=50, deadline=None)
def test_more_hits_and_less_confidence_give_more(count: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(1, count - 1))
    bound = lower_bound(hits, count, 0.95)
    assert 0 < bound < hits / count
    assert lower_bound(hits + 1, count, 0.95) > bound
    assert lower_bound(hits, count, 0.9) > bound
    assert lower_bound(hits, count + 1, 0.95) < bound


@pytest.mark.parametrize("share", [0.9, 0.99])
@pytest.mark.parametrize("count", [40, 500])
def test_it_is_below_the_true_share_as_often_as_it_says(share: float, count: int) -> None:
    draws = np.random.default_rng(7).binomial(count, share, 20_000)
    bounds = {hits: lower_bound(hits, count, 0.95) for hits in set(draws.tolist())}
    covered = np.mean([bounds[hits] <= share for hits in draws.tolist()])
    # Four standard errors; exact bounds cover more often where shares are coarse.
    assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / 20_000)


def test_a_sample_without_replacement_is_covered_as_well() -> None:
    # Objects of a store are finite: half of 600 are drawn, of which 582 are hits.
    draws = np.random.default_rng(8).hypergeometric(582, 18, 300, 20_000)
    bounds = {hits: lower_bound(hits, 300, 0.95) for hits in set(draws.tolist())}
    assert np.mean([bounds[hits] <= 582 / 600 for hits in draws.tolist()]) >= 0.95
