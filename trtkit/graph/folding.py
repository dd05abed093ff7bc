"""What a graph computes from shapes alone, as constants: its sizes are then known without running it.

Exporters write padding, reshapes and resizes as arithmetic on the image's shape. For images of one size
its results differ at most in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.graph.values import (
    TensorInfo,
    ancestors,
    fresh_name,
    image_input,
    reads,
    set_nodes,
    set_weights,
)
from trtkit.tensors import Array

# Larger constants would make the file much larger than the arithmetic that they stand for.
FOLDED_ELEMENTS = 2**20
RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
# Weights in a pair of these are what is quantized: as floats the file would be no int8 model any more.
PAIRS = ("QuantizeLinear", "DequantizeLinear")


def shape_tensors(model: onnx.ModelProto) -> list[str]:
    """The tensors that nodes compute without the image's values and others read with them."""
    graph = model.graph
    order = ancestors(graph, [value.name for value in graph.output])
    values = {image_input(model).name}
    computed: set[str] = set()
    ends: dict[str, None] = {}
    for node in order:
        sources = reads(node)
        if node.op_type in (*RANDOM, *PAIRS) or (
            values & set(sources) and node.op_type not in ("Shape", "Size")
        ):
            values.update(node.output)
            ends |= dict.fromkeys(name for name in sources if name in computed)
        else:
            computed.update(name for name in node.output if name)
    return list(ends)


def fold(model: onnx.ModelProto, few: Mapping[str, Array], more: Mapping[str, Array]) -> None:
    """Make constants of the tensors of `shape_tensors`, by their values for two batches, in place.

    Where both batches give the same value it is that. Shapes that nodes of Reshape take, and that differ
    in the batch alone, infer it. Others stay computed.
    """
    graph = model.graph
    names = {value.name for value in graph.initializer} | {
        n for node in graph.node for n in node.output
    }
    constants: dict[str, Array] = {}
    for name, value in few.items():
        if value.size > FOLDED_ELEMENTS or value.dtype.kind not in "biuf":
            continue
        if value.shape == more[name].shape and np.array_equal(value, more[name]):
            constants[name] = value
            continue
        free = _without_batch(value, more[name])
        if free is not None:
            constant = fresh_name(f"{name}_folded", names)
            for node in graph.node:
                if node.op_type == "Reshape" and node.input[1] == name:
                    node.input[1] = constant
                    constants[constant] = free
    weights = [*graph.initializer]
    weights += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    outputs = [value.name for value in graph.output]
    set_nodes(graph, ancestors(graph, outputs, frozenset(constants)))
    set_weights(graph, weights)


def _without_batch(few: Array, more: Array) -> Array | None:
    """A shape whose first size is the batch, which it infers instead; None for any other tensor."""
    if few.ndim != 1 or few.dtype != np.int64 or few.shape != more.shape or len(few) < 2:
        return None
    if few[0] == more[0] or not np.array_equal(few[1:], more[1:]):
        return None
    free = few.copy()
    # -1 is the rest; where another size is that already, 0 copies the input's own.
    free[0] = -1 if (few[1:] > 0).all() else 0
    return free


def unknown_tensors(model: onnx.ModelProto, infos: Mapping[str, TensorInfo]) -> list[str]:
    """The tensors that the output needs and whose size per image is not known."""
    graph = model.graph
    order = ancestors(graph, [value.name for value in graph.output])
    names = [name for node in order for name in node.output if name]
    return [name for name in names if name not in infos or infos[name].per_image is None]


def note_shapes(
    model: onnx.ModelProto, few: Mapping[str, Array], more: Mapping[str, Array]
) -> None:
    """Write the shapes that two batches had into the graph, in place, where they differ in that alone."""
    for name, value in few.items():
        other = more[name]
        if value.ndim < 2 or value.ndim != other.ndim or value.shape[1:] != other.shape[1:]:
            continue
        if value.shape[0] == other.shape[0]:
            continue
        dtype = helper.np_dtype_to_tensor_dtype(value.dtype)
        if dtype != TensorProto.FLOAT:
            continue
        info = helper.make_tensor_value_info(name, dtype, ["batch", *value.shape[1:]])
        model.graph.value_info.append(info)
