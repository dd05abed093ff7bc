"""CUDA and TensorRT for machines without a GPU: they run what they are given, and forgive nothing."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from cuda import bindings
from cuda.bindings import runtime as real_runtime

from tests.engines.simulated.api import VERSIONS, Library
from tests.engines.simulated.cuda import SimulatedCuda
from tests.engines.simulated.errors import SimulationError
from tests.engines.simulated.tensorrt import make_tensorrt

__all__ = ["VERSIONS", "SimulatedCuda", "Simulation", "SimulationError", "install", "make_tensorrt"]
LIBRARIES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")


@dataclass
class Simulation:
    """What is installed: the CUDA runtime, the TensorRT module, and the library's knobs and records.

    `library.deliver`, `.fail_build`, `.fail_execute`, `.capturable` and `.dla_cores` may be set at any
    time; `library.messages` and `.builds` say what happened.
    """

    cuda: SimulatedCuda
    trt: Any
    library: Library


def install(
    monkeypatch: pytest.MonkeyPatch,
    version: str = "10.3.0",
    *,
    seed: int = 0,
    memory: int = 8 << 30,
    device_name: str = "Simulated GPU",
    compute_capability: tuple[int, int] = (8, 6),
    no_device: bool = False,
    driver_too_old: bool = False,
    busy: float = 0.15,
    deliver: str | None = None,
    fail_build: str | bool = False,
    fail_execute: bool = False,
    dla_cores: int = 0,
    import_error: str | None = None,
) -> Simulation:
    """Put a simulated GPU and TensorRT `version` in place of the real modules until the test ends.

    No other TensorRT can be imported meanwhile. With `import_error` TensorRT is found, but importing it
    raises ImportError with that text. Modules of trtkit that hold a CUDA runtime already get this one.
    """
    device = SimulatedCuda(
        seed=seed,
        memory=memory,
        device_name=device_name,
        compute_capability=compute_capability,
        no_device=no_device,
        driver_too_old=driver_too_old,
        busy=busy,
    )
    trt = make_tensorrt(
        version,
        device,
        deliver=deliver,
        fail_build=fail_build,
        fail_execute=fail_execute,
        dla_cores=dla_cores,
    )
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, None)
    if import_error is None:
        monkeypatch.setitem(sys.modules, trt.__name__, trt)
    else:
        monkeypatch.delitem(sys.modules, trt.__name__)
        broken = _Broken(trt.__name__, import_error)
        monkeypatch.setattr(sys, "meta_path", [broken, *sys.meta_path])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", device)
    monkeypatch.setattr(bindings, "runtime", device)
    for name, module in list(sys.modules.items()):
        if name.startswith("trtkit.") and isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is real_runtime or isinstance(value, SimulatedCuda):
                    monkeypatch.setattr(module, attribute, device)
    return Simulation(device, trt, trt._lib)


class _Broken:
    """Finds a library whose import fails, as one does whose shared objects are missing."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.text = name, text

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name == self.name else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(self.text, name=self.name)
