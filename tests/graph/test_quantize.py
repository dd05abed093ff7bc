"""Q/DQ pairs written into a graph, as ONNX Runtime computes them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import classifier, make_model, run
from trtkit.graph.quantize import (
    SYMMETRIC,
    UNSIGNED,
    data_edges,
    kernel_edges,
    layers_of,
    quantize_graph,
    range_sources,
)
from trtkit.graph.split import split
from trtkit.graph.values import tensor_infos

FORMS = (SYMMETRIC, UNSIGNED)


def measured(model: onnx.ModelProto, value: np.ndarray) -> dict[str, float]:
    """The largest magnitude of every tensor that a node computes, and of the input."""
    every = onnx.ModelProto()
    every.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    own = {output.name for output in model.graph.output}
    every.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in own
    )
    session = onnxruntime.InferenceSession(
        every.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs = [output.name for output in session.get_outputs()]
    source = session.get_inputs()[0].name
    found = dict(zip(outputs, session.run(outputs, {source: value}), strict=True))
    return {
        **{name: float(np.abs(each).max()) for name, each in found.items()},
        source: float(np.abs(value).max()),
    }


def weights_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def with_positive_head(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model whose last weights have lost their signs."""
    positive = onnx.ModelProto()
    positive.CopyFrom(model)
    for weight in positive.graph.initializer:
        if weight.name == "fc":
            value = np.abs(numpy_helper.to_array(weight))
            weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    return positive


def photos(count: int = 8, size: int = 8, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@given(seed=st.integers(0, 500), classes=st.integers(2, 9), size=st.integers(4, 10))
@example(seed=122, classes=2, size=6)
@settings(max_examples=15, deadline=None)
def test_int8_is_close_to_fp32_and_not_fp32(form, seed, classes, size):
    model = classifier("N", size, classes, seed=seed)
    value = photos(size=size, seed=seed)
    expected = run(model, value)
    quantized, _ = quantize_graph(model, measured(model, value), kernel_edges(model.graph), form)
    onnx.checker.check_model(quantized, full_check=True)
    actual = run(quantized, value)
    # Two logits may nearly cancel out, so the error is compared with the products that are added up.
    error = np.linalg.norm(actual - expected) / np.linalg.norm(
        run(with_positive_head(model), value)
    )
    # Some five quantized values follow each other, of steps of 1/127 of the largest.
    assert 0 < error < 0.1


def test_a_convolution_is_what_numpy_says():
    weight = np.array([[[[0.5]], [[-1.0]]], [[[0.02]], [[0.03]]]], np.float32)
    bias = np.array([0.25, -0.125], np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    model = make_model([node], ["N", 2, 2, 2], ("y", ["N", 2, 2, 2]), {"w": weight, "b": bias})
    value = np.array([[[[0.1, -0.2], [1.0, 0.5]], [[2.0, -2.0], [0.0, 0.3]]]], np.float32)
    quantized, names = quantize_graph(model, {"x": 2.0}, {"conv": (0,)}, SYMMETRIC)
    assert names == {"x": "x_quantized"}
    steps = 2.0 / 127
    rounded = np.clip(np.rint(value / steps), -128, 127) * steps
    scale = np.array([1.0, 0.03]) / 127
    kernel = np.rint(weight / scale.reshape(2, 1, 1, 1)) * scale.reshape(2, 1, 1, 1)
    expected = np.einsum("oc,nchw->nohw", kernel[:, :, 0, 0], rounded) + bias.reshape(1, 2, 1, 1)
    np.testing.assert_allclose(run(quantized, value), expected, rtol=0, atol=1e-6)


def test_unsigned_values_begin_at_0_where_they_are_never_negative():
    model = classifier()
    value = photos()
    ranges = measured(model, value)
    quantized, names = quantize_graph(model, ranges, kernel_edges(model.graph), UNSIGNED)
    weights = weights_of(quantized)
    pairs = {
        node.input[0]: (weights[node.input[1]], weights[node.input[2]])
        for node in quantized.graph.node
        if node.op_type == "QuantizeLinear"
    }
    scale, zero = pairs["b"]  # behind a Relu
    assert (zero.dtype, int(zero)) == (np.uint8, 0)
    assert float(scale) == pytest.approx(ranges["b"] / 255)
    scale, zero = pairs["c"]  # a convolution's own output
    assert (zero.dtype, int(zero)) == (np.uint8, 128)
    assert float(scale) == pytest.approx(ranges["c"] / 127)
    assert names["b"] == "b_quantized"


def test_symmetric_pairs_are_as_tensorrt_wants_them():
    model = classifier()
    quantized, _ = quantize_graph(
        model, measured(model, photos()), kernel_edges(model.graph), SYMMETRIC
    )
    weights = weights_of(quantized)
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = weights[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    # Weights are floats in front of a pair, biases are floats, and 8.5 knows opset 17.
    assert weights["w1"].dtype == np.float32
    assert quantized.opset_import[0].version == 17


def test_weights_are_rounded_within_half_a_step_per_channel():
    model = classifier(seed=3)
    edges = kernel_edges(model.graph)
    quantized, _ = quantize_graph(model, measured(model, photos()), edges, UNSIGNED)
    before, after = weights_of(model), weights_of(quantized)
    assert "w1" not in after
    for name, axes in (("w1", (1, 2, 3)), ("w2", (1, 2, 3)), ("fc", (1,))):
        stored, scale = after[f"{name}_quantized"], after[f"{name}_scale"]
        assert stored.dtype == np.int8
        assert np.abs(stored).max(axis=axes).tolist() == [127] * len(scale)
        shape = (-1, *(1 for _ in axes))
        error = np.abs(stored * scale.reshape(shape) - before[name])
        assert (error <= 0.5001 * scale.reshape(shape)).all()


def test_a_dead_channel_stays_0():
    weight = np.zeros((2, 1, 1, 1), np.float32)
    weight[1] = 0.5
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    model = make_model([node], ["N", 1, 1, 1], ("y", ["N", 2, 1, 1]), {"w": weight})
    for form in FORMS:
        quantized, _ = quantize_graph(model, {"x": 1.0}, {"conv": (0,)}, form)
        value = np.full((1, 1, 1, 1), 0.5, np.float32)
        assert run(quantized, value).ravel().tolist() == pytest.approx([0.0, 0.25], abs=0.003)


def test_a_bias_too_large_for_int32_stays_float():
    weight = np.full((1, 1, 1, 1), 1e-7, np.float32)
    bias = np.array([1e3], np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    model = make_model([node], ["N", 1, 1, 1], ("y", ["N", 1, 1, 1]), {"w": weight, "b": bias})
    quantized, _ = quantize_graph(model, {"x": 1e-3}, {"conv": (0,)}, UNSIGNED)
    assert "b" in weights_of(quantized)
    assert run(quantized, np.zeros((1, 1, 1, 1), np.float32)).item() == pytest.approx(1e3)


@pytest.mark.parametrize(
    ("form", "dtype"), [(SYMMETRIC, TensorProto.INT8), (UNSIGNED, TensorProto.UINT8)]
)
def test_a_graph_is_cut_at_the_quantized_boundary(form, dtype):
    model = classifier()
    value = photos()
    edges = {name: own for name, own in kernel_edges(model.graph).items() if name != "add"}
    # The Add would read b in fp32, past the cut.
    quantized, names = quantize_graph(model, measured(model, value), edges, form, ["b"])
    sides = split(quantized, names["b"])
    assert tensor_infos(sides.prefix)[names["b"]].dtype == dtype
    assert sides.tail.graph.input[0].type.tensor_type.elem_type == dtype
    handed = run(sides.prefix, value)
    assert handed.itemsize == 1
    np.testing.assert_allclose(run(sides.tail, handed), run(quantized, value), rtol=1e-5, atol=1e-5)


def test_what_only_moves_values_shares_their_range():
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "gemm", transB=1),
    ]
    weight = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    model = make_model(nodes, ["N", 1, 4, 4], ("y", ["N", 2]), {"w": weight})
    assert range_sources(model.graph)["f"] == "r"
    # Behind the first heavy layer only, so that the image's own nodes stay float.
    assert kernel_edges(model.graph) == {"gemm": (0,)}
    edges = {"pool": (0,), "flatten": (0,), "gemm": (0,)}
    quantized, names = quantize_graph(model, {"r": 2.0}, edges, UNSIGNED)
    weights = weights_of(quantized)
    assert set(names) == {"r", "p", "f"}
    assert {float(weights[f"{name}_scale"]) for name in names} == {np.float32(2.0 / 255)}
    assert layers_of(model.graph, edges) == ["gemm"]


def test_without_a_range_a_layer_stays_float():
    model = classifier()
    value = photos()
    ranges = measured(model, value)
    del ranges["b"]
    quantized, names = quantize_graph(model, ranges, kernel_edges(model.graph), UNSIGNED)
    assert "b" not in names
    conv = next(node for node in quantized.graph.node if node.name == "conv2")
    assert list(conv.input) == ["b", "w2"]


def test_constants_are_no_edges():
    model = classifier()
    by_name = {node.name: node for node in model.graph.node}
    assert data_edges(model.graph, by_name["add"]) == (0, 1)
    assert data_edges(model.graph, by_name["gemm"]) == (0,)
    assert data_edges(model.graph, by_name["flatten"]) == (0,)
    two = make_model(
        [helper.make_node("MatMul", ["x", "x"], ["y"], "product")], [2, 2], ("y", [2, 2])
    )
    # int8 kernels multiply with constants.
    assert kernel_edges(two.graph) == {}


def test_weights_of_two_layers_are_quantized_once():
    weight = np.random.default_rng(0).standard_normal((2, 2, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w"], ["y"], "second"),
    ]
    model = make_model(nodes, ["N", 2, 2, 2], ("y", ["N", 2, 2, 2]), {"w": weight})
    edges = kernel_edges(model.graph)
    for form in FORMS:
        quantized, _ = quantize_graph(model, {"x": 1.0, "a": 3.0}, edges, form)
        convs = [node for node in quantized.graph.node if node.op_type == "Conv"]
        assert convs[0].input[1] == convs[1].input[1] != "w"
    # One that stays float keeps its weights.
    quantized, _ = quantize_graph(model, {"x": 1.0, "a": 3.0}, {"first": (0,)}, UNSIGNED)
    convs = {node.name: node for node in quantized.graph.node if node.op_type == "Conv"}
    assert list(convs["second"].input) == ["a", "w"]
