"""A stand-in for one version of TensorRT that needs no GPU and has only what that version has."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from tests.engines.simulated import build, config, context, engine, inspection, network
from tests.engines.simulated.api import Interface, Library, listed_enums, make_enum, publish
from tests.engines.simulated.cuda import SimulatedCuda

IMPLEMENTATIONS: dict[str, type] = {
    owner.__name__: owner
    for owner in (
        build.Builder, config.IBuilderConfig, config.IHostMemory, config.IOptimizationProfile,
        config.IProgressMonitor, config.ITimingCache, context.IExecutionContext, context.IProfiler,
        engine.ICudaEngine, engine.IRuntimeConfig, engine.Runtime, inspection.EngineInspector,
        network.Dims, network.ILayer, network.INetworkDefinition, network.ITensor,
        network.OnnxParser, network.ParserError,
    )
}  # fmt: skip
# The documented order, by which loggers filter. It is the same in every version.
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")


class ILogger(Interface):
    def log(self, severity: Any, msg: str) -> None: ...


class Logger(Interface):
    _lib: Library

    def __init__(self, min_severity: Any = None) -> None:
        self._initialised = True
        self._least = self._lib.module.ILogger.WARNING if min_severity is None else min_severity

    @property
    def min_severity(self) -> Any:
        return self._least

    @min_severity.setter
    def min_severity(self, value: Any) -> None:
        self._least = value

    def log(self, severity: Any, msg: str) -> None:
        if severity <= self._least:
            print(f"[TRT] [{severity.name[0]}] {msg}", file=sys.stderr)  # noqa: T201


class Absent:
    """A listed class that the simulation has nothing for."""


def make_tensorrt(
    version: str,
    cuda: SimulatedCuda,
    *,
    deliver: str | None = None,
    fail_build: str | bool = False,
    fail_execute: bool = False,
    dla_cores: int = 0,
) -> ModuleType:
    """The module of TensorRT `version`, a file in tests/engines/tensorrt_api, on the device `cuda`.

    The faults: `deliver` is the precision that every build gets whatever was asked ("fp32" for the
    well-known silent failure); `fail_build` makes builds return None for want of an implementation
    ("memory": of memory); `fail_execute` makes executions return False. The module's `_lib` is the
    Library, where they can be changed later and where `messages` and `builds` are.
    """
    library = Library(version, cuda)
    library.deliver, library.fail_build = deliver, fail_build
    library.fail_execute, library.dla_cores = fail_execute, dla_cores
    module: Any = library.module
    module._lib, module.__version__ = library, library.version
    module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    severity = make_enum("Severity", list(SEVERITIES), list(range(len(SEVERITIES))), {})
    enums = listed_enums(library)
    for owner in library.api:
        if owner in enums:
            setattr(module, owner, enums[owner])
        elif owner not in ("ILogger", "Logger"):
            # The buffer protocol can only be inherited before Python 3.12.
            base = bytes if owner == "IHostMemory" else object
            made = publish(library, owner, IMPLEMENTATIONS.get(owner, Absent), base)
            setattr(module, owner, made)
    logger: Any = publish(library, "ILogger", ILogger)
    for name, member in {"Severity": severity, **severity.__members__}.items():
        setattr(logger, name, member)
    module.ILogger = logger
    module.Logger = publish(library, "Logger", Logger, base=logger)
    return module
