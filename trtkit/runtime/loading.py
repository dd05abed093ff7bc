"""Loading a bundle's engines as a chain, on the backend that they were built for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtkit.bundle import Manifest, Stage, check_files
from trtkit.engines.base import Backend
from trtkit.engines.registry import get_backend, installed
from trtkit.errors import TrtkitError, listed
from trtkit.runtime.chain import Chain, Runner


def load_chain(
    folder: Path, manifest: Manifest, tail: Stage, backend: Backend, *, gpu_cache: int = 0
) -> Runner:
    """The engines of `tail`, loaded. Raises TrtkitError for a missing, damaged or foreign file.

    `gpu_cache`: bytes of device memory for feature maps, for backends on a device.
    """
    if gpu_cache and not backend.on_device:
        raise TrtkitError(
            f"Bundle {manifest.name} runs on {backend.name} on the CPU, which has no GPU cache; leave "
            "--gpu-cache out, or build the bundle with --backend tensorrt."
        )
    rebuild = f"trtkit build --bundle {manifest.name}"
    blocked = backend.cannot_run()
    if blocked is not None:
        raise TrtkitError(
            f"Bundle {manifest.name} was built for {backend.name}, which needs a GPU, but {blocked}; "
            f"run it where there is one, or `{rebuild} --backend onnxruntime` here."
        )
    path = manifest.path_to(tail)
    check_files(folder, path)
    engines: list[Any] = [
        backend.load(folder / stage.file, stage.engine, rebuild, stage.digest) for stage in path
    ]
    return chain_of(engines, backend, gpu_cache=gpu_cache)


def chain_of(engines: Sequence[Any], backend: Backend, *, gpu_cache: int = 0) -> Runner:
    """Loaded engines of `backend` that follow each other, from the root to one tail."""
    if not backend.on_device:
        return Chain(engines)
    from trtkit.runtime.device.chain import DeviceChain

    return DeviceChain(engines, gpu_cache=gpu_cache)


def backend_of(manifest: Manifest) -> Backend:
    """The backend a bundle was built for. Raises TrtkitError if it is not installed."""
    try:
        return get_backend(manifest.backend)
    except TrtkitError as error:
        raise TrtkitError(
            f"Bundle {manifest.name} was built for the {manifest.backend} backend; available here: "
            f"{listed(installed())}; run `trtkit build --bundle {manifest.name}` to build it for this "
            "machine."
        ) from error
