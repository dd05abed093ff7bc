"""Loading a bundle's engines, on the backend that they were built for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtkit.bundle import Manifest, check_files
from trtkit.engines.base import Backend
from trtkit.engines.registry import get_backend, installed
from trtkit.errors import TrtkitError, listed
from trtkit.runtime.runner import HostRunner, Runner
from trtkit.stages import Stage, paths_to


def load_runner(
    folder: Path, manifest: Manifest, tails: Sequence[Stage], *, gpu_cache: int = 0
) -> Runner:
    """The engines on the paths to `tails`, each loaded once, on the backend they were built for.

    `gpu_cache`: bytes of device memory for feature maps, for backends on a device. Raises TrtkitError
    for a missing, damaged or foreign file.
    """
    backend = backend_of(manifest)
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
    stages = paths_to(manifest.stages, (tail.name for tail in tails))
    check_files(folder, stages)
    engines: dict[str, Any] = {
        stage.name: backend.load(folder / stage.file, stage.engine, rebuild, stage.digest)
        for stage in stages
    }
    if not backend.on_device:
        return HostRunner(stages, engines)
    from trtkit.runtime.device.runner import DeviceRunner

    guarded = manifest.cut_of(*tails)
    return DeviceRunner(stages, engines, guarded=guarded, gpu_cache=gpu_cache)


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
