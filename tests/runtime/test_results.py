"""Results: the best classes of scores, and what a result shows."""

from __future__ import annotations

import doctest
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import trtkit
from tests.small import BUNDLE, CLASSES, FILES, write_files
from trtkit import TrtkitError
from trtkit.runtime import batching, results
from trtkit.runtime.results import SORTED_WHOLE, Prediction, Result, best_classes, result_of
from trtkit.scores import softmax

SCORES = np.array([0.125, 0.625, 0.25], np.float32)


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(results).failed == 0
    assert doctest.testmod(batching).failed == 0


def result(path: str = "photos/cat.jpg", top: int = 2) -> Result:
    return result_of(path, SCORES, CLASSES, "pets", top=top)


@given(
    scores=arrays.arrays(
        np.float32,
        # Above and below the number that is sorted as a whole.
        st.one_of(st.integers(1, 20), st.integers(SORTED_WHOLE - 1, SORTED_WHOLE + 40)),
        # Few values, so that most are equal to others.
        elements=st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0, math.inf, -1.0]),
    ),
    top=st.integers(1, 50),
)
def test_the_best_classes_are_those_of_a_stable_sort(scores, top):
    classes = [f"class {number}" for number in range(len(scores))]
    order = np.argsort(-scores, kind="stable")[:top]
    assert best_classes(scores, classes, top) == tuple(
        Prediction(int(index), classes[index], float(scores[index])) for index in order
    )


def test_equal_scores_keep_the_order_of_their_classes():
    scores = np.full(1000, 0.001, np.float32)
    scores[700] = 0.5
    best = best_classes(scores, [str(index) for index in range(1000)], 4)
    assert [prediction.index for prediction in best] == [700, 0, 1, 2]


@pytest.mark.parametrize("top", [1, 2, 3, 9])
def test_scores_that_are_no_numbers_are_still_scores(top):
    best = best_classes(np.full(3, np.nan, np.float32), CLASSES, top)
    assert [prediction.label for prediction in best] == list(CLASSES[:top])
    assert all(math.isnan(prediction.score) for prediction in best)


@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 6)),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    )
)
def test_scores_sum_to_one_and_keep_the_order_of_the_logits(logits):
    scores = softmax(logits)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-9)
    for row, of_row in zip(logits, scores, strict=True):
        # Differences below the precision of the scores are lost, but none is turned round.
        assert (np.diff(of_row[np.argsort(row)]) >= 0).all()


def test_the_best_class_and_the_k_best():
    one = result()
    assert one.top1 == Prediction(1, "bee", 0.625)
    assert one.top(1) == (one.top1,)
    assert [prediction.label for prediction in one.top(2)] == ["bee", "cat"]
    # More than `predictions` holds: all scores are there.
    assert [prediction.label for prediction in one.top(50)] == ["bee", "cat", "ant"]
    assert len(one.predictions) == 2
    assert one.classes == CLASSES


@pytest.mark.parametrize("k", [0, -3])
def test_fewer_than_one_of_the_best(k):
    with pytest.raises(
        TrtkitError, match=f"^The number of best classes must be 1 or more, not {k}.$"
    ):
        result().top(k)


def test_as_a_dict():
    value = result().to_dict()
    assert value == {
        "path": "photos/cat.jpg",
        "tail": "pets",
        "predictions": [
            {"index": 1, "label": "bee", "score": 0.625},
            {"index": 2, "label": "cat", "score": 0.25},
        ],
    }
    assert list(value) == ["path", "tail", "predictions"]
    assert json.loads(json.dumps(value)) == value
    third = result_of("x", np.array([1 / 3, 2 / 3]), ("a", "b"), "t", top=1).to_dict()
    assert third["predictions"][0]["score"] == 0.666667
    failed = Result("x", error="The file is empty.", tail="pets")
    assert failed.to_dict() == {"path": "x", "tail": "pets", "error": "The file is empty."}


def test_as_text():
    assert repr(result()) == "Result('photos/cat.jpg', 62.50% bee, 25.00% cat)"
    failed = Result("x", error="The file is empty.", tail="pets")
    assert repr(failed) == "Result('x', error='The file is empty.')"


@pytest.mark.parametrize(
    ("failed", "sentence"),
    [
        (Result("a/x.jpg", error="The file is empty."), "a/x.jpg: The file is empty."),
        (Result("", error="The file is empty."), "The file is empty."),
        (Result("x"), "x: The result has no scores."),
    ],
)
def test_a_failed_picture_says_why_wherever_its_classes_are_wanted(failed, sentence):
    for use in (lambda: failed.top1, lambda: failed.top(3), failed.plot):
        with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
            use()


def test_results_compare_by_what_they_say():
    assert result() == result_of("photos/cat.jpg", SCORES * 1, CLASSES, "pets", top=2)
    assert result() != result(top=1)
    assert result() != result("other.jpg")
    assert len({result(), result()}) == 1


def bars_of(figure):
    """The labels and lengths of the bars, from above, and the axes with a picture."""
    with_bars = [axes for axes in figure.axes if axes.patches]
    with_picture = [axes for axes in figure.axes if axes.images]
    (axes,) = with_bars
    figure.canvas.draw()
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert axes.yaxis_inverted()
    return axes.get_title(), labels, [bar.get_width() for bar in axes.patches], with_picture


def test_bars_beside_the_picture(tmp_path):
    path = write_files(tmp_path)[3]
    title, labels, lengths, pictures = bars_of(result(str(path)).plot())
    assert (title, labels, lengths) == ("pets", ["bee", "cat"], [0.625, 0.25])
    (axes,) = pictures
    assert axes.get_title() == "3.png"
    assert axes.images[0].get_array().shape[2] == 3


@pytest.mark.parametrize("path", ["", "gone.jpg", "."])
def test_bars_alone_without_a_file(path):
    _, labels, lengths, pictures = bars_of(result(path, top=3).plot())
    assert (labels, pictures) == (["bee", "cat", "ant"], [])
    assert lengths == [0.625, 0.25, 0.125]
    assert len(result(path).plot().axes) == 1


def test_classes_with_one_name_have_a_bar_each():
    # As ImageNet's crane, the bird and the machine, or two that differ in their ends.
    for classes in (("crane", "crane", "ox"), ("a" * 60 + "1", "a" * 60 + "2", "ox")):
        one = result_of("", np.array([0.5, 0.375, 0.125]), classes, "zoo", top=3)
        _, labels, lengths, _ = bars_of(one.plot())
        assert lengths == [0.5, 0.375, 0.125]
        assert len(labels) == 3
        assert labels[0] == labels[1] != labels[2]


def test_strange_labels_and_names_are_drawn(tmp_path):
    path = tmp_path / "a $x_1$ \udcff.png"
    path.write_bytes(FILES[0])
    one = result_of(str(path), SCORES, ("$\\frac$", "a\nb", "\udcff"), "$t$", top=3)
    _, _, lengths, pictures = bars_of(one.plot())
    assert len(lengths) == 3
    assert len(pictures) == 1


def test_no_images_have_no_logits():
    with trtkit.load(BUNDLE) as pipeline:
        assert pipeline.logits(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 3)


def test_the_result_of_a_pipeline_has_all_scores():
    with trtkit.load(BUNDLE) as pipeline:
        one = pipeline(FILES[0], top=1)
        assert isinstance(one, Result)
        assert one.scores.shape == (3,)
        assert one.scores.sum() == pytest.approx(1)
        assert one.classes == CLASSES
        assert (one.tail, one.path, one.cached) == ("resnet18", "", False)
        assert one.predictions == one.top(1) == (one.top1,)
        assert len(one.top(3)) == 3
        assert len(bars_of(one.plot())[1]) == 1
