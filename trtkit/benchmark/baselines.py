"""The baselines: the model of a bundle, as exported, on the libraries that people run it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.benchmark.network import Network, merged, onnxruntime_network
from trtkit.bundle import Manifest, check_files
from trtkit.errors import TrtkitError
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
    if kind == "onnxruntime":
        return onnxruntime_network(merged(parts), threads)
    if kind == "openvino":
        return openvino_network(merged(parts), threads)
    if kind == "onnxruntime-cuda":
        from trtkit.benchmark.onnxruntime_cuda import onnxruntime_on_device

        return onnxruntime_on_device(merged(parts), threads)
    from trtkit.benchmark.torch_networks import TORCH, torch_network

    return torch_network(TORCH[kind], parts, classes, threads, examples)


def source_graphs(folder: Path, manifest: Manifest, tail: str) -> list[onnx.ModelProto]:
    """The graphs of the stages from the image to the logits of `tail`, fp32, as exported.

    Raises TrtkitError when one is missing or damaged.
    """
    from trtkit.graph.files import read_model

    path = manifest.path_to(manifest.tail(tail))
    if any(stage.source is None for stage in path):
        raise TrtkitError(
            f"The bundle {manifest.name} is from a trtkit whose bundles kept no ONNX for the baselines "
            "to run; build it again from the exported models."
        )
    check_files(folder, path, engines=False, sources=True)
    return [read_model(folder / str(stage.source)) for stage in path]


def openvino_network(model: onnx.ModelProto, threads: int) -> Network:
    """The model on OpenVINO's CPU plugin, tuned for one batch at a time."""
    from importlib import import_module

    # Not an import statement: it is no dependency, so type checkers do not find it.
    openvino: Any = import_module("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    try:
        compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    except RuntimeError as error:
        raise TrtkitError(
            f"OpenVINO cannot load the exported model ({str(error).strip().splitlines()[0]}); measure "
            "it without openvino."
        ) from error
    # On processors with bfloat16 that is its default.
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Network(lambda images: np.asarray(compiled(images)[0]), f"computes in {precision}")
