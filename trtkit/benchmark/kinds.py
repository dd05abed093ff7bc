"""The kinds of competitors, and why one of them cannot run on this machine."""

from __future__ import annotations

import shutil
from typing import NamedTuple

from trtkit.errors import TrtkitError, listed


# Tuples: the command line imports them, and dataclasses would add a hundredth to its start.
class TorchMode(NamedTuple):
    """How torch runs a network: on which device, in fp32 or fp16, compiled or eager."""

    device: str = "cpu"
    half: bool = False
    compiled: bool = False


class Kind(NamedTuple):
    """A kind of competitor.

    `modules`: what it imports that is not in the base install. `torch`: how torch runs it, None for
    other libraries. `per_precision`: it builds one engine for each precision of the bundles.
    `compute_only`: it runs on numbers of its own, and tells times alone.
    """

    name: str
    modules: tuple[str, ...] = ("onnx",)
    on_gpu: bool = False
    torch: TorchMode | None = None
    per_precision: bool = False
    compute_only: bool = False


def _torch(name: str, mode: TorchMode) -> Kind:
    return Kind(name, ("onnx", "torch", "torchvision"), mode.device == "cuda", mode)


# In the order of the table; the first that can run here is what the others are compared with.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("trtkit", ()),
        _torch("torch", TorchMode()),
        _torch("torch-compile", TorchMode(compiled=True)),
        Kind("onnxruntime"),
        Kind("openvino", ("onnx", "openvino")),
        _torch("torch-cuda", TorchMode("cuda")),
        _torch("torch-cuda-compile", TorchMode("cuda", compiled=True)),
        _torch("torch-cuda-fp16", TorchMode("cuda", half=True)),
        Kind("onnxruntime-cuda", on_gpu=True),
        Kind("tensorrt", on_gpu=True, per_precision=True),
        Kind("trtexec", on_gpu=True, per_precision=True, compute_only=True),
    )
}
BASELINES = tuple(name for name in KINDS if name != "trtkit")
GPU_BASELINES = tuple(name for name in BASELINES if KINDS[name].on_gpu)
CPU_BASELINES = tuple(name for name in BASELINES if not KINDS[name].on_gpu)


def missing(name: str) -> str | None:
    """Why competitors of that kind cannot run here, with the command that mends it; None if they can.

    Part of a sentence: `torch is not installed; pip install 'trtkit[train]'`. No library of a GPU is
    loaded for the answer, so that one of these may still fail when it is. Raises TrtkitError for an
    unknown kind.
    """
    from trtkit.engines.registry import BACKENDS
    from trtkit.extras import EXTRAS, Package

    if name not in KINDS:
        raise TrtkitError(f"Competitor `{name}` not found; available: {listed(KINDS, len(KINDS))}.")
    kind = KINDS[name]
    why = no_gpu() if kind.on_gpu else None
    if why is not None:
        return why
    absent = [module for module in kind.modules if not Package(module).installed]
    if absent:
        install = EXTRAS["train"].install if kind.torch else f"pip install {' '.join(absent)}"
        return f"{listed(absent)} {'is' if len(absent) == 1 else 'are'} not installed; {install}"
    if name == "onnxruntime-cuda" and not _has_cuda_provider():
        # The two overwrite each other's files, so the plain one has to go first.
        fix = "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        return f"this onnxruntime is without CUDA; {fix}"
    if name == "tensorrt" and not any(entry.needs_gpu and entry.installed for entry in BACKENDS):
        return f"TensorRT is not installed; {EXTRAS['tensorrt'].install}"
    if name == "trtexec" and shutil.which("trtexec") is None:
        return "trtexec is not on the PATH; it comes with TensorRT's archive and Debian packages"
    return None


def no_gpu() -> str | None:
    """Why there is no GPU here, as part of a sentence; None when there is one.

    One that trtkit's own bindings cannot use may still be one for torch, so NVML counts too.
    """
    from trtkit.benchmark.clocks import nvidia_gpus
    from trtkit.engines.cuda import device

    reason = device.missing()
    if reason is None or nvidia_gpus():
        return None
    return f"no NVIDIA GPU was found: {reason.rstrip('.')}"


def baselines_for(backend: str) -> tuple[str, ...]:
    """The baselines for bundles of that backend, the first one being what others are compared with.

    Those on a GPU only where there is one, and before the others for a bundle that runs there too.
    """
    from trtkit.engines.registry import BACKENDS

    if no_gpu() is not None:
        return CPU_BASELINES
    if any(entry.name == backend and entry.needs_gpu for entry in BACKENDS):
        return (*GPU_BASELINES, *CPU_BASELINES)
    return BASELINES


def _has_cuda_provider() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
