"""Which values are never negative."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.graph.quantize import nonnegative

SHAPE = [2, 3, 4, 4]
WEIGHTS = {
    "low": np.float32(0.0),
    "minus": np.float32(-1.0),
    "six": np.float32(6.0),
    "positive": np.full((1, 3, 1, 1), 2.0, np.float32),
    "same": np.array([0, 0, 0, 0], np.int64),
    "axes": np.array([0], np.int64),
    "last": np.array([-1], np.int64),
    "before": np.array([-9], np.int64),
    "along": np.array([1], np.int64),
    "w": np.full((3, 3, 1, 1), -1.0, np.float32),
}


def found(*nodes: onnx.NodeProto) -> set[str]:
    """Of a graph with the image x."""
    weights = [numpy_helper.from_array(np.asarray(v), name) for name, v in WEIGHTS.items()]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)
    return nonnegative(helper.make_graph(list(nodes), "g", [image], [], weights))


def node(kind: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


RELU = node("Relu", "x", "r")


def test_a_classifier_of_others():
    # c is a convolution's, d its sum with what is not negative: both may be below 0.
    assert nonnegative(classifier().graph) == {"b"}
    assert nonnegative(classifier(softmax=True).graph) == {"b", "p"}
    assert nonnegative(classifier(constant_nodes=True).graph) == {"b"}


@pytest.mark.parametrize(
    "kind", ["Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt"]
)
def test_operators_that_give_nothing_negative(kind):
    assert found(node(kind, "x", "y")) == {"y"}


@pytest.mark.parametrize(
    "kind", ["LeakyRelu", "Elu", "Tanh", "HardSwish", "Neg", "Log", "Identity", "MaxPool", "Cast"]
)
def test_operators_that_may(kind):
    assert found(node(kind, "x", "y")) == set()


@pytest.mark.parametrize(
    "kind",
    [
        "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Squeeze", "Transpose", "Identity",
        "Dropout", "ReduceMean", "ReduceMax", "GlobalMaxPool",
    ],
)  # fmt: skip
def test_what_moves_or_averages_keeps_the_sign(kind):
    assert found(RELU, node(kind, "r", "y")) == {"r", "y"}
    assert found(node(kind, "x", "y")) == set()


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("Reshape", "same"),
        ("Unsqueeze", "axes"),
        # These are below 0 themselves.
        ("Slice", "last before along last"),
        ("ReduceMean", "last"),
        ("ReduceMax", "last"),
    ],
)
def test_the_shape_that_is_asked_for_does_not_matter(kind, weight):
    assert found(RELU, node(kind, f"r {weight}", "y")) == {"r", "y"}
    assert found(node(kind, f"x {weight}", "y")) == set()


@pytest.mark.parametrize("kind", ["Add", "Mul", "Concat", "Max"])
def test_of_several_values_none_may_be_negative(kind):
    other = node("Sigmoid", "x", "s")
    assert found(RELU, other, node(kind, "r s", "y")) == {"r", "s", "y"}
    assert found(RELU, node(kind, "r x", "y")) == {"r"}
    assert found(RELU, node(kind, "x r", "y")) == {"r"}
    # Weights are not looked at.
    assert found(RELU, node(kind, "r positive", "y")) == {"r"}


@pytest.mark.parametrize("kind", ["Sub", "Div", "Conv"])
def test_other_operators_on_such_values_may_give_negative_ones(kind):
    assert found(RELU, node(kind, "r w", "y")) == {"r"}
    other = node("Sigmoid", "x", "s")
    assert found(RELU, other, node(kind, "r s", "y")) == {"r", "s"}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("x low six", {"y"}),
        ("x low", {"y"}),
        ("x minus six", set()),
        ("x", set()),
        ("x elsewhere six", set()),
    ],
)
def test_a_clip_that_begins_at_zero(inputs, expected):
    assert found(node("Clip", inputs, "y")) == expected


def test_a_clip_without_a_lower_bound():
    clip = helper.make_node("Clip", ["x", "", "six"], ["y"])
    assert found(clip) == set()
    clip = helper.make_node("Clip", ["r", "", "six"], ["y"])
    assert found(RELU, clip) == {"r", "y"}


def test_only_the_first_output_is_a_value():
    assert found(RELU, node("Dropout", "r", "y mask")) == {"r", "y"}
    assert found(RELU, node("MaxPool", "r", "y places")) == {"r", "y"}


UNARY = (
    "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Tanh", "Neg", "LeakyRelu", "MaxPool",
    "AveragePool", "Identity", "Transpose", "Clip", "Conv", "Reshape", "Slice",
)  # fmt: skip
BINARY = ("Add", "Mul", "Max", "Sub", "Min")
# What gives one value per channel, which another value is then added to.
REDUCED = ("ReduceMean", "ReduceMax", "GlobalMaxPool", "GlobalAveragePool")


@st.composite
def graphs(draw):
    """Graphs of a few operators, any of whose earlier values may be read."""
    nodes = []
    values = ["x"]
    for number in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(UNARY + BINARY + REDUCED))
        inputs = [draw(st.sampled_from(values))]
        attributes = {}
        if kind in BINARY:
            inputs.append(draw(st.sampled_from([*values, "positive", "minus"])))
        elif kind == "Clip":
            inputs += draw(
                st.sampled_from([["low", "six"], ["minus", "six"], ["", "six"], ["low"]])
            )
        elif kind == "Conv":
            inputs.append("w")
        elif kind == "Reshape":
            inputs.append("same")
        elif kind == "Transpose":
            attributes = {"perm": [0, 1, 3, 2]}
        elif kind == "Slice":
            # The channels from the last to the first.
            inputs += ["last", "before", "along", "last"]
        elif kind in REDUCED:
            if kind.startswith("Reduce"):
                attributes = {"axes": [2, 3], "keepdims": 1}
            nodes.append(helper.make_node(kind, inputs, [f"r{number}"], **attributes))
            kind, attributes = "Add", {}
            inputs = [f"r{number}", draw(st.sampled_from(values))]
        elif kind in ("MaxPool", "AveragePool"):
            attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node(kind, inputs, [f"v{number}"], **attributes))
        values.append(f"v{number}")
    return nodes


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 2**16))
def test_what_is_never_negative_is_not_when_it_runs(nodes, seed):
    image = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32) * 3
    last = nodes[-1].output[0]
    used = {name for each in nodes for name in each.input}
    weights = {name: np.asarray(v) for name, v in WEIGHTS.items() if name in used}
    model = make_model(nodes, SHAPE, (last, SHAPE), weights)
    for name in nonnegative(model.graph):
        model.graph.output[0].name = name
        values = run(model, image)
        assert not (values < 0).any(), name
