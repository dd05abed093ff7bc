"""A model that a baseline runs, and the check that it is the exported one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

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


def onnxruntime_network(model: onnx.ModelProto, threads: int) -> Network:
    """The model on ONNX Runtime's CPU provider, with its default options but for the threads."""
    import onnxruntime

    from trtkit.engines.onnxruntime import ERRORS_ONLY, LOAD_ERRORS, PROVIDERS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=PROVIDERS
        )
    except LOAD_ERRORS as error:
        raise TrtkitError(
            f"ONNX Runtime cannot load the exported model ({str(error).splitlines()[0]}); build the "
            "bundle again with `trtkit build`."
        ) from error
    name = session.get_inputs()[0].name
    return Network(lambda images: np.asarray(session.run(None, {name: images})[0]))


def layer_weights(model: onnx.ModelProto) -> dict[str, Array]:
    """Weight and bias of every layer of a graph that trtkit exported from torch, in its order.

    `LAYER.weight` and `LAYER.bias`, for convolutions and linear layers, float32 and of torch's
    shapes. The bias is the one that the layer's node reads: the exporter leaves out biases that are
    zero, and may keep equal ones only once, under the name of another layer.
    """
    from onnx import numpy_helper

    constants = {value.name: value for value in model.graph.initializer}
    found: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        attributes = {item.name: item for item in node.attribute}
        if node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
            weight = weight.T
        layer = node.input[1].removesuffix(".weight")
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        found[f"{layer}.weight"] = weight
        found[f"{layer}.bias"] = (
            np.zeros(len(weight), weight.dtype) if bias is None else numpy_helper.to_array(bias)
        )
    return found


def check_same(
    logits: Logits, parts: Sequence[onnx.ModelProto], images: Array, tolerance: float = TOLERANCE
) -> None:
    """Raise TrtkitError unless this is what the export computes, by the first image.

    A foreign graph may have the weights of an architecture and do something else with them.
    `tolerance`: the largest difference, as a share of the largest logit.
    """
    expected = onnxruntime_network(merged(parts), 1).logits(images[:1])
    error = float(np.abs(logits(images)[:1] - expected).max())
    # Written so that NaN is not accepted.
    if not error <= tolerance * float(np.abs(expected).max()):
        raise TrtkitError(
            f"The network rebuilt in torch is not the exported one (its logits differ by {error:.3g}); "
            "measure it without the torch baselines."
        )
