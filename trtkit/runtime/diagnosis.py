"""What this machine can do, and what is missing."""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from trtkit import __version__, nvml
from trtkit.cpu import processor_name, total_memory, usable_cores
from trtkit.engines.registry import BACKENDS, BackendEntry, get_backend
from trtkit.errors import TrtkitError
from trtkit.extras import EXTRAS, Extra
from trtkit.store.cache import cache_folder
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class BackendStatus:
    """A backend: its version and what it computes in, or the command that installs it.

    `problem` says why an installed one cannot be used, or cannot run what it builds; None when it can.
    """

    name: str
    version: str | None
    precisions: list[str]
    install: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Feature:
    """An optional part: the packages it has, by version, those missing, and how to get them."""

    name: str
    purpose: str
    packages: dict[str, str]
    missing: list[str]
    install: str | None


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver names it; memory in MiB."""

    name: str
    compute_capability: str
    driver: str
    memory_mib: int


@dataclass(frozen=True)
class Diagnosis:
    """The machine, what is installed on it and the workspace. Memory and free space in bytes."""

    trtkit: str
    python: str
    system: str
    processor: str
    cores: int
    memory_bytes: int | None
    gpus: list[Gpu]
    gpu_problem: str | None
    backends: list[BackendStatus]
    auto: str
    features: list[Feature]
    workspace: str
    exports: list[str]
    bundles: list[str]
    cache: str
    cache_free_bytes: int | None


def diagnose(workspace: Workspace) -> Diagnosis:
    """Look at this machine and at `workspace`. Changes nothing."""
    gpus, gpu_problem = _gpus()
    cache = cache_folder()
    return Diagnosis(
        trtkit=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        cores=usable_cores(),
        memory_bytes=total_memory(),
        gpus=gpus,
        gpu_problem=gpu_problem,
        backends=[_backend(entry) for entry in BACKENDS],
        auto=_auto(),
        features=[_feature(extra) for extra in EXTRAS.values()],
        workspace=str(workspace.root.resolve()),
        exports=workspace.exported(),
        bundles=[folder.name for folder in workspace.bundles()],
        cache=str(cache),
        cache_free_bytes=_free(cache),
    )


def _backend(entry: BackendEntry) -> BackendStatus:
    if not entry.installed:
        return BackendStatus(entry.name, None, [], entry.install)
    try:
        backend = get_backend(entry.name)
    except TrtkitError as error:
        return BackendStatus(entry.name, None, [], entry.install, str(error))
    problem = None
    if backend.cannot_build():
        problem = f"can neither build nor run: {backend.cannot_build()}"
    elif backend.cannot_run():
        problem = f"builds, but cannot run what it builds: {backend.cannot_run()}"
    return BackendStatus(entry.name, backend.version, list(backend.computes), None, problem)


def _auto() -> str:
    try:
        return get_backend("auto").name
    except TrtkitError as error:
        return f"none ({error})"


def _feature(extra: Extra) -> Feature:
    missing = [package.module for package in extra.packages if not package.installed]
    return Feature(
        name=extra.name,
        purpose=extra.purpose,
        packages={p.module: p.version for p in extra.packages if p.installed},
        missing=missing,
        install=extra.install if missing else None,
    )


def _gpus() -> tuple[list[Gpu], str | None]:
    """The GPUs, or why there is none. NVML of a Jetson does not describe its GPU: CUDA does."""
    try:
        gpus = _listed_gpus()
        problem = "NVML lists no GPU"
    except nvml.NvmlError as error:
        gpus, problem = [], str(error)
    if gpus:
        return gpus, None
    from trtkit.engines.cuda import device

    blocked = device.missing()
    if blocked is not None:
        return [], f"{problem}; {blocked}"
    card = device.current_card()
    driver = f"for CUDA {device.driver_version()}"
    return [Gpu(card.name, card.capability, driver, card.memory // 2**20)], None


def _listed_gpus() -> list[Gpu]:
    import pynvml

    with nvml.gpu_handles() as handles:
        return [
            Gpu(
                name=pynvml.nvmlDeviceGetName(handle),
                compute_capability=".".join(
                    map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))
                ),
                driver=pynvml.nvmlSystemGetDriverVersion(),
                memory_mib=pynvml.nvmlDeviceGetMemoryInfo(handle).total // 2**20,
            )
            for handle in handles
        ]


def _free(folder: Path) -> int | None:
    """Free bytes on the disk that `folder` is, or would be, on."""
    for existing in (folder, *folder.resolve().parents):
        if existing.exists():
            return shutil.disk_usage(existing).free
    return None
