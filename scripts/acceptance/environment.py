"""What this machine is: the card, the driver, the libraries, and the state of the card's clocks."""

from __future__ import annotations

import os
from typing import Any

import pynvml
from measure.report import machine

from acceptance.context import ROOT, Case, Context
from trtkit import __version__
from trtkit.benchmark import clocks
from trtkit.benchmark.clocks import Reading
from trtkit.engines.cuda import device
from trtkit.nvml import NvmlError, gpu_handles, supported
from trtkit.subprocesses import CommandFailed, run_command

GIT_SECONDS = 15.0
PERSISTENCE = {0: "Disabled", 1: "Enabled"}


def identity(backend: Any) -> dict[str, Any]:
    """What results must have in common to stand in one file. Raises CudaError without a GPU."""
    card, packages = device.current_card(), machine()["packages"]
    return {
        "card": card.name,
        "compute capability": card.capability,
        "driver": next((limits["driver"] for limits in _limits()), None),
        "CUDA": device.driver_version(),
        "library": f"{backend.name} {backend.version}",
        "cuda-python": packages.get("cuda-python") or packages.get("cuda-bindings"),
        "trtkit": __version__,
    }


def environment(context: Context, case: Case) -> dict[str, Any]:
    """The machine, as measurements describe it, and its card.

    `CUDA` is the newest that the driver offers, `cuda_runtime` the one that cuda-python uses. Memory in
    bytes. `limits`: NVML's, of each card that it lists, None where it does not tell them.
    """
    runtime = int(device.call("cudaRuntimeGetVersion"))
    return {
        **machine(),
        "command": context.journal.runs[-1]["command"],
        **identity(context.backend),
        "cuda_runtime": f"{runtime // 1000}.{runtime % 1000 // 10}",
        "card_memory_bytes": device.current_card().memory,
        "commit": context.commit,
        "limits": _limits(),
    }


def reading() -> Reading:
    """The clocks and the load of this machine now."""
    return clocks.read(os.sched_getaffinity(0))


def commit() -> str | None:
    """The checkout's commit, `-dirty` when files were changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return run_command(command, timeout=GIT_SECONDS).strip() or None
    except CommandFailed:
        return None


def _limits() -> list[dict[str, Any]]:
    """Of each card that NVML lists; a Jetson's it does not."""
    most, mode = "nvmlDeviceGetMaxClockInfo", "nvmlDeviceGetPersistenceMode"
    try:
        with gpu_handles() as cards:
            return [
                {
                    "driver": supported("nvmlSystemGetDriverVersion"),
                    "most_sm_clock_mhz": clocks.gpu_value(most, card, pynvml.NVML_CLOCK_SM),
                    "most_memory_clock_mhz": clocks.gpu_value(most, card, pynvml.NVML_CLOCK_MEM),
                    "power_limit_watts": clocks.watts("nvmlDeviceGetEnforcedPowerLimit", card),
                    "persistence_mode": PERSISTENCE.get(supported(mode, card)),
                }
                for card in cards
            ]
    except NvmlError:
        return []
