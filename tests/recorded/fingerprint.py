"""What the last bit of a computed value depends on: the versions of the libraries and the processor."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "av", "numpy", "nvidia-modelopt", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript",
    "opencv-contrib-python-headless", "pillow", "pyarrow", "scikit-image", "scikit-learn",
    "simplejpeg", "torch", "torchvision", "zstandard",
)  # fmt: skip
# What selects the kernels of matrix products and convolutions.
FEATURES = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16",
    "avx512_fp16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "asimd", "asimddp",
    "asimdhp", "bf16", "i8mm", "sve",
)  # fmt: skip
NAMES = ("vendor_id", "cpu family", "model", "cache size", "CPU implementer", "CPU part")


def fingerprint() -> dict[str, str]:
    """Two processes whose fingerprints are equal compute the same bits."""
    found = {name: installed for name in PACKAGES if (installed := installed_version(name))}
    return found | {"processor": _processor()}


def installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    flags = (values.get("flags") or values.get("Features") or "").split()
    named = [f"{name} {values[name]}" for name in NAMES if name in values]
    return ", ".join([platform.machine(), *named, *(name for name in FEATURES if name in flags)])
