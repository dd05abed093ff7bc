"""What this machine is: the card, the driver, the libraries, and the state of the card's clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml
from measure.report import machine

from acceptance.context import ROOT, Case, Context
from trtkit import __version__
from trtkit.benchmark.clocks import gpu_reading, gpu_value
from trtkit.engines.cuda import device
from trtkit.nvml import NvmlError, gpu_handles, supported
from trtkit.serialization import to_plain
from trtkit.subprocesses import CommandFailed, run_command

GIT_SECONDS = 15.0
MILLIWATTS = 1000
PERSISTENCE = {0: "Disabled", 1: "Enabled"}


def identity(backend: Any) -> dict[str, Any]:
    """What results must have in common to stand in one file. Raises CudaError without a GPU."""
    card, packages = device.current_card(), machine()["packages"]
    return {
        "card": card.name,
        "compute capability": card.capability,
        "driver": _of_card(lambda handle: pynvml.nvmlSystemGetDriverVersion()),
        "CUDA": device.driver_version(),
        "library": f"{backend.name} {backend.version}",
        "cuda-python": packages.get("cuda-python") or packages.get("cuda-bindings"),
        "trtkit": __version__,
    }


def environment(context: Context, case: Case) -> dict[str, Any]:
    """The machine, as measurements describe it, and its card.

    `CUDA` is the newest that the driver offers, `cuda_runtime` the one that cuda-python uses. Memory in
    bytes. `limits` are NVML's, None where it does not tell them.
    """
    runtime = int(device.call("cudaRuntimeGetVersion"))
    return {
        **machine(),
        "command": context.journal.runs[-1]["command"],
        **identity(context.backend),
        "cuda_runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "card_memory_bytes": device.current_card().memory,
        "commit": context.commit,
        "limits": _of_card(_limits),
    }


def clocks() -> dict[str, Any] | None:
    """The state of the card in use; None where NVML does not tell it."""
    return _of_card(
        lambda card: {
            **to_plain(gpu_reading(card)),
            "power_watts": _watts("nvmlDeviceGetPowerUsage", card),
        }
    )


def commit() -> str | None:
    """The checkout's commit, `-dirty` when files were changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return run_command(command, timeout=GIT_SECONDS).strip() or None
    except CommandFailed:
        return None


def _limits(card: Any) -> dict[str, Any]:
    most = "nvmlDeviceGetMaxClockInfo"
    return {
        "most_sm_clock_mhz": gpu_value(most, card, pynvml.NVML_CLOCK_SM),
        "most_memory_clock_mhz": gpu_value(most, card, pynvml.NVML_CLOCK_MEM),
        "power_limit_watts": _watts("nvmlDeviceGetEnforcedPowerLimit", card),
        "persistence_mode": PERSISTENCE.get(supported("nvmlDeviceGetPersistenceMode", card)),
    }


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
    return None if milliwatts is None else milliwatts / MILLIWATTS
