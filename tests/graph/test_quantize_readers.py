"""What only moves values is quantized for those that read it quantized, and for no one else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.graph.canonical import graph_digest
from trtkit.graph.quantize import (
    SAME_RANGE,
    SYMMETRIC,
    UNSIGNED,
    Edges,
    kernel_edges,
    layers_of,
    quantize_graph,
    with_readers,
)
from trtkit.graph.split import split
from trtkit.graph.values import tensor_infos

FORMS = (SYMMETRIC, UNSIGNED)
RANDOM = np.random.default_rng(3)
WEIGHTS = {
    "w": RANDOM.standard_normal((3, 3, 1, 1)).astype(np.float32),
    "fc": RANDOM.standard_normal((12, 5)).astype(np.float32),
    "flat": np.array([0, -1], np.int64),
    "axes": np.array([2, 3], np.int64),
}
SHAPE = ["N", 3, 4, 4]
HALVED = {"kernel_shape": [2, 2], "strides": [2, 2]}


def node(kind: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    """A node that has the name of what it gives."""
    return helper.make_node(kind, inputs.split(), [output], output, **attributes)


def graph(*nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [])


def pooled(last: str = "Flatten") -> onnx.ModelProto:
    """Convolution, pool, convolution, and a Gemm behind what makes vectors."""
    flat = node("Flatten", "c", "f") if last == "Flatten" else node("Reshape", "c flat", "f")
    nodes = [
        node("Conv", "x w", "a"),
        node("MaxPool", "a", "b", **HALVED),
        node("Conv", "b w", "c"),
        flat,
        node("Gemm", "f fc", "y"),
    ]
    used = {name: WEIGHTS[name] for name in ("w", "fc", *(["flat"] if last == "Reshape" else []))}
    return make_model(nodes, SHAPE, ("y", ["N", 5]), used)


def without_layers(model: onnx.ModelProto, keep: Sequence[str] = ()) -> dict[str, tuple[int, ...]]:
    """The edges of all kernels, but of those that compute only those that are named."""
    edges = kernel_edges(model.graph)
    layers = set(layers_of(model.graph, edges)).difference(keep)
    return {name: own for name, own in edges.items() if name not in layers}


def all_ranges(model: onnx.ModelProto) -> dict[str, float]:
    return dict.fromkeys(tensor_infos(model), 3.0)


def image(model: onnx.ModelProto) -> np.ndarray:
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    return np.random.default_rng(7).standard_normal((2, 3, size, size)).astype(np.float32)


MODELS = {
    "flatten": pooled,
    "reshape": lambda: pooled("Reshape"),
    "skip": classifier,
    "softmax": lambda: classifier(softmax=True),
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("kind", MODELS)
def test_with_all_layers_float_it_computes_exactly_fp32(kind, form):
    model = MODELS[kind]()
    edges = without_layers(model)
    # The flattening is left, which would round what it takes.
    assert edges
    assert with_readers(model.graph, edges) == {}
    quantized, names = quantize_graph(model, all_ranges(model), edges, form)
    assert names == {}
    assert list(quantized.graph.node) == list(model.graph.node)
    assert list(quantized.graph.initializer) == list(model.graph.initializer)
    np.testing.assert_array_equal(run(quantized, image(model)), run(model, image(model)))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_one_layer_alone_is_int8_with_what_is_in_front_of_it(form):
    model = pooled()
    # The last convolution: the pool in front of it, but not the flattening behind it.
    quantized, names = quantize_graph(model, all_ranges(model), without_layers(model, "c"), form)
    assert set(names) == {"a", "b"}
    # The Gemm.
    quantized, names = quantize_graph(model, all_ranges(model), without_layers(model, "y"), form)
    assert set(names) == {"c", "f"}
    assert (run(quantized, image(model)) != run(model, image(model))).any()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_where_the_graph_is_cut_it_is_quantized_without_layers(form):
    model = pooled()
    quantized, names = quantize_graph(
        model, all_ranges(model), without_layers(model), form, boundaries=["b"]
    )
    # The pool in front of the cut is int8 as it would be with any tail.
    assert set(names) == {"a", "b"}
    kinds = [each.op_type for each in quantized.graph.node]
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 2


MOVING = {
    "MaxPool": node("MaxPool", "a", "b", **HALVED),
    "Flatten": node("Flatten", "a", "b"),
    "Reshape": node("Reshape", "a flat", "b"),
    "Squeeze": node("Squeeze", "a axes", "b"),
    "Unsqueeze": node("Unsqueeze", "a axes", "b"),
    "Identity": node("Identity", "a", "b"),
    "Dropout": node("Dropout", "a", "b"),
}


def test_all_that_move_values_are_known():
    assert set(MOVING) == set(SAME_RANGE)


@pytest.mark.parametrize("kind", MOVING)
def test_what_moves_values_goes_without_a_quantized_reader(kind):
    both = graph(MOVING[kind], node("Gemm", "b fc", "y"))
    assert with_readers(both, {"b": (0,)}) == {}
    assert with_readers(both, {"b": (0,), "y": (0,)}) == {"b": (0,), "y": (0,)}
    # Nothing at all reads it.
    assert with_readers(graph(MOVING[kind]), {"b": (0,)}) == {}


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "Add", "GlobalAveragePool", "AveragePool"])
def test_what_computes_stays(kind):
    alone = graph(node(kind, "a b", "y"))
    assert with_readers(alone, {"y": (0, 1)}) == {"y": (0, 1)}


def test_what_is_not_asked_for_is_not_added():
    assert with_readers(pooled().graph, {}) == {}
    assert with_readers(pooled().graph, {"c": (0,)}) == {"c": (0,)}


def test_a_row_goes_or_stays_as_one():
    row = graph(
        node("MaxPool", "a", "b"),
        node("Identity", "b", "c"),
        node("Flatten", "c", "d"),
        node("Gemm", "d fc", "y"),
    )
    moving = dict.fromkeys("bcd", (0,))
    assert with_readers(row, moving) == {}
    assert with_readers(row, moving | {"y": (0,)}) == moving | {"y": (0,)}


def test_one_quantized_reader_of_several_is_enough():
    forked = graph(
        node("MaxPool", "a", "b"),
        node("Conv", "b w", "c"),
        node("Conv", "b w", "d"),
    )
    for reader in "cd":
        edges = {"b": (0,), reader: (0,)}
        assert with_readers(forked, edges) == edges


def test_a_reader_behind_a_float_operator_does_not_count():
    behind = graph(node("MaxPool", "a", "b"), node("Relu", "b", "c"), node("Conv", "c w", "y"))
    assert with_readers(behind, {"b": (0,), "y": (0,)}) == {"y": (0,)}


def test_only_what_a_reader_takes_quantized_counts():
    summed = graph(node("MaxPool", "a", "b"), node("Add", "a b", "y"))
    assert with_readers(summed, {"b": (0,), "y": (0,)}) == {"y": (0,)}
    for own in ((1,), (0, 1)):
        assert with_readers(summed, {"b": (0,), "y": own}) == {"b": (0,), "y": own}


def test_what_was_asked_for_is_left_as_it_was():
    edges = without_layers(pooled())
    before = dict(edges)
    with_readers(pooled().graph, edges)
    assert edges == before


KINDS = ("Conv", "Relu", "Add", "MaxPool", "Identity", "Dropout")


@st.composite
def graphs(draw) -> tuple[list[onnx.NodeProto], Edges]:
    """Operators any of whose earlier values may be read, and edges of some."""
    nodes, values, edges = [], ["x"], {}
    for number in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(KINDS))
        name = f"v{number}"
        inputs = [draw(st.sampled_from(values)) for _ in range(2 if kind == "Add" else 1)]
        weights = ["w"] if kind == "Conv" else []
        attributes = {"kernel_shape": [3, 3], "pads": [1] * 4} if kind == "MaxPool" else {}
        nodes.append(node(kind, " ".join([*inputs, *weights]), name, **attributes))
        if kind != "Relu" and draw(st.booleans()):
            edges[name] = tuple(range(len(inputs)))
        values.append(name)
    return nodes, edges


@settings(max_examples=150)
@given(graphs())
def test_each_goes_where_no_path_leads_to_a_layer_that_is_quantized(drawn):
    nodes, edges = drawn

    def wanted(tensor: str) -> bool:
        """Whether a layer reads the tensor quantized, or what only moves it to one that does."""
        return any(
            each.op_type not in SAME_RANGE or wanted(each.output[0])
            for each in nodes
            if each.name in edges and tensor in each.input
        )

    moves = {each.name for each in nodes if each.op_type in SAME_RANGE}
    assert with_readers(graph(*nodes), edges) == {
        name: own for name, own in edges.items() if name not in moves or wanted(name)
    }


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@settings(max_examples=25, deadline=None)
@given(drawn=graphs())
def test_where_only_moving_is_asked_for_nothing_changes(drawn, form):
    nodes, edges = drawn
    kinds = {each.name: each.op_type for each in nodes}
    moving = {name: own for name, own in edges.items() if kinds[name] in SAME_RANGE}
    used = {"w": WEIGHTS["w"]} if "Conv" in kinds.values() else {}
    model = make_model(nodes, SHAPE, (nodes[-1].output[0], SHAPE), used)
    quantized, names = quantize_graph(model, all_ranges(model), moving, form)
    assert names == {}
    np.testing.assert_array_equal(run(quantized, image(model)), run(model, image(model)))


def test_a_prefix_ends_alike_whatever_its_tails_are():
    """A pooling at the boundary is int8 although the tail's first layer stays float."""
    weight = np.random.default_rng(0).standard_normal((2, 2, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv1"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w"], ["y"], "conv2"),
    ]
    model = make_model(nodes, ["N", 2, 4, 4], ("y", ["N", 2, 2, 2]), {"w": weight})
    ranges = {"x": 1.0, "r": 2.0}
    every = {"conv1": (0,), "pool": (0,), "conv2": (0,)}
    prefixes = []
    for edges in (every, {name: own for name, own in every.items() if name != "conv2"}):
        quantized, names = quantize_graph(model, ranges, edges, UNSIGNED, ["p"])
        prefixes.append(graph_digest(split(quantized, names["p"]).prefix))
    assert prefixes[0] == prefixes[1]
    assert with_readers(model.graph, {"pool": (0,)}) == {}
    assert with_readers(model.graph, {"pool": (0,)}, ["p"]) == {"pool": (0,)}
