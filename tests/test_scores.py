"""From outputs to scores, and what two arrays of outputs decide."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtkit import scores
from trtkit.scores import agreement, holds, scores_of, sigmoid

LOGITS = arrays(np.float32, (5, 4), elements=st.integers(-10_000, 10_000).map(lambda x: x / 8))


def test_the_examples():
    assert doctest.testmod(scores).failed == 0


@given(LOGITS)
def test_scores_are_shares(logits):
    for scoring in ("softmax", "sigmoid"):
        values = scores_of(logits, scoring)
        assert values.dtype == np.float64 and ((values >= 0) & (values <= 1)).all()
        decided = holds(logits, scoring)
        if scoring == "softmax":
            np.testing.assert_allclose(values.sum(axis=1), 1)
            assert (decided.sum(axis=1) == 1).all()
        else:
            assert (decided == (values >= 0.5)).all()
    assert (scores_of(logits, "none") == logits).all()


@given(LOGITS)
def test_the_softmax_of_nought_and_x_is_its_sigmoid(logits):
    single = logits[:, :1]
    pair = scores_of(np.concatenate([0 * single, single], axis=1), "softmax")
    np.testing.assert_allclose(pair[:, 1:], sigmoid(single), atol=1e-12)


@given(LOGITS, st.sampled_from(["softmax", "sigmoid", "none"]))
def test_outputs_agree_with_themselves(logits, scoring):
    result = agreement(logits, logits, scoring)
    assert result.same.all() and not result.tied.any() and result.share == 1


def test_independent_labels_are_compared_one_by_one():
    reference = np.float32([[5, 1, -3], [5, 1, -3], [5, 1, -3]])
    outputs = np.float32([[5, 1, -3], [5, -1, -3], [4, 3, 2]])
    # The best label is the same for all three.
    assert agreement(outputs, reference, "softmax").same.tolist() == [True, True, True]
    result = agreement(outputs, reference, "sigmoid")
    assert result.same.tolist() == [True, False, False] and not result.tied.any()
    near = agreement(np.float32([[5, -0.01, -3]]), np.float32([[5, 0.02, -3]]), "sigmoid")
    assert near.tied.tolist() == [True]


@pytest.mark.parametrize(
    ("margin", "scale", "tied"), [(0.05, 1.0, True), (0.2, 1.0, False), (0.05, 0.01, False)]
)
def test_ties_are_near_in_score_and_in_outputs(margin, scale, tied):
    # Others lie 10 times the scale below: that is what tells classes apart.
    reference = np.float32([[0, -margin, -10 * scale, -10 * scale]])
    outputs = reference[:, [1, 0, 2, 3]]
    result = agreement(outputs, reference, "softmax")
    assert not result.same.any() and bool(result.tied[0]) == tied


def test_scores_as_they_are_have_ties_too():
    reference = np.float32([[0.48, 0.47, 0.05], [0.6, 0.35, 0.05]])
    result = agreement(reference[:, [1, 0, 2]], reference, "none")
    assert result.tied.tolist() == [True, False]


def test_what_is_not_finite_agrees_with_nothing():
    outputs = np.float32([[np.nan, 1], [np.inf, 1], [2, 1]])
    result = agreement(outputs, np.float32([[2, 1]] * 3), "softmax")
    assert result.same.tolist() == [False, False, True] and not result.tied.any()
