"""Writing a precision into a stage's graph."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.errors import TrtkitError

HEAVY = ("Conv", "Gemm", "MatMul", "ConvTranspose")
FP16_MAX = 65504.0


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
        weight.CopyFrom(_half(weight))
        casts.append(_cast(weight.name, wide, TensorProto.FLOAT))
    if feature_input:
        value = graph.input[0]
        stored = _rename(value)
        casts.insert(0, _cast(stored, value.name, TensorProto.FLOAT))
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    nodes = [*casts, *graph.node]
    if feature_output:
        value = graph.output[0]
        stored = _rename(value)
        nodes.append(_cast(value.name, stored, TensorProto.FLOAT16))
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.node[:]
    graph.node.extend(nodes)


def _half(weight: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise TrtkitError(
            f"The weight {weight.name} reaches {largest:.3g}, past fp16's largest value "
            f"{FP16_MAX:.0f}; build with --fp32, or retrain with weight decay."
        )
    return numpy_helper.from_array(values.astype(np.float16), f"{weight.name}_fp16")


def _rename(value: onnx.ValueInfoProto) -> str:
    return f"{value.name}_fp16"


def _cast(source: str, target: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=dtype)
