"""The kinds of competitors, and why one of them cannot run on this machine."""

from __future__ import annotations

import shutil

from trtkit.benchmark.clocks import nvidia_gpus
from trtkit.engines.registry import BACKENDS
from trtkit.errors import TrtkitError, listed
from trtkit.extras import EXTRAS, Package

# In the order of the table; the first that can run here is what the others are compared with.
CPU_BASELINES = ("torch", "torch-compile", "onnxruntime", "openvino")
GPU_BASELINES = (
    "torch-cuda",
    "torch-cuda-compile",
    "torch-cuda-fp16",
    "onnxruntime-cuda",
    "tensorrt",
    "trtexec",
)
BASELINES = (*CPU_BASELINES, *GPU_BASELINES)
KINDS = ("trtkit", *BASELINES)
# Built in the precision of a bundle, so that there is one for each precision.
PER_PRECISION = ("tensorrt", "trtexec")
# It runs on numbers of its own, and tells times alone.
COMPUTE_ALONE = ("trtexec",)

_TORCH = ("onnx", "torch", "torchvision")
# What each kind imports that is not in the base install.
_NEEDS = {
    "trtkit": (),
    "onnxruntime": ("onnx",),
    "torch": _TORCH,
    "torch-compile": _TORCH,
    "openvino": ("onnx", "openvino"),
    "torch-cuda": _TORCH,
    "torch-cuda-compile": _TORCH,
    "torch-cuda-fp16": _TORCH,
    "onnxruntime-cuda": ("onnx",),
    "tensorrt": ("onnx",),
    "trtexec": ("onnx",),
}


def missing(kind: str) -> str | None:
    """Why competitors of that kind cannot run here, with the command that mends it; None if they can.

    Part of a sentence: `torch is not installed; pip install 'trtkit[train]'`. No library of a GPU is
    loaded for the answer, so that one of these may still fail when it is. Raises TrtkitError for an
    unknown kind.
    """
    if kind not in KINDS:
        raise TrtkitError(f"There is no competitor {kind!r}; choose {listed(KINDS, len(KINDS))}.")
    why = no_gpu() if kind in GPU_BASELINES else None
    if why is not None:
        return why
    absent = [name for name in _NEEDS[kind] if not Package(name, (name,)).installed]
    if absent:
        command = (
            EXTRAS["train"].install
            if kind.startswith("torch")
            else f"pip install {' '.join(absent)}"
        )
        return f"{listed(absent)} {'is' if len(absent) == 1 else 'are'} not installed; {command}"
    if kind == "onnxruntime-cuda":
        return _no_cuda_provider()
    if kind == "tensorrt" and not any(entry.needs_gpu and entry.installed for entry in BACKENDS):
        return f"TensorRT is not installed; {EXTRAS['tensorrt'].install}"
    if kind == "trtexec" and shutil.which("trtexec") is None:
        return "trtexec is not on the PATH; it comes with TensorRT's archive and Debian packages"
    return None


def no_gpu() -> str | None:
    """Why there is no GPU here, as part of a sentence; None when there is one.

    One that trtkit's own bindings cannot use may still be one for torch, so NVML counts too.
    """
    from trtkit.engines.cuda import device

    reason = device.missing()
    if reason is None or nvidia_gpus():
        return None
    return f"no NVIDIA GPU was found: {reason.rstrip('.')}"


def on_gpu(backend: str) -> bool:
    """Whether bundles for the backend of that name run on a GPU."""
    return any(entry.name == backend and entry.needs_gpu for entry in BACKENDS)


def baselines_for(backend: str) -> tuple[str, ...]:
    """The baselines for bundles of that backend, the first one being what others are compared with.

    Those on a GPU only where there is one, and before the others for a bundle that runs there too.
    """
    if no_gpu() is not None:
        return CPU_BASELINES
    if on_gpu(backend):
        return (*GPU_BASELINES, *CPU_BASELINES)
    return BASELINES


def _no_cuda_provider() -> str | None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return None
    # The two overwrite each other's files, so the plain one has to go first.
    return (
        "this onnxruntime is without CUDA; pip uninstall onnxruntime && pip install onnxruntime-gpu"
    )
