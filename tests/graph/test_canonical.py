"""The hash of what a graph computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model
from trtkit.graph.canonical import first_difference, graph_digest


def renamed(model: onnx.ModelProto, tag: str) -> onnx.ModelProto:
    """The same graph with other names for everything and with notes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outside = {value.name for value in copy.graph.output}
    for node in copy.graph.node:
        node.name = f"{tag}{node.name}"
        node.doc_string = "from /home/somebody/train.py"
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name not in outside:
                    names[index] = f"{tag}{name}"
    for value in (*copy.graph.initializer, *copy.graph.input):
        value.name = f"{tag}{value.name}"
    copy.producer_name = tag
    return copy


def test_names_notes_and_order_do_not_count():
    model = classifier()
    other = renamed(model, "z")
    weights = list(other.graph.initializer)
    del other.graph.initializer[:]
    other.graph.initializer.extend(reversed(weights))
    assert graph_digest(other) == graph_digest(model)
    assert first_difference(model, other) is None


def test_the_order_of_independent_nodes_does_not_count():
    def build(flip: bool) -> onnx.ModelProto:
        left = helper.make_node("Relu", ["x"], ["a"])
        right = helper.make_node("Sigmoid", ["x"], ["b"])
        branches = [right, left] if flip else [left, right]
        return make_model(
            [*branches, helper.make_node("Sub", ["a", "b"], ["y"])], ["n", 2], ("y", ["n", 2])
        )

    assert graph_digest(build(False)) == graph_digest(build(True))


def test_the_order_of_inputs_counts():
    def build(first: str, second: str) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Sigmoid", ["x"], ["b"]),
            helper.make_node("Sub", [first, second], ["y"]),
        ]
        return make_model(nodes, ["n", 2], ("y", ["n", 2]))

    assert graph_digest(build("a", "b")) != graph_digest(build("b", "a"))


@given(st.sampled_from(["w1", "w2", "fc"]), st.integers(0, 19), st.integers(0, 31))
@settings(max_examples=40, deadline=None)
def test_every_bit_of_every_weight_counts(name, position, bit):
    model, changed = classifier(), classifier()
    weight = next(value for value in changed.graph.initializer if value.name == name)
    values = numpy_helper.to_array(weight).copy()
    values.reshape(-1).view(np.uint32)[position] ^= np.uint32(1 << bit)
    weight.CopyFrom(numpy_helper.from_array(values, name))
    assert graph_digest(changed) != graph_digest(model)
    assert first_difference(model, changed) == name


def test_the_way_weights_are_encoded_does_not_count():
    model, other = classifier(), classifier()
    weight = next(value for value in other.graph.initializer if value.name == "fc")
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(helper.make_tensor("fc", 1, values.shape, values.reshape(-1).tolist()))
    assert not weight.raw_data
    assert graph_digest(other) == graph_digest(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, 0),
        lambda m: setattr(m.graph.node[1], "op_type", "LeakyRelu"),
        lambda m: setattr(m.opset_import[0], "version", 18),
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 10),
    ],
)
def test_attributes_operators_opset_and_types_count(change):
    model, changed = classifier(), classifier()
    change(changed)
    assert graph_digest(changed) != graph_digest(model)


def test_the_first_difference_is_the_first_in_the_graph():
    assert first_difference(classifier(seed=0), classifier(seed=1)) == "w1"
    other = classifier()
    other.graph.node[1].op_type = "Sigmoid"
    assert first_difference(classifier(), other) == "node relu1"
