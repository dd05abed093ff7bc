"""Engines of a small model on the simulated GPU, made by trtkit itself."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.graph.onnx_graphs import classifier
from trtkit.engines.base import StageBuild
from trtkit.engines.cuda.array import DeviceTensor
from trtkit.engines.cuda.device import Event, Stream
from trtkit.engines.cuda.memory import DeviceMemory, pinned
from trtkit.engines.options import BatchRange, BuildOptions
from trtkit.engines.registry import RTX, TENSORRT
from trtkit.engines.tensorrt.backend import TensorRTBackend
from trtkit.engines.tensorrt.engine import TensorRTEngine
from trtkit.graph.split import split
from trtkit.tensors import Array


def backend_for(version: str) -> TensorRTBackend:
    return TensorRTBackend(RTX if version.startswith("rtx") else TENSORRT)


def engines(
    folder: Path,
    version: str = "10.3.0",
    *,
    precision: str = "fp32",
    profiles: tuple[BatchRange, ...] = ((1, 4, 8),),
    cut: bool = True,
    model: onnx.ModelProto | None = None,
) -> list[TensorRTEngine]:
    """The classifier's prefix and tail, or the whole of it, as loaded engines."""
    backend = backend_for(version)
    model = model or classifier()
    options = BuildOptions(profiles=profiles)
    if cut:
        sides = split(model, "d")
        stages = [
            StageBuild("prefix", sides.prefix, precision, True, False, options),
            StageBuild("tail", sides.tail, precision, False, True, options),
        ]
    else:
        stages = [StageBuild("whole", model, precision, True, True, options)]
    loaded = []
    for stage in stages:
        path = folder / f"{stage.name}-0.plan"
        built = backend.build(stage, path, folder / "timing")
        loaded.append(backend.load(path, built.record, "trtkit build"))
    return loaded


def on_device(array: Array, stream: Stream | None = None) -> DeviceTensor:
    """`array` as a tensor of this process on the simulated device."""
    stream = stream or Stream()
    host = pinned(array.shape, array.dtype.name, "a test")
    host[...] = array
    memory = DeviceMemory(array.nbytes, "a test")
    stream.copy(memory.pointer, host.ctypes.data, array.nbytes)
    ready = Event()
    ready.record(stream)
    tensor = DeviceTensor(memory, array.shape, array.dtype.name, ready)
    # The copy from the host may run late.
    tensor.keep = (host, stream)  # type: ignore[attr-defined]
    return tensor
