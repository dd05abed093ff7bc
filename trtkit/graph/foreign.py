"""Taking in a classifier that somebody else exported: the same kind of graph as our own afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.errors import TrtkitError
from trtkit.graph.ending import Ending, remove_activation, two_classes
from trtkit.graph.lower import drop_notes
from trtkit.graph.values import image_input, rename_tensors, set_nodes, shape_of
from trtkit.preprocessing import Preprocessing
from trtkit.scores import Scoring

IMAGE = "image"
BATCH = "batch"
NORMALISED = "trtkit_normalised"


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


def adopt(
    model: onnx.ModelProto,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int | None,
    name: str,
    scoring: Scoring | None = None,
) -> Adopted:
    """A copy of a float NCHW classifier that takes uint8 N x H x W x 3 RGB, with a dynamic batch.

    `mean` and `std`, per channel and in units of 0 to 1, are what its input was normalised with. The
    image size is the graph's, or `image_size` where the graph leaves it open. An
    activation at the end is removed, so that the output is logits as everywhere; see `remove_activation`
    for it and `scoring`. A single output becomes those of two classes. Raises TrtkitError for graphs
    that are no image classifiers.
    """
    adopted = onnx.ModelProto()
    adopted.CopyFrom(model)
    drop_notes(adopted)
    _constants_to_initializers(adopted.graph)
    source = image_input(adopted)
    height, width = _check_input(source, image_size, name)
    fixed_batch = shape_of(source)[0]
    classes = _check_output(adopted.graph, name)
    ending = remove_activation(adopted.graph, scoring, name)
    single = classes == 1
    if single:
        ending, classes = two_classes(adopted.graph, ending, name), 2
    if fixed_batch is not None:
        _free_batch(adopted.graph, fixed_batch)
    _rename(adopted.graph, source.name, NORMALISED)
    _rename(adopted.graph, IMAGE, f"foreign_{IMAGE}")
    _prepend(adopted.graph, (height, width), mean, std)
    # Older IR versions want every initializer listed as an input too.
    adopted.ir_version = max(adopted.ir_version, 8)
    logits = adopted.graph.output[0].name
    del adopted.graph.output[:]
    adopted.graph.output.append(
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, [BATCH, classes])
    )
    # Shapes inferred for the old batch would contradict the new one.
    del adopted.graph.value_info[:]
    size = max(height, width)
    preprocessing = Preprocessing(height=height, width=width, resize=round(size * 256 / 224))
    return Adopted(adopted, preprocessing, classes, ending, single)


def _check_input(value: onnx.ValueInfoProto, size: int | None, name: str) -> tuple[int, int]:
    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type)
    dims = shape_of(value)
    shape = " x ".join("?" if size is None else str(size) for size in dims)
    if tensor.elem_type != TensorProto.FLOAT or len(dims) != 4 or dims[1] not in (3, None):
        raise TrtkitError(
            f"{name} takes {kind} {shape} as {value.name!r}, but a foreign model must take float "
            "N x 3 x H x W (NCHW); export it that way."
        )
    height, width = dims[2] or size, dims[3] or size
    if height is None or width is None:
        raise TrtkitError(
            f"{name} leaves its image size open ({shape}); choose one with --image-size."
        )
    if size is not None and (height, width) != (size, size):
        raise TrtkitError(
            f"{name} takes images of {height} x {width}, not {size} x {size}; leave --image-size out."
        )
    return height, width


def _check_output(graph: onnx.GraphProto, name: str) -> int:
    outputs = [value.name for value in graph.output]
    dims = graph.output[0].type.tensor_type.shape.dim if outputs else []
    if len(outputs) != 1 or len(dims) != 2 or not dims[1].HasField("dim_value"):
        raise TrtkitError(
            f"{name} gives {', '.join(outputs) or 'nothing'}, but a classifier gives one tensor of "
            "N x classes; export it with that output alone."
        )
    return int(dims[1].dim_value)


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


def _free_batch(graph: onnx.GraphProto, batch: int) -> None:
    """Let a fixed batch vary: reshapes that wrote it down take it from their input instead.

    In a Reshape a 0 copies the size of the input's same dimension. Whether rows really stay apart is
    for the caller to check by running it.
    """
    reshapes = {node.input[1] for node in graph.node if node.op_type == "Reshape"}
    for value in graph.initializer:
        if value.name not in reshapes:
            continue
        sizes = numpy_helper.to_array(value).copy()
        if sizes.ndim == 1 and len(sizes) > 1 and sizes[0] == batch:
            sizes[0] = 0
            value.CopyFrom(numpy_helper.from_array(sizes.astype(np.int64), value.name))
    for node in graph.node:
        for attribute in list(node.attribute):
            if node.op_type == "Reshape" and attribute.name == "allowzero":
                node.attribute.remove(attribute)


def _prepend(
    graph: onnx.GraphProto,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """The new input, and cast, transpose and normalise between it and the graph."""
    scale = np.asarray(std, dtype=np.float64).reshape(1, 3, 1, 1) * 255.0
    offset = np.asarray(mean, dtype=np.float64).reshape(1, 3, 1, 1) * 255.0
    weights = [
        numpy_helper.from_array(offset.astype(np.float32), "trtkit_mean"),
        numpy_helper.from_array((1.0 / scale).astype(np.float32), "trtkit_scale"),
    ]
    nodes = [
        helper.make_node("Cast", [IMAGE], ["trtkit_float"], "trtkit_cast", to=TensorProto.FLOAT),
        helper.make_node(
            "Transpose", ["trtkit_float"], ["trtkit_nchw"], "trtkit_transpose", perm=[0, 3, 1, 2]
        ),
        helper.make_node("Sub", ["trtkit_nchw", "trtkit_mean"], ["trtkit_centred"], "trtkit_sub"),
        helper.make_node("Mul", ["trtkit_centred", "trtkit_scale"], [NORMALISED], "trtkit_mul"),
    ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)
    graph.initializer.extend(weights)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [BATCH, *size, 3]))


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    rename_tensors(graph.node, {name: new})
    for weight in graph.initializer:
        if weight.name == name:
            weight.name = new
