"""What stands between the uint8 photos that every export takes and a graph that somebody else wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.graph.source import NCHW, SourceInput
from trtkit.graph.values import set_nodes
from trtkit.preprocessing import LUMA
from trtkit.tensors import Array

IMAGE = "image"
BATCH = "batch"
# The tensor that the graph takes as its image.
SOURCE = "trtkit_normalised"
# From this opset on ReduceMean takes its axes as an input.
AXES_INPUT = 18


def prepend_image(
    model: onnx.ModelProto, source: SourceInput, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Give the graph the input `image`, and what makes `SOURCE` of it, in place.

    Cast comes first: TensorRT's parser refuses a uint8 transpose. Then grey, where the graph wants one
    channel, normalisation, unless it takes raw pixels, and the order of the axes.
    """
    front = _Front(model)
    front.add("Cast", "float", to=TensorProto.FLOAT)
    ordered = source.order == NCHW
    if ordered:
        front.add("Transpose", "nchw", perm=list(NCHW))
    if source.channels == 1:
        front.add("Mul", "luma", front.per_channel(3.0 * np.asarray(LUMA), ordered))
        front.add_mean("grey", axis=1 if ordered else 3)
        if source.raw:
            # The cast to integers cuts off.
            front.add("Add", "rounded", front.constant("half", np.array(0.5, np.float32)))
    if source.raw:
        _take_raw(front, source)
    else:
        scale = np.asarray(std, dtype=np.float64) * 255.0
        offset = np.asarray(mean, dtype=np.float64) * 255.0
        front.add("Sub", "centred", front.per_channel(offset, ordered, "mean"))
        front.add("Mul", "scaled", front.per_channel(1.0 / scale, ordered, "scale"))
    front.finish(source)


class _Front:
    """The nodes in front of the graph, each of which takes what the one before it gives."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graph = model.graph
        self.nodes: list[onnx.NodeProto] = []
        self.tensor = IMAGE

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> None:
        made = f"trtkit_{name}"
        self.nodes.append(
            helper.make_node(operator, [self.tensor, *inputs], [made], made, **attributes)
        )
        self.tensor = made

    def add_mean(self, name: str, axis: int) -> None:
        """The mean over one axis, which stays."""
        opset = next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))
        if opset < AXES_INPUT:
            self.add("ReduceMean", name, axes=[axis], keepdims=1)
            return
        self.add("ReduceMean", name, self.constant("axis", np.array([axis])), keepdims=1)

    def per_channel(self, values: Array, ordered: bool, name: str = "luma_weights") -> str:
        shape = (1, -1, 1, 1) if ordered else (1, 1, 1, -1)
        return self.constant(name, values.astype(np.float32).reshape(shape))

    def constant(self, name: str, value: Array) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, f"trtkit_{name}"))
        return f"trtkit_{name}"

    def finish(self, source: SourceInput) -> None:
        """Put the nodes in front; the last one gives what the graph takes as its image."""
        self.nodes[-1].output[0] = SOURCE
        set_nodes(self.graph, [*self.nodes, *self.graph.node])
        shape: list[str | int] = [BATCH, source.height, source.width, 3]
        del self.graph.input[:]
        self.graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape))


def _take_raw(front: _Front, source: SourceInput) -> None:
    """Pixels for a graph of integers: its own casts to float take them as they are."""
    casts = {
        node.output[0]: SOURCE
        for node in front.graph.node
        if node.op_type == "Cast"
        and node.input[0] == SOURCE
        and any(item.name == "to" and item.i == TensorProto.FLOAT for item in node.attribute)
    }
    readers = [node for node in front.graph.node if SOURCE in node.input]
    if len(casts) < len(readers) or not casts:
        front.add("Cast", "raw", to=source.dtype)
        return
    kept = [node for node in front.graph.node if node.output[0] not in casts]
    for node in kept:
        for position, name in enumerate(node.input):
            node.input[position] = casts.get(name, name)
    set_nodes(front.graph, kept)
