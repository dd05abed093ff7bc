"""What this machine is: the card, the driver, the libraries, and the state of the card's clocks."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import pynvml

from acceptance.context import ROOT, Context
from trtkit import __version__
from trtkit.benchmark.clocks import gpu_value, slowdown_reasons
from trtkit.cpu import processor_name, usable_cores
from trtkit.engines.cuda import device
from trtkit.nvml import NvmlError, gpu_handles, supported
from trtkit.subprocesses import CommandFailed, run_command

GIT_SECONDS = 15.0
PACKAGES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "simplejpeg", "torch")
SM, MEMORY = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
PERSISTENCE = {0: "Disabled", 1: "Enabled"}


def identity(backend: Any, card: device.Card) -> dict[str, Any]:
    """What results must have in common to stand in one file."""
    return {
        "card": card.name,
        "compute capability": card.capability,
        "driver": _of_card(lambda handle: pynvml.nvmlSystemGetDriverVersion()),
        "CUDA": device.driver_version(),
        "library": f"{backend.name} {backend.version}",
        "cuda-python": _version("cuda-python") or _version("cuda-bindings"),
        "trtkit": __version__,
    }


def environment(context: Context) -> dict[str, Any]:
    """The first case.

    `driver` and `limits` are NVML's, None where it does not tell them; `cuda` is the newest that the
    driver offers, `cuda_runtime` the one that cuda-python uses. Memory in bytes.
    """
    common = identity(context.backend, context.card)
    runtime = int(device.call("cudaRuntimeGetVersion"))
    return {
        "date": now(),
        "command": context.journal.runs[-1]["command"],
        "card": common["card"],
        "compute_capability": common["compute capability"],
        "card_memory_bytes": context.card.memory,
        "driver": common["driver"],
        "cuda": common["CUDA"],
        "cuda_runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "cuda_python": common["cuda-python"],
        "tensorrt": context.backend.name,
        "tensorrt_version": context.backend.version,
        "python": platform.python_version(),
        "trtkit": __version__,
        "commit": context.commit,
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "limits": _of_card(
            lambda card: {
                "most_sm_clock_mhz": gpu_value("nvmlDeviceGetMaxClockInfo", card, SM),
                "most_memory_clock_mhz": gpu_value("nvmlDeviceGetMaxClockInfo", card, MEMORY),
                "power_limit_watts": _watts("nvmlDeviceGetEnforcedPowerLimit", card),
                "persistence_mode": PERSISTENCE.get(
                    supported("nvmlDeviceGetPersistenceMode", card)
                ),
            }
        ),
    }


def clocks() -> dict[str, Any] | None:
    """The state of the card in use; None where NVML does not tell it."""
    return _of_card(
        lambda card: {
            "sm_clock_mhz": gpu_value("nvmlDeviceGetClockInfo", card, SM),
            "memory_clock_mhz": gpu_value("nvmlDeviceGetClockInfo", card, MEMORY),
            "temperature_celsius": gpu_value(
                "nvmlDeviceGetTemperature", card, pynvml.NVML_TEMPERATURE_GPU
            ),
            "power_watts": _watts("nvmlDeviceGetPowerUsage", card),
            "throttle_reasons": None
            if (reasons := slowdown_reasons(card)) is None
            else f"0x{reasons:016x}",
        }
    )


def now() -> str:
    """The date and time, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def commit() -> str | None:
    """The checkout's commit, `-dirty` when files were changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return run_command(command, timeout=GIT_SECONDS).strip() or None
    except CommandFailed:
        return None


def _of_card(read: Callable[[Any], Any]) -> Any:
    """What `read` makes of the card that CUDA uses, which NVML may count in another order."""
    properties = device.call("cudaGetDeviceProperties", device.call("cudaGetDevice"))
    try:
        address = (
            f"{properties.pciDomainID:08x}:{properties.pciBusID:02x}:{properties.pciDeviceID:02x}.0"
        )
        with gpu_handles():
            return read(pynvml.nvmlDeviceGetHandleByPciBusId(address.encode()))
    except (AttributeError, NvmlError):
        # A Jetson's.
        return None


def _watts(function: str, card: Any) -> float | None:
    milliwatts = gpu_value(function, card)
    return None if milliwatts is None else milliwatts / 1000


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
