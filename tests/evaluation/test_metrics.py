"""Scores: against scikit-learn, and what must hold for any logits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as reference

from trtkit import TrtkitError
from trtkit.evaluation.metrics import (
    Scores,
    Tally,
    predicted,
    ranks,
    relative_error,
)


def scores_of(logits, labels) -> Scores:
    tally = Tally(logits.shape[1])
    tally.add(logits, labels)
    return tally.scores()


@st.composite
def labelled_logits(draw):
    """Logits, many of them equal to others, with labels; also of no image and of one class."""
    images, classes = draw(st.integers(0, 30)), draw(st.integers(1, 9))
    values = st.sampled_from([-np.inf, -1.5, 0.0, 0.25, 3.0]) | st.floats(-100, 100, width=32)
    logits = draw(arrays.arrays(np.float32, (images, classes), elements=values))
    labels = draw(arrays.arrays(np.int64, images, elements=st.integers(0, classes - 1)))
    return logits, labels


def test_a_small_example_by_hand():
    logits = np.array(
        [[3, 1, 0], [0, 2, 1], [5, 4, 3], [0, 1, 2]],  # predicted: 0, 1, 0, 2
        np.float32,
    )
    scores = scores_of(logits, [0, 1, 1, 2])
    assert scores.images == 4
    assert scores.top1 == 0.75
    assert scores.top5 == 1.0
    assert scores.confusion.dtype == np.int64
    assert scores.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.precision.tolist() == [0.5, 1.0, 1.0]
    assert scores.recall.tolist() == [1.0, 0.5, 1.0]
    assert scores.confusion.sum(axis=1).tolist() == [1, 2, 1]


def test_the_fifth_best_is_among_the_best_five_and_the_sixth_is_not():
    logits = np.arange(7, dtype=np.float32)[None].repeat(2, axis=0)
    assert scores_of(logits, [2, 2]).top5 == 1.0
    assert scores_of(logits, [1, 1]).top5 == 0.0
    assert scores_of(logits, [6, 1]).top5 == 0.5


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(labelled_logits())
def test_as_scikit_learn_has_it(example):
    logits, labels = example
    scores = scores_of(logits, labels)
    if not len(labels):
        assert np.isnan(scores.top1) and np.isnan(scores.top5)
        assert scores.images == scores.confusion.sum() == 0
        return
    classes = range(logits.shape[1])
    best = predicted(logits)
    assert scores.top1 == pytest.approx(reference.accuracy_score(labels, best))
    expected = reference.confusion_matrix(labels, best, labels=classes)
    assert scores.confusion.tolist() == expected.tolist()
    precision, recall, _, images = reference.precision_recall_fscore_support(
        labels, best, labels=classes, zero_division=np.nan
    )
    np.testing.assert_allclose(scores.precision, precision)
    np.testing.assert_allclose(scores.recall, recall)
    assert scores.confusion.sum(axis=1).tolist() == images.tolist()


@given(st.integers(1, 40), st.integers(6, 12), st.integers(0, 2**32 - 1))
def test_top5_as_scikit_learn_has_it(images, classes, seed):
    random = np.random.default_rng(seed)
    # Without equal logits, where scikit-learn takes the last class first.
    logits = random.permuted(
        np.arange(images * classes, dtype=np.float32).reshape(images, -1), axis=1
    )
    labels = random.integers(0, classes, images)
    expected = reference.top_k_accuracy_score(labels, logits, k=5, labels=range(classes))
    assert scores_of(logits, labels).top5 == pytest.approx(expected)


@given(labelled_logits())
def test_ranks_are_places_in_the_order_that_infer_lists(example):
    logits, labels = example
    order = np.argsort(-logits, axis=1, kind="stable")
    assert ranks(logits, labels).tolist() == [
        row.tolist().index(label) for row, label in zip(order, labels, strict=True)
    ]


@given(labelled_logits(), st.integers(1, 7))
def test_batches_change_nothing(example, batch):
    logits, labels = example
    tally = Tally(logits.shape[1])
    for start in range(0, len(labels), batch):
        tally.add(logits[start : start + batch], labels[start : start + batch])
    together, whole = tally.scores(), scores_of(logits, labels)
    assert (together.images, together.confusion.tolist()) == (
        whole.images,
        whole.confusion.tolist(),
    )
    np.testing.assert_equal((together.top1, together.top5), (whole.top1, whole.top5))


def test_what_is_undefined_is_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = scores_of(np.array([[0, 1, 2]], np.float32), [0])
        assert scores.recall[0] == scores.precision[2] == 0.0
        assert np.isnan(scores.precision[:2]).all()
        assert np.isnan(scores.recall[1:]).all()
        Tally(3).scores()


def test_scores_do_not_change_afterwards():
    tally = Tally(2)
    tally.add(np.eye(2, dtype=np.float32), [0, 1])
    scores = tally.scores()
    tally.add(np.eye(2, dtype=np.float32), [1, 0])
    assert scores.confusion.tolist() == [[1, 0], [0, 1]]
    assert tally.scores().top1 == 0.5


@pytest.mark.parametrize(
    ("shape", "labels"), [((2, 4), [0, 1]), ((2, 3), [0]), ((3,), [0, 1, 2]), ((2, 3), [[0], [1]])]
)
def test_what_does_not_fit_together_is_refused(shape, labels):
    with pytest.raises(TrtkitError, match=r"do not fit 3 classes; give N x 3 and N"):
        Tally(3).add(np.zeros(shape, np.float32), labels)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_labels_of_no_class_are_refused(labels):
    with pytest.raises(TrtkitError, match="do not fit 3 classes, which are numbered 0 to 2"):
        Tally(3).add(np.zeros((2, 3), np.float32), labels)


def test_nan_is_no_prediction():
    logits = np.zeros((4, 3), np.float32)
    logits[2, 1] = np.nan
    with pytest.raises(TrtkitError, match="logits of 1 of 4 images are NaN"):
        scores_of(logits, [0, 0, 0, 0])


@pytest.mark.parametrize(
    ("value", "expected", "error"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [0.0, 5.0], 10**0.5 / 5),
        ([[6.0, 0.0], [8.0, 0.0]], [[3.0, 0.0], [4.0, 0.0]], 1.0),
        ([0.0, 0.0], [3.0, 4.0], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.1, 0.0], [0.0, 0.0], np.inf),
        ([np.inf, 0.0], [1.0, 1.0], np.inf),
        ([1.0, 0.0], [np.inf, 1.0], np.inf),
        ([-np.inf, 0.0], [-np.inf, 1.0], np.inf),
        ([np.nan, 0.0], [1.0, 1.0], np.inf),
    ],
)
def test_relative_errors_by_hand(value, expected, error):
    assert relative_error(value, expected) == pytest.approx(error)


def test_the_relative_error_of_narrow_numbers():
    """Squares and differences of fp16 and of bytes do not fit into their own types."""
    large = np.full(4, 60000, np.float16)
    assert relative_error(-large, large) == pytest.approx(2.0)
    assert relative_error(np.uint8([3]), np.uint8([4])) == pytest.approx(0.25)


def test_independent_labels_of_photos_in_class_folders():
    tally = Tally(3, "sigmoid")
    # Two labels hold, none holds, the wrong one holds beside the right one.
    logits = np.float32([[2, 1, -1], [-1, -2, -3], [3, 0.5, -1], [-1, -1, 4]])
    tally.add(logits, [0, 0, 1, 2])
    scores = tally.scores()
    assert (scores.images, scores.top1, scores.top5) == (4, 3 / 4, 1.0)
    assert scores.confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert scores.recall.tolist() == [0.5, 1.0, 1.0]
    rows = scores.by_class(["a", "b", "c"])
    assert [row.images for row in rows] == [2, 1, 1]
    assert [row.precision for row in rows] == [None] * 3
