"""Writing a precision into a stage's graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from trtkit.errors import TrtkitError
from trtkit.graph.values import producers, set_nodes

HEAVY = ("Conv", "Gemm", "MatMul", "ConvTranspose")
FP16_MAX = 65504.0
FP16_SMALLEST = np.finfo(np.float16).smallest_subnormal


def store_half(stage: onnx.ModelProto, *, feature_input: bool, feature_output: bool) -> None:
    """Keep weights and feature maps as fp16 and compute in fp32, in place.

    For backends without fp16 arithmetic: half the file, half the feature map, the speed of fp32.
    The weights of heavy layers become fp16 with a cast behind them; `feature_input` and
    `feature_output` say which end of the stage is a feature map and so fp16. The image stays uint8,
    the logits fp32. Raises TrtkitError, naming the weight, when one does not fit fp16.
    """
    graph = stage.graph
    heavy = {name for node in graph.node if node.op_type in HEAVY for name in node.input[1:]}
    casts = []
    for weight in graph.initializer:
        if weight.name not in heavy or weight.data_type != TensorProto.FLOAT:
            continue
        wide = weight.name
        weight.CopyFrom(half_weight(weight))
        casts.append(cast_node(weight.name, wide, TensorProto.FLOAT))
    _put_first(graph, casts)
    half_ends(graph, feature_input=feature_input, feature_output=feature_output)


def half_ends(graph: onnx.GraphProto, *, feature_input: bool, feature_output: bool) -> None:
    """Take and give feature maps as fp16 with a cast inside, in place; all else stays as it is."""
    if feature_input and _is_float(graph.input[0]):
        value = graph.input[0]
        stored = f"{value.name}_fp16"
        _put_first(graph, [cast_node(stored, value.name, TensorProto.FLOAT)])
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    if feature_output and _is_float(graph.output[0]):
        value = graph.output[0]
        stored = f"{value.name}_fp16"
        graph.node.append(cast_node(value.name, stored, TensorProto.FLOAT16))
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def heavy_precisions(graph: onnx.GraphProto, rest: str) -> dict[str, str]:
    """What each heavy node computes in: `int8` where its input was dequantized, else `rest`."""
    made_by = producers(graph.node)
    precisions = {}
    for node in graph.node:
        if node.op_type in HEAVY:
            source = made_by.get(node.input[0])
            quantized = source is not None and source.op_type == "DequantizeLinear"
            precisions[node.name] = "int8" if quantized else rest
    return precisions


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, in place: messages and the engine inspector speak of nodes."""
    all_names = {node.name for node in graph.node}
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in names:
            name = f"{node.name or node.op_type}_{index}"
            while name in all_names:
                name += "_"
            node.name = name
            all_names.add(name)
        names.add(node.name)


def raise_opset(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite a graph of an older opset for `opset`, in place. Raises TrtkitError when it cannot be."""
    current = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if current >= opset:
        return
    try:
        raised = version_converter.convert_version(model, opset)
    except (version_converter.ConvertError, RuntimeError) as error:
        raise TrtkitError(
            f"The graph cannot be brought from opset {current} to {opset} ({error}); export it with "
            f"opset {opset}."
        ) from error
    model.CopyFrom(raised)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _put_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    set_nodes(graph, [*nodes, *graph.node])


def half_weight(weight: onnx.TensorProto, *, positive: bool = False) -> onnx.TensorProto:
    """The fp16 form of a weight, called NAME_fp16. Raises TrtkitError, naming it, when it does not fit.

    `positive`: what is above 0 stays so. The scale of a dead channel is smaller than fp16's smallest
    value, and TensorRT refuses a scale of 0.
    """
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise TrtkitError(
            f"The weight {weight.name} reaches {largest:.3g}, past fp16's largest value "
            f"{FP16_MAX:.0f}; build with --fp32, or retrain with weight decay."
        )
    half = values.astype(np.float16)
    if positive:
        half = np.where((values > 0) & (half == 0), FP16_SMALLEST, half)
    return numpy_helper.from_array(half, f"{weight.name}_fp16")


def cast_node(source: str, target: str, dtype: int) -> onnx.NodeProto:
    """A Cast of the tensor `source` to `target`, named after that; `dtype` is a TensorProto number."""
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=dtype)
