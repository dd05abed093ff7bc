"""A classifier as its author wrote it: how it wants its image, and which output has its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from trtkit.errors import TrtkitError, available, listed
from trtkit.graph.bounds import check_class_count
from trtkit.graph.values import ancestors, producers, reads, shape_of
from trtkit.preprocessing import LUMA
from trtkit.tensors import Array

NCHW, NHWC = (0, 3, 1, 2), (0, 1, 2, 3)
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
# Raw pixels, which the graph normalises itself.
INTEGERS = (TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64)


@dataclass(frozen=True)
class SourceInput:
    """The image that a graph takes: float, normalised, or integers, raw pixels.

    `order`: the axes of N x H x W x C in the order that it wants; `channels`: 3 of RGB, or 1 of grey;
    `batch`: the one it is fixed to, None where any is taken; `dtype`: a TensorProto number.
    """

    name: str
    dtype: int
    order: tuple[int, int, int, int]
    channels: int
    height: int
    width: int
    batch: int | None

    @property
    def raw(self) -> bool:
        """Whether it takes pixels of 0 to 255, which it normalises itself."""
        return self.dtype in INTEGERS

    def prepare(self, images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
        """What it takes of uint8 images N x H x W x 3, RGB; `mean` and `std` per channel, in 0 to 1."""
        values = np.asarray(images, np.float64)
        if self.channels == 1:
            values = (values * LUMA).sum(axis=3, keepdims=True)
        if self.raw and self.channels == 1:
            # The conversion to integers cuts off.
            values = values + 0.5
        elif not self.raw:
            values = (values / 255.0 - np.asarray(mean)) / np.asarray(std)
        dtype = helper.tensor_dtype_to_np_dtype(self.dtype)
        return np.ascontiguousarray(values.transpose(self.order), dtype=dtype)


def source_input(model: onnx.ModelProto, size: int | None, name: str) -> SourceInput:
    """The one input that the outputs need. Raises TrtkitError for a graph that takes no image.

    `size` is the image size where the graph leaves it open.
    """
    value = _needed_input(model.graph, name)
    dims = shape_of(value)
    dtype = value.type.tensor_type.elem_type
    shape = " x ".join("?" if size is None else str(size) for size in dims)
    what = (
        f"{name} takes {TensorProto.DataType.Name(dtype).lower()} {shape or '?'} as {value.name!r}"
    )
    order = _order(model.graph, value.name, dims)
    if order is None or dtype not in (*FLOATS, *INTEGERS):
        raise TrtkitError(
            f"{what}, but an image is N x 3 x H x W, N x H x W x 3 or one of these with 1 channel, as "
            "float or integers; export it that way."
        )
    channels = dims[order.index(3)] or 3
    height, width = dims[order.index(1)] or size, dims[order.index(2)] or size
    if height is None or width is None:
        raise TrtkitError(
            f"{name} leaves its image size open ({shape}); choose one with --image-size."
        )
    if size is not None and (height, width) != (size, size):
        raise TrtkitError(
            f"{name} takes images of {height} x {width}, not {size} x {size}; leave --image-size out."
        )
    return SourceInput(value.name, dtype, order, channels, height, width, dims[0])


def _needed_input(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    constants = {value.name for value in graph.initializer}
    nodes = ancestors(graph, [value.name for value in graph.output])
    needed = {name for node in nodes for name in reads(node)}
    inputs = [
        value for value in graph.input if value.name in needed and value.name not in constants
    ]
    if len(inputs) != 1:
        names = listed(value.name for value in inputs)
        raise TrtkitError(
            f"{name} needs {len(inputs)} inputs ({names}), and a classifier has one, the image; export "
            "it with the others fixed."
        )
    image: onnx.ValueInfoProto = inputs[0]
    return image


def _order(
    graph: onnx.GraphProto, name: str, dims: Sequence[int | None]
) -> tuple[int, int, int, int] | None:
    """The order of the axes: by the size that is a number of channels, else by the first node."""
    if len(dims) != 4:
        return None
    first, last = dims[1] in (1, 3), dims[3] in (1, 3)
    if first != last:
        return NCHW if first else NHWC
    if not first and None not in (dims[1], dims[3]):
        return None
    # Both may be the channels: exporters of NHWC models put a Transpose in front of the convolutions.
    reader = next((node for node in graph.node if name in node.input), None)
    while reader is not None and reader.op_type in ("Cast", "Identity", "Sub", "Div", "Mul", "Add"):
        made = reader.output[0]
        reader = next((node for node in graph.node if made in node.input), None)
    perm = [] if reader is None else [list(a.ints) for a in reader.attribute if a.name == "perm"]
    return NHWC if reader is not None and perm == [[0, 3, 1, 2]] else NCHW


@dataclass(frozen=True)
class SourceOutput:
    """The output with a value for each class, and how it has to be flattened to N x classes."""

    name: str
    classes: int
    flat: bool


def choose_output(
    graph: onnx.GraphProto, values: dict[str, Array], batch: int, wanted: str | None, name: str
) -> SourceOutput:
    """The output that has the scores, by what the outputs gave for `batch` images.

    It is the one called `wanted`, else the only one with one float for each class. Raises TrtkitError.
    """
    if wanted is not None and wanted not in values:
        raise TrtkitError(f"{name} has no output {wanted!r}; {available(wanted, list(values))}.")
    candidates = values if wanted is None else {wanted: values[wanted]}
    fitting = [output for output, value in candidates.items() if _fits(value, batch)]
    if len(fitting) > 1:
        raise TrtkitError(
            f"{name} has {len(fitting)} outputs of one value for each class ({_describe(values)}); "
            "choose one with --output."
        )
    if not fitting:
        raise _no_scores(graph, candidates, name)
    (output,) = fitting
    value = values[output]
    classes = int(np.prod(value.shape[1:]))
    check_class_count(classes, name)
    return SourceOutput(output, classes, flat=value.ndim == 2)


def _fits(value: Array, batch: int) -> bool:
    """N x classes, or the same with sizes of 1 around the classes, or N of a single one."""
    sizes = [size for size in value.shape[1:] if size != 1]
    return value.dtype.kind == "f" and value.shape[:1] == (batch,) and len(sizes) <= 1


def _no_scores(graph: onnx.GraphProto, values: dict[str, Array], name: str) -> TrtkitError:
    made_by = producers(graph.node)
    for output in values:
        node = made_by.get(output)
        if node is not None and node.op_type in ("ArgMax", "TopK"):
            return TrtkitError(
                f"{name} gives the number of the best class ({output}, of {node.op_type}), not a value "
                f"for each class; export it without the {node.op_type}."
            )
    return TrtkitError(
        f"{name} gives {_describe(values)}, but a classifier gives one float tensor of "
        "N x classes; export it with that output."
    )


def _describe(values: dict[str, Array]) -> str:
    return listed(
        f"{output} {value.dtype} {' x '.join(map(str, value.shape))}"
        for output, value in values.items()
    )
