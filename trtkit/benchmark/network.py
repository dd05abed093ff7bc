"""A model that a baseline runs, and what a bundle keeps of it: the exported graphs and weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

    from trtkit.bundle import Manifest

# From uint8 images N x H x W x 3, RGB, contiguous, to float32 logits N x classes.
Logits = Callable[[Array], Array]

# What another order of float32 sums may change, relative to the largest logit, with room to spare;
# and the roundings of fp16, 2^-11 each.
TOLERANCE, HALF_TOLERANCE = 1e-3, 4e-2


class OnDevice(Protocol):
    """A model on a GPU, run on what lies there."""

    def place(self, images: Array) -> Any:
        """A batch, uint8 N x H x W x 3, as it lies where the engine reads it."""
        ...

    def seconds(self, batches: Sequence[Any]) -> float:
        """Run each batch that was placed, one after the other: the seconds that the GPU took."""
        ...


@dataclass(frozen=True)
class Network:
    """A model that was loaded, and what there is to say about it; `on_device` of one on a GPU."""

    logits: Logits
    note: str = ""
    on_device: OnDevice | None = None


def merged(parts: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph of stages that follow each other, each with one input and one output.

    Everything but the last stage's own tensors is renamed: stages may come from different exports,
    which use one name for different things. Raises TrtkitError when they cannot be merged.
    """
    from onnx import compose

    from trtkit.graph.values import image_input

    whole = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        joint = (whole.graph.output[0].name, image_input(part).name)
        try:
            whole = compose.merge_models(
                whole, part, io_map=[joint], prefix1=f"before_{number}/", name="model"
            )
        except ValueError as error:
            raise TrtkitError(
                f"The stages of the bundle cannot be merged into one graph ({error}); build it from "
                "models that were exported by one version of trtkit."
            ) from error
    return whole


def source_graphs(folder: Path, manifest: Manifest, tail: str) -> list[onnx.ModelProto]:
    """The graphs of the stages from the image to the logits of `tail`, fp32, as exported.

    Raises TrtkitError when one is missing or damaged.
    """
    from trtkit.bundle import check_files
    from trtkit.graph.files import read_model

    path = manifest.path_to(manifest.tail(tail))
    if any(stage.source is None for stage in path):
        raise TrtkitError(
            f"Bundle {manifest.name} holds no ONNX graphs for the baselines to run, because an earlier "
            "trtkit built it; build it again from the exported models."
        )
    check_files(folder, path, engines=False, sources=True)
    return [read_model(folder / str(stage.source)) for stage in path]


def layer_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Weight and bias of every layer of a graph that trtkit exported from torch, in its order.

    `LAYER.weight` and `LAYER.bias`, for convolutions and linear layers, float32 and of torch's
    shapes. The bias is the one that the layer's node reads: the exporter leaves out biases that are
    zero, and may keep equal ones only once, under the name of another layer.
    """
    from onnx import numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    weights: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        attributes = {item.name: item for item in node.attribute}
        if node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
            weight = weight.T
        layer = node.input[1].removesuffix(".weight")
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        weights[f"{layer}.weight"] = weight
        weights[f"{layer}.bias"] = (
            np.zeros(len(weight), weight.dtype) if bias is None else numpy_helper.to_array(bias)
        )
    return weights
