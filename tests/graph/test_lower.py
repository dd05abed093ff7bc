"""What exporters write that a cut or an old parser cannot take, in its other form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import run
from trtkit.graph.lower import lower
from trtkit.graph.split import split

IMAGES = np.random.default_rng(3).standard_normal((3, 2, 4, 4)).astype(np.float32)


def flattened(sizes: list[int], *, end: int = 1) -> onnx.ModelProto:
    """relu, then a flatten as torch 2.9 exports it: the batch comes from the image's shape."""
    nodes = [
        helper.make_node("Shape", ["image"], ["batch"], start=0, end=end),
        helper.make_node("Relu", ["image"], ["map"]),
        helper.make_node("Concat", ["batch", "sizes"], ["shape"], axis=0),
        helper.make_node("Reshape", ["map", "shape"], ["logits"], allowzero=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 32])],
        [numpy_helper.from_array(np.array(sizes, np.int64), "sizes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_flatten_by_the_images_batch_can_be_cut():
    model = flattened([32])
    expected = run(model, IMAGES)
    lower(model)
    np.testing.assert_array_equal(run(model, IMAGES), expected)
    assert [node.op_type for node in model.graph.node] == ["Relu", "Reshape"]
    sides = split(model, "map")
    np.testing.assert_array_equal(run(sides.tail, np.maximum(IMAGES, 0)), expected)


@pytest.mark.parametrize(("sizes", "end"), [([-1], 1), ([4, 4], 2)])
def test_other_shapes_stay_as_they_are(sizes, end):
    model = flattened(sizes, end=end)
    expected = run(model, IMAGES)
    lower(model)
    np.testing.assert_array_equal(run(model, IMAGES), expected)
    assert "Shape" in [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("op_type", "opset", "lowered"),
    [("Relu", 13, 13), ("Relu", 17, 17), ("Relu", 20, 17), ("Gelu", 20, 20)],
)
def test_a_newer_opset_becomes_17_where_the_operators_allow_it(op_type, opset, lowered):
    node = helper.make_node(op_type, ["image"], ["logits"])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2, 4, 4])
        for name in ("image", "logits")
    ]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    lower(model)
    assert model.opset_import[0].version == lowered
    assert model.ir_version == (8 if lowered < opset else 9)
