"""Types and shapes of a graph's tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.graph.onnx_graphs import classifier, make_model
from tests.quantized import quantize
from trtkit.graph.values import SHAPE_ELEMENTS, TensorInfo, tensor_infos


def inferred(model):
    """What ONNX infers from the whole model, weights and all."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found = {
        value.name: TensorInfo(value.name, value.data_type, tuple(value.dims))
        for value in graph.initializer
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
        found[value.name] = TensorInfo(value.name, tensor.elem_type, shape)
    return found


@pytest.mark.parametrize("name", ["resnet18", "quantized"])
def test_leaving_large_weights_out_changes_nothing(exports, tmp_path, name):
    path = exports / "resnet18.onnx"
    if name == "quantized":
        path = quantize(path, tmp_path / "q.onnx")
    model = onnx.load(path)
    assert any(np.prod(w.dims) > SHAPE_ELEMENTS for w in model.graph.initializer)
    before = model.SerializeToString(deterministic=True)
    found = tensor_infos(model)
    assert found == inferred(model)
    assert found["block_2"] == TensorInfo("block_2", TensorProto.FLOAT, (None, 8, 16, 16))
    assert model.SerializeToString(deterministic=True) == before


def test_shapes_that_come_from_values_are_known():
    for model in (classifier(reshape=[0, 4]), classifier(1, reshape=[1, 4]), classifier(size=16)):
        assert tensor_infos(model) == inferred(model)


def test_a_large_weight_that_is_an_input_too():
    nodes = [helper.make_node("Conv", ["x", "w"], ["g"], "conv", pads=[1, 1, 1, 1])]
    weight = np.zeros((40, 3, 3, 3), np.float32)
    model = make_model(nodes, ["N", 3, 8, 8], ("g", ["N", 40, 8, 8]), {"w": weight})
    assert weight.size > SHAPE_ELEMENTS
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [40, 3, 3, 3]))
    assert tensor_infos(model) == inferred(model)
    assert tensor_infos(model)["g"].per_image == (40, 8, 8)
