"""Which values of a graph can never be negative, by the operators that make them."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

ALWAYS = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt")
# Not negative where nothing they take is; weights are not looked at.
INHERITED = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Unsqueeze",
    "Transpose", "Slice", "ReduceMean", "ReduceMax", "GlobalMaxPool", "Identity", "Dropout",
)  # fmt: skip
OF_ALL = ("Add", "Mul", "Concat", "Max")


def nonnegative(graph: onnx.GraphProto) -> set[str]:
    """The names of the tensors that are 0 or more whatever the image is."""
    constants = {weight.name: weight for weight in graph.initializer}
    found: set[str] = set()
    for node in graph.node:
        if _positive(node, found, constants):
            found.update(node.output[:1])
    return found


def _positive(
    node: onnx.NodeProto, found: set[str], constants: dict[str, onnx.TensorProto]
) -> bool:
    if node.op_type in ALWAYS:
        return True
    if node.op_type == "Clip":
        low = constants.get(node.input[1]) if len(node.input) > 1 else None
        return node.input[0] in found or (
            low is not None and bool((numpy_helper.to_array(low) >= 0).all())
        )
    if node.op_type in INHERITED:
        return node.input[0] in found
    return node.op_type in OF_ALL and found.issuperset(node.input)
