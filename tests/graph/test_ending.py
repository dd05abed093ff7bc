"""How a foreign graph ends: what makes scores of its logits is found, wherever it stands."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import classifier, run
from trtkit.building.adoption import adopt_file
from trtkit.errors import TrtkitError
from trtkit.graph.foreign import Adopted
from trtkit.scores import scores_of

CARRIERS = ("Identity", "Reshape", "Flatten", "Cast", "Dropout")
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


def take(model: onnx.ModelProto, scoring=None) -> Adopted:
    return adopt_file(model, "m.onnx", mean=(0, 0, 0), std=(1, 1, 1), scoring=scoring).adopted


def original(model: onnx.ModelProto) -> np.ndarray:
    return run(model, np.float32(IMAGES.transpose(0, 3, 1, 2) / 255))


def scores(adopted: Adopted) -> np.ndarray:
    onnx.checker.check_model(adopted.model, full_check=True)
    return scores_of(run(adopted.model, IMAGES), adopted.ending.scoring)


@pytest.mark.parametrize("activation", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize(
    "behind", [(), *((one,) for one in CARRIERS), ("Unsqueeze", "Squeeze", "Cast")]
)
def test_scores_are_those_of_the_file(activation, behind):
    model = classifier(ending=(activation, *behind))
    adopted = take(model)
    assert (adopted.ending.activation, adopted.ending.scoring) == (activation, activation.lower())
    np.testing.assert_allclose(scores(adopted), original(model), atol=1e-6)


def test_scores_of_log_probabilities_are_their_exponentials():
    model = classifier(ending=("LogSoftmax", "Identity"))
    np.testing.assert_allclose(scores(take(model)), np.exp(original(model)), atol=1e-6)


def test_an_activation_in_the_middle_stays():
    model = classifier(ending=("Sigmoid", "Abs"))
    adopted = take(model)
    assert (adopted.ending.activation, adopted.ending.scoring) == (None, "softmax")
    np.testing.assert_allclose(run(adopted.model, IMAGES), original(model), atol=1e-6)


def test_a_branch_that_nothing_needs_reads_the_logits_too():
    model = classifier(ending=("Softmax",))
    model.graph.node.append(helper.make_node("Identity", ["g"], ["unused"], "dangling"))
    model.graph.node.append(
        helper.make_node("Sigmoid", ["ending_0"], ["unused too"], "dangling too")
    )
    adopted = take(model)
    np.testing.assert_allclose(scores(adopted), original(model), atol=1e-6)
    assert "unused" not in {name for node in adopted.model.graph.node for name in node.output}


@pytest.mark.parametrize("ending", [(), ("Identity",), ("Sigmoid",), ("Sigmoid", "Flatten")])
def test_one_output_means_two_classes(ending):
    model = classifier(classes=1, ending=ending)
    adopted = take(model)
    assert (adopted.classes, adopted.single) == (2, True)
    value = original(model)[:, 0].astype(np.float64)
    p = value if "Sigmoid" in ending else 1 / (1 + np.exp(-value))
    assert np.ptp(p) > 0.01
    np.testing.assert_allclose(scores(adopted), np.stack([1 - p, p], axis=1), atol=1e-6)


def test_one_output_as_it_is():
    model = classifier(classes=1, ending=("Sigmoid", "Abs"))
    p = original(model)[:, 0]
    np.testing.assert_allclose(scores(take(model, "none")), np.stack([1 - p, p], axis=1), atol=1e-6)


@pytest.mark.parametrize("activation", ["Softmax", "LogSoftmax"])
def test_a_softmax_over_one_output_is_refused(activation):
    with pytest.raises(TrtkitError, match=f"{activation} over a single output.*its logit alone"):
        take(classifier(classes=1, ending=(activation,)))


@pytest.mark.parametrize(
    ("ending", "stated", "scoring"),
    [
        ((), "sigmoid", "sigmoid"),
        ((), "none", "none"),
        ((), "softmax", "softmax"),
        (("Softmax",), "softmax", "softmax"),
        (("Softmax",), "none", "softmax"),
        (("Sigmoid",), "none", "sigmoid"),
    ],
)
def test_what_the_caller_states(ending, stated, scoring):
    adopted = take(classifier(ending=ending), stated)
    assert adopted.ending.scoring == scoring


@pytest.mark.parametrize(("activation", "stated"), [("Softmax", "sigmoid"), ("Sigmoid", "softmax")])
def test_what_contradicts_the_graph_is_refused(activation, stated):
    with pytest.raises(
        TrtkitError, match=f"ends in a {activation}.*not {stated}; leave --scores out"
    ):
        take(classifier(ending=(activation,)), stated)


def test_half_precision_scores_that_are_converted_at_the_end():
    model = classifier(ending=("Cast", "Softmax", "Cast"))
    first = next(node for node in model.graph.node if node.name == "ending_0")
    first.attribute[0].i = TensorProto.FLOAT16
    adopted = take(model)
    assert adopted.ending.activation == "Softmax"
    np.testing.assert_allclose(scores(adopted), original(model), atol=2e-3)
