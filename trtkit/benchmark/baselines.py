"""The baselines: the model of a bundle, as exported, on the libraries that people run it with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.benchmark.kinds import KINDS
from trtkit.benchmark.network import Network, merged
from trtkit.errors import TrtkitError, first_line
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx


def load_network(
    kind: str,
    parts: Sequence[onnx.ModelProto],
    *,
    classes: int,
    threads: int,
    examples: Sequence[Array],
) -> Network:
    """The model whose stages are `parts`, from the image to logits, on the baseline `kind`.

    `examples`: a batch of each size that will come, uint8 N x H x W x 3. Raises TrtkitError when that
    baseline cannot run it.
    """
    mode = KINDS[kind].torch
    if mode is not None:
        from trtkit.benchmark.torch_networks import torch_network

        return torch_network(mode, parts, classes, threads, examples)
    from trtkit.benchmark.onnxruntime_networks import onnxruntime_network, onnxruntime_on_device

    libraries = {
        "onnxruntime": onnxruntime_network,
        "onnxruntime-cuda": onnxruntime_on_device,
        "openvino": openvino_network,
    }
    return libraries[kind](merged(parts), threads)


def openvino_network(model: onnx.ModelProto, threads: int) -> Network:
    """The model on OpenVINO's CPU plugin, tuned for one batch at a time."""
    # Not an import statement: it is no dependency, so type checkers do not find it.
    openvino: Any = import_module("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    except RuntimeError as error:
        raise TrtkitError(
            f"OpenVINO cannot load the exported model ({first_line(error)}); measure it without "
            "openvino."
        ) from error
    # On processors with bfloat16 that is its default.
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Network(lambda images: np.asarray(compiled(images)[0]), f"computes in {precision}")
