"""`trtkit doctor`: what this machine can do and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trtkit import __version__
from trtkit.cpu import processor_name, usable_cores
from trtkit.engines.registry import BACKENDS, BackendEntry, get_backend
from trtkit.errors import TrtkitError
from trtkit.extras import EXTRAS, Extra
from trtkit.store.cache import cache_folder
from trtkit.workspace import Workspace

NVIDIA_SMI_SECONDS = 10


@dataclass(frozen=True)
class Backend:
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
    """A GPU as nvidia-smi names it; memory in MiB."""

    name: str
    compute_capability: str
    driver: str
    memory_mib: int


@dataclass(frozen=True)
class Diagnosis:
    """All that doctor found. Memory and free space in bytes."""

    trtkit: str
    python: str
    system: str
    processor: str
    cores: int
    memory_bytes: int | None
    gpus: list[Gpu]
    gpu_problem: str | None
    backends: list[Backend]
    auto: str
    features: list[Feature]
    workspace: str
    exports: list[str]
    bundles: list[str]
    cache: str
    cache_free_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def doctor(*, workspace: str | Path | None = None) -> Diagnosis:
    """Look at this machine. Changes nothing; takes at most the time nvidia-smi does."""
    place = Workspace.at(workspace)
    gpus, gpu_problem = _gpus()
    cache = cache_folder()
    return Diagnosis(
        trtkit=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=processor_name(),
        cores=usable_cores(),
        memory_bytes=_memory(),
        gpus=gpus,
        gpu_problem=gpu_problem,
        backends=[_backend(entry) for entry in BACKENDS],
        auto=_auto(),
        features=[_feature(extra) for extra in EXTRAS.values()],
        workspace=str(place.root.resolve()),
        exports=place.exported(),
        bundles=[folder.name for folder in place.bundles()],
        cache=str(cache),
        cache_free_bytes=_free(cache),
    )


def _backend(entry: BackendEntry) -> Backend:
    if not entry.installed:
        return Backend(entry.name, None, [], entry.install)
    try:
        backend = get_backend(entry.name)
    except TrtkitError as error:
        return Backend(entry.name, None, [], entry.install, str(error))
    problem = None
    if backend.cannot_build():
        problem = f"can neither build nor run: {backend.cannot_build()}"
    elif backend.cannot_run():
        problem = f"builds, but cannot run what it builds: {backend.cannot_run()}"
    return Backend(entry.name, backend.version, list(backend.computes), None, problem)


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
    """The GPUs, or why none was found. A Jetson has no nvidia-smi that lists its GPU: CUDA does."""
    gpus, problem = _listed_gpus()
    if gpus:
        return gpus, None
    from trtkit.engines.cuda import device

    blocked = device.missing()
    if blocked is not None:
        return [], f"{problem}; {blocked}"
    card = device.current_card()
    driver = f"for CUDA {device.driver_version()}"
    return [Gpu(card.name, card.capability, driver, card.memory // 2**20)], None


def _listed_gpus() -> tuple[list[Gpu], str | None]:
    if shutil.which("nvidia-smi") is None:
        return [], "nvidia-smi is not on the PATH"
    query = ["nvidia-smi", "--format=csv,noheader,nounits"]
    query.append("--query-gpu=name,compute_cap,driver_version,memory.total")
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=True
        )
    except subprocess.CalledProcessError as error:
        return [], f"nvidia-smi failed: {(error.stdout or error.stderr).strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi failed: {error}"
    gpus = []
    for line in answer.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[3].isdigit():
            gpus.append(Gpu(fields[0], fields[1], fields[2], int(fields[3])))
    return gpus, None if gpus else "nvidia-smi lists no GPU"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        # Not every system counts its pages.
        return None


def _free(folder: Path) -> int | None:
    """Free bytes on the disk that `folder` is, or would be, on."""
    for existing in (folder, *folder.resolve().parents):
        if existing.exists():
            return shutil.disk_usage(existing).free
    return None
