"""What this machine is: the card, the driver, the libraries, and the state of the card's clocks."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acceptance.context import Context
from acceptance.settings import ROOT
from trtkit import __version__
from trtkit.cpu import usable_cores
from trtkit.engines.cuda import device

ANSWER_SECONDS = 15
# nvidia-smi's name of a field, or the names that it has had; what becomes of it.
STATE = {
    "sm_clock_mhz": ("clocks.sm",),
    "memory_clock_mhz": ("clocks.mem",),
    "temperature_celsius": ("temperature.gpu",),
    "power_watts": ("power.draw",),
    "throttle_reasons": ("clocks_event_reasons.active", "clocks_throttle_reasons.active"),
}
LIMITS = {
    "driver": ("driver_version",),
    "most_sm_clock_mhz": ("clocks.max.sm",),
    "most_memory_clock_mhz": ("clocks.max.mem",),
    "power_limit_watts": ("power.limit",),
    "persistence_mode": ("persistence_mode",),
}


@dataclass(frozen=True)
class Environment:
    """`driver` and `limits` are nvidia-smi's, None where it is not there; `cuda` the newest that the
    driver offers, `cuda_runtime` the one that cuda-python uses. Memory in bytes."""

    date: str
    command: str
    card: str
    compute_capability: str
    card_memory_bytes: int
    driver: str | None
    cuda: str
    cuda_runtime: str
    cuda_python: str | None
    tensorrt: str
    tensorrt_version: str
    python: str
    trtkit: str
    commit: str | None
    system: str
    processor: str
    cores: int
    packages: dict[str, str]
    limits: dict[str, str | None] | None


def environment(context: Context) -> Environment:
    """The step of that name."""
    card = context.card
    limits = smi(LIMITS)
    return Environment(
        date=now(),
        command=context.journal.runs[-1]["command"],
        card=card.name,
        compute_capability=card.capability,
        card_memory_bytes=card.memory,
        driver=limits.pop("driver") if limits else None,
        cuda=device.driver_version(),
        cuda_runtime=_runtime_version(),
        cuda_python=version_of("cuda-python", "cuda-bindings"),
        tensorrt=context.backend.name,
        tensorrt_version=context.backend.version,
        python=platform.python_version(),
        trtkit=__version__,
        commit=context.commit,
        system=platform.platform(),
        processor=_processor(),
        cores=usable_cores(),
        packages={
            name: found
            for name in ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "simplejpeg", "torch")
            if (found := version_of(name))
        },
        limits=limits,
    )


def identity(backend: Any, card: device.Card) -> dict[str, Any]:
    """What results must have in common to stand in one file."""
    limits = smi({"driver": LIMITS["driver"]})
    return {
        "card": card.name,
        "compute capability": card.capability,
        "driver": limits["driver"] if limits else None,
        "CUDA": device.driver_version(),
        "library": f"{backend.name} {backend.version}",
        "cuda-python": version_of("cuda-python", "cuda-bindings"),
        "trtkit": __version__,
    }


def now() -> str:
    """The date and time, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def command_line(arguments: Sequence[str]) -> str:
    """The command that was given, without the folders of this machine."""
    names = [Path(text).name if text.startswith("/") else text for text in arguments]
    return shlex.join(["scripts/gpu_acceptance", *names])


def commit() -> str | None:
    """The checkout's commit, `-dirty` when files were changed since; None without git."""
    answer = _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return answer.strip() or None if answer is not None else None


def clocks() -> dict[str, str | None] | None:
    """The state of the card now; None where there is no nvidia-smi that tells."""
    return smi(STATE)


def smi(fields: Mapping[str, tuple[str, ...]]) -> dict[str, str | None] | None:
    """What nvidia-smi says of the card in use, None for what it does not know; None without it."""
    if shutil.which("nvidia-smi") is None:
        return None
    values = _query([names[0] for names in fields.values()])
    if values is not None:
        return dict(zip(fields, values, strict=True))
    found: dict[str, str | None] = {}
    for field, names in fields.items():
        answers = (_query([name]) for name in names)
        found[field] = next((answer[0] for answer in answers if answer), None)
    return found if any(found.values()) else None


def _query(names: list[str]) -> list[str | None] | None:
    command = ["nvidia-smi", "--format=csv,noheader,nounits", f"--query-gpu={','.join(names)}"]
    place = _place()
    if place is not None:
        command.append(f"--id={place}")
    answer = _output(command)
    lines = (answer or "").strip().splitlines()
    values = [part.strip() for part in lines[0].split(",")] if lines else []
    if len(values) != len(names):
        return None
    return [None if value.startswith("[") or value == "N/A" else value for value in values]


def _place() -> str | None:
    """The PCI address of the card that CUDA uses: nvidia-smi may count the cards in another order."""
    properties = device.call("cudaGetDeviceProperties", device.call("cudaGetDevice"))
    names = ("pciDomainID", "pciBusID", "pciDeviceID")
    if not all(hasattr(properties, name) for name in names):
        return None
    domain, bus, slot = (int(getattr(properties, name)) for name in names)
    return f"{domain:08x}:{bus:02x}:{slot:02x}.0"


def version_of(*distributions: str) -> str | None:
    """The version of the first of these that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _runtime_version() -> str:
    number = int(device.call("cudaRuntimeGetVersion"))
    return f"{number // 1000}.{number % 1000 // 10}"


def _processor() -> str:
    from measure.common import machine

    return str(machine()["cpu"])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
