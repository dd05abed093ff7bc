"""Bringing a graph to the operators and the opset that every supported TensorRT can parse."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import defs, numpy_helper

from trtkit.graph.values import ancestors, producers, set_nodes, set_weights

# TensorRT 8.5's parser reads opset 17 at most; torch's exporter writes 18 at least.
OPSET = 17


def lower(model: onnx.ModelProto) -> None:
    """Rewrite what has a form in `OPSET`, then declare that opset, in place.

    Leaves the opset as it is when an operator of the graph changed its meaning since.
    """
    _global_average_pool(model.graph)
    _keep_batch(model.graph)
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


def _keep_batch(graph: onnx.GraphProto) -> None:
    """A Reshape to (the image's batch, sizes) infers the batch from the sizes instead.

    The exporter of torch 2.9 writes the former for `flatten`. A graph whose end reads the image's shape
    cannot be cut: the tail takes the feature map alone.
    """
    made = producers(graph.node)
    constants = {value.name: value for value in graph.initializer}
    weights = list(graph.initializer)
    for node in graph.node:
        concat = made.get(node.input[1]) if node.op_type == "Reshape" else None
        if concat is None or concat.op_type != "Concat" or len(concat.input) < 2:
            continue
        first, *sizes = concat.input
        if not _is_batch(made.get(first), graph) or not all(name in constants for name in sizes):
            continue
        values = [numpy_helper.to_array(constants[name]).reshape(-1) for name in sizes]
        if any((value <= 0).any() for value in values):
            continue
        name = f"{node.output[0]}_shape"
        shape = np.concatenate([np.array([-1], np.int64), *values])
        weights.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
    set_nodes(graph, ancestors(graph, [value.name for value in graph.output]))
    set_weights(graph, weights)


def _is_batch(node: onnx.NodeProto | None, graph: onnx.GraphProto) -> bool:
    """Whether it gives the first dimension of one of the graph's inputs, and no other."""
    if node is None or node.op_type != "Shape":
        return False
    bounds = {item.name: item.i for item in node.attribute}
    inputs = {value.name for value in graph.input}
    return node.input[0] in inputs and (bounds.get("start", 0), bounds.get("end")) == (0, 1)


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
