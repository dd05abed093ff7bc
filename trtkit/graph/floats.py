"""A graph of half or double precision in fp32, which is what all exports are."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.DOUBLE)


def is_half(graph: onnx.GraphProto) -> bool:
    """Whether some weight of the graph, or a cast in it, is float16."""
    weights = any(value.data_type == TensorProto.FLOAT16 for value in graph.initializer)
    return weights or any(
        attribute.name == "to" and attribute.i == TensorProto.FLOAT16
        for node in graph.node
        for attribute in node.attribute
    )


def to_single(graph: onnx.GraphProto) -> None:
    """Make every float16 and double tensor of the graph, and of graphs inside it, fp32, in place.

    Weights of float16 keep their values; those of double are rounded.
    """
    for value in graph.initializer:
        _widen(value)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i in OTHER_FLOATS:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == AttributeProto.GRAPH:
                to_single(attribute.g)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in OTHER_FLOATS:
        values = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
