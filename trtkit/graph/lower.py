"""Bringing a graph to the operators and the opset that every supported TensorRT can parse."""

from __future__ import annotations

import onnx
from onnx import defs, numpy_helper

from trtkit.graph.values import set_weights

# TensorRT 8.5's parser reads opset 17 at most; torch's exporter writes 18 at least.
OPSET = 17


def lower(model: onnx.ModelProto) -> None:
    """Rewrite what has a form in `OPSET`, then declare that opset, in place.

    Leaves the opset as it is when an operator of the graph changed its meaning since.
    """
    _global_average_pool(model.graph)
    drop_notes(model)
    current = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if current.version <= OPSET:
        return
    used = {node.op_type for node in model.graph.node}
    since = {op: defs.get_schema(op, current.version).since_version for op in used}
    if all(since[op] <= OPSET or _same_since(op) for op in used):
        current.version = OPSET
        # The oldest ONNX Runtime and TensorRT in use read IR version 8 with this opset.
        model.ir_version = 8


def _same_since(op_type: str) -> bool:
    # These gained only types (bfloat16, float8, int4) after opset 17, nothing that is written here.
    return op_type in {"Cast", "Constant", "Flatten", "Identity", "Reshape", "Shape", "Transpose"}


def _global_average_pool(graph: onnx.GraphProto) -> None:
    """ReduceMean over height and width takes its axes as an input from 18: the pool never did."""
    constants = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        axes = sorted(int(axis) for axis in numpy_helper.to_array(constants[node.input[1]]))
        attributes = {item.name: item.i for item in node.attribute}
        if axes in ([2, 3], [-2, -1]) and attributes.get("keepdims", 1) == 1:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]


def drop_notes(model: onnx.ModelProto) -> None:
    """Remove documentation strings and exporters' notes, and weights that no node reads, in place.

    torch's exporter records stack traces: paths of the exporting machine have no place in the file.
    """
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    for item in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ):
        item.doc_string = ""
        del item.metadata_props[:]
    set_weights(model.graph, model.graph.initializer)
