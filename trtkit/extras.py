"""The optional packages, by the extra that brings them, and saying so when one is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass

from trtkit.errors import TrtkitError, listed


@dataclass(frozen=True)
class Package:
    """A package by the name it is imported by.

    `other_names`: the distributions that bring it, where they are called otherwise.
    """

    module: str
    other_names: tuple[str, ...] = ()

    @property
    def distributions(self) -> tuple[str, ...]:
        return self.other_names or (self.module,)

    @property
    def installed(self) -> bool:
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:
            # A parent of the module is not there either.
            return False

    @property
    def version(self) -> str:
        """The installed version. Some distributions of a package do not say theirs."""
        for distribution in self.distributions:
            try:
                return importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
        return "of unknown version"


@dataclass(frozen=True)
class Extra:
    """`trtkit[NAME]`: what it is for and the packages it brings."""

    name: str
    purpose: str
    packages: tuple[Package, ...]

    @property
    def install(self) -> str:
        return f"pip install 'trtkit[{self.name}]'"


CUDA = Package("cuda.bindings", ("cuda-python", "cuda-bindings"))
EXTRAS = {
    extra.name: extra
    for extra in (
        Extra(
            "train",
            "train, export, build",
            (
                Package("torch"),
                Package("torchvision"),
                Package("onnx"),
                Package("onnxscript"),
                Package("safetensors"),
                Package("sklearn", ("scikit-learn",)),
                Package("matplotlib"),
            ),
        ),
        Extra(
            "tensorrt",
            "TensorRT engines",
            (Package("tensorrt", ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")), CUDA),
        ),
        Extra(
            "tensorrt-rtx",
            "TensorRT for RTX engines",
            (
                Package("tensorrt_rtx_bindings", ("tensorrt-rtx-cu13-bindings",)),
                Package("tensorrt_rtx_libs", ("tensorrt-rtx-cu13-libs",)),
                CUDA,
            ),
        ),
        Extra("pycuda", "pycuda contexts and arrays", (Package("pycuda"),)),
        Extra(
            "quantize",
            "INT8",
            (
                Package("modelopt", ("nvidia-modelopt",)),
                Package("onnx_graphsurgeon", ("onnx_graphsurgeon", "onnx-graphsurgeon")),
                Package("onnxslim"),
            ),
        ),
        Extra(
            "video",
            "ingest video",
            (
                Package("av"),
                Package("cv2", ("opencv-contrib-python-headless", "opencv-contrib-python")),
                Package("pyarrow"),
            ),
        ),
    )
}


def require(extra: str, what: str, *modules: str) -> None:
    """Raise TrtkitError, with the command that installs it, unless the extra's packages are there.

    `what` needs them, as the start of the sentence; `modules` limits it to some of them,
    which then are installed alone: a board that builds needs onnx, and has no room for torch.
    """
    packages = EXTRAS[extra].packages
    missing = [
        package
        for package in packages
        if (not modules or package.module in modules) and not package.installed
    ]
    if not missing:
        return
    names = " ".join(package.distributions[0] for package in missing)
    command = f"pip install {names}" if modules else EXTRAS[extra].install
    raise TrtkitError(
        f"{what} needs {listed(package.module for package in missing)}, which this installation does "
        f"not have; run `{command}`."
    )
