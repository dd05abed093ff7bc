"""Taking in a classifier that somebody else exported: the same kind of graph as our own afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, helper, numpy_helper

from trtkit.graph.boundaries import dependent_on
from trtkit.graph.ending import Ending, remove_activation, two_classes
from trtkit.graph.floats import to_single
from trtkit.graph.front import BATCH, IMAGE, SOURCE, prepend_image
from trtkit.graph.lower import drop_notes
from trtkit.graph.source import SourceInput, SourceOutput
from trtkit.graph.values import (
    ancestors,
    fresh_name,
    reads,
    rename_tensors,
    set_nodes,
    set_weights,
    tensor_infos,
)
from trtkit.preprocessing import Preprocessing
from trtkit.scores import Scoring

UNFLAT = "unflat"
# The last IR version that all supported versions of ONNX Runtime read.
LAST_IR = 10


@dataclass(frozen=True)
class Adopted:
    """A foreign graph made ours.

    `ending`: how its outputs become scores, and what was removed for that. `single`: it gave one output
    and now gives those of two classes.
    """

    model: onnx.ModelProto
    preprocessing: Preprocessing
    classes: int
    ending: Ending
    single: bool


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph without what libraries refuse though it changes nothing.

    Local functions are written out, nodes have names of their own, nodes and inputs that no output needs
    are gone, and types and shapes that were declared for the outputs, which may be wrong.
    """
    tidied = onnx.ModelProto()
    tidied.CopyFrom(model)
    if tidied.functions:
        tidied = onnx.inliner.inline_local_functions(tidied)
    graph = tidied.graph
    set_nodes(graph, ancestors(graph, [value.name for value in graph.output]))
    names: set[str] = set()
    for node in graph.node:
        if node.name:
            node.name = fresh_name(node.name, names)
    needed = {name for node in graph.node for name in reads(node)}
    inputs = [value for value in graph.input if value.name in needed]
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del graph.input[:]
    graph.input.extend(inputs)
    outputs = [onnx.ValueInfoProto(name=value.name) for value in graph.output]
    del graph.output[:]
    graph.output.extend(outputs)
    del graph.value_info[:]
    _constants_to_initializers(graph)
    # Of the later IR versions nothing is used here, and not every library reads them.
    tidied.ir_version = min(tidied.ir_version, LAST_IR)
    return tidied


def adopt(
    model: onnx.ModelProto,
    source: SourceInput,
    output: SourceOutput,
    name: str,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    scoring: Scoring | None = None,
) -> Adopted:
    """A copy of a tidy classifier that takes uint8 N x H x W x 3 RGB, with a dynamic batch, in fp32.

    `mean` and `std`, per channel and in units of 0 to 1, are what its input was normalised with; an input
    of integers takes pixels as they are. An activation at the end is removed, so that the output is logits
    as everywhere, N x classes; see `remove_activation` for it and `scoring`. A single output becomes those
    of two classes. `name` is for messages.
    """
    adopted = onnx.ModelProto()
    adopted.CopyFrom(model)
    graph = adopted.graph
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name=output.name))
    set_nodes(graph, ancestors(graph, [output.name]))
    drop_notes(adopted)
    to_single(graph)
    if not output.flat:
        _flatten(graph)
    ending, classes = remove_activation(graph, scoring, name), output.classes
    single = classes == 1
    if single:
        ending, classes = two_classes(graph, ending, name), 2
    if source.batch is not None:
        _free_batch(graph, source.name, source.batch)
    _rename(graph, source.name, SOURCE)
    _rename(graph, IMAGE, f"foreign_{IMAGE}")
    prepend_image(adopted, source, mean, std)
    # Older IR versions want every initializer listed as an input too.
    adopted.ir_version = max(adopted.ir_version, 8)
    logits = graph.output[0].name
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(logits, TensorProto.FLOAT, [BATCH, classes]))
    # Shapes inferred for the old batch would contradict the new one.
    del graph.value_info[:]
    _drop_idle_casts(adopted)
    size = max(source.height, source.width)
    preprocessing = Preprocessing(
        height=source.height, width=source.width, resize=round(size * 256 / 224)
    )
    return Adopted(adopted, preprocessing, classes, ending, single)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Weights may also be Constant nodes; with one form of them graphs can be compared and split."""
    kept = []
    for node in graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and node.domain == "" and value is not None:
            tensor = onnx.TensorProto()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    set_nodes(graph, kept)


def _drop_idle_casts(model: onnx.ModelProto) -> None:
    """Remove casts to the type that a tensor has already, such as were to or from half, in place."""
    graph = model.graph
    infos = tensor_infos(model)
    inner = {
        name for node in graph.node for name in reads(node)[len(list(filter(None, node.input))) :]
    }
    idle: dict[str, str] = {}
    for node in graph.node:
        info = infos.get(node.input[0]) if node.op_type == "Cast" else None
        to = next((item.i for item in node.attribute if item.name == "to"), None)
        if info is not None and info.dtype == to and node.output[0] not in inner:
            idle[node.output[0]] = idle.get(node.input[0], node.input[0])
    idle.pop(graph.output[0].name, None)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = idle.get(name, name)
    set_nodes(graph, [node for node in graph.node if node.output[0] not in idle])


def _flatten(graph: onnx.GraphProto) -> None:
    """Make the output, N x classes with sizes of 1 around the classes, N x classes."""
    output = graph.output[0].name
    unflat = f"{output}_{UNFLAT}"
    _rename(graph, output, unflat)
    graph.node.append(helper.make_node("Flatten", [unflat], [output], "trtkit_flatten", axis=1))


def _free_batch(graph: onnx.GraphProto, image: str, batch: int) -> None:
    """Let a fixed batch vary: reshapes of what comes from the image take it from their input instead.

    In a Reshape a 0 copies the size of the input's same dimension. Whether rows really stay apart is
    for the caller to check by running it.
    """
    weights = {value.name: value for value in graph.initializer}
    live = dependent_on(image, list(graph.node))
    names = set(weights) | live
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[0] not in live or node.input[1] not in weights:
            continue
        sizes = numpy_helper.to_array(weights[node.input[1]]).copy()
        if sizes.ndim != 1 or len(sizes) < 2 or sizes[0] != batch:
            continue
        sizes[0] = 0
        # Another node may take the same shape for something that has no batch.
        node.input[1] = fresh_name(f"{node.input[1]}_{BATCH}", names)
        graph.initializer.append(numpy_helper.from_array(sizes.astype(np.int64), node.input[1]))
        kept = [item for item in node.attribute if item.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
    set_weights(graph, graph.initializer)


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    rename_tensors(graph.node, {name: new})
    for weight in graph.initializer:
        if weight.name == name:
            weight.name = new
