"""Counting the floating point operations of a graph's heavy layers."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx

from trtkit.graph.values import TensorInfo, tensor_infos


def flops_share(model: onnx.ModelProto, names: Collection[str]) -> float:
    """The part, 0 to 1, of the model's FLOPs that is in the nodes of those names."""
    infos = tensor_infos(model)
    flops = {node.name: node_flops(node, infos) for node in model.graph.node}
    return sum(each for name, each in flops.items() if name in names) / (sum(flops.values()) or 1)


def node_flops(node: onnx.NodeProto, infos: dict[str, TensorInfo]) -> int:
    """FLOPs of a node per image, a multiply-add counted as two; zero for all but heavy layers.

    Convolution: 2 x outputs x (input channels / groups) x kernel elements, which is 2 x outputs x
    the weights of one output channel. Gemm and MatMul: 2 x outputs x the summed dimension.
    Zero too when a shape is unknown.
    """
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    output, weight = infos.get(node.output[0]), infos.get(node.input[1])
    if output is None or weight is None or output.elements is None:
        return 0
    if node.op_type == "Conv":
        summed = math.prod(size or 0 for size in weight.shape[1:])
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        summed = weight.shape[-1 if transposed else -2] or 0 if len(weight.shape) > 1 else 0
    return 2 * output.elements * summed
