"""The simulated builder configuration, optimization profiles and timing caches."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.engines.simulated.api import Closed, Interface, Library

CACHE_MAGIC = b"simTC\x00"


class IHostMemory(bytes):
    """Bytes that the library owns. Read them through the buffer protocol."""

    _lib: Library

    nbytes = property(lambda self: bytes.__len__(self))
    dtype = property(lambda self: self._lib.module.DataType.INT8)

    def __len__(self) -> int:
        raise TypeError("object of type 'IHostMemory' has no len()")

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in ("nbytes", "dtype"):
            raise AttributeError(f"'IHostMemory' object has no attribute {name!r}")
        return bytes.__getattribute__(self, name)


class IProgressMonitor(Interface):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True

    def phase_finish(self, phase_name: str) -> None: ...


class IOptimizationProfile(Closed):
    _lib: Library

    def _open(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = tuple(tuple(int(n) for n in shape) for shape in (min, opt, max))

    def get_shape(self, input: str) -> list[Any]:
        return [self._lib.module.Dims(shape) for shape in self._shapes.get(input, ())]

    def __bool__(self) -> bool:
        return True


class ITimingCache(Closed):
    _lib: Library

    def _open(self, entries: dict[str, float]) -> None:
        self._entries = entries

    def _where(self) -> list[Any]:
        cuda = self._lib.cuda
        return [self._lib.name, self._lib.version, cuda.device_name, list(cuda.compute_capability)]

    def _load(self, data: bytes) -> bool:
        """Take the entries of serialised bytes; False for damage or another device or version."""
        body = data[len(CACHE_MAGIC) + 32 :]
        checksum = hashlib.sha256(body).digest()
        if not data.startswith(CACHE_MAGIC + checksum):
            return False
        where, entries = json.loads(body)
        if where != self._where():
            return False
        self._entries = entries
        return True

    def serialize(self) -> Any:
        body = json.dumps([self._where(), self._entries]).encode()
        return self._lib.module.IHostMemory(CACHE_MAGIC + hashlib.sha256(body).digest() + body)

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        self._lib.check(input_cache, "ITimingCache")
        self._entries |= input_cache._entries
        return True

    def reset(self) -> bool:
        self._entries.clear()
        return True


def _stored(name: str, kind: str | None = None) -> property:
    """A setting that is kept. With `kind`, an enum of the library that the value must be of."""

    def read(self: Any) -> Any:
        return self._settings[name]

    def write(self: Any, value: Any) -> None:
        if kind is not None and value is not None:
            self._lib.check(value, kind)
        self._settings[name] = value

    return property(read, write)


class IBuilderConfig(Closed):
    _lib: Library

    def _open(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._flags = {"TF32"}
        self._profiles: list[Any] = []
        self._pools: dict[str, int] = {}
        self._cache: Any = None
        self._previews: set[str] = set()
        self._capabilities: list[str] = []
        self._sources = 0
        module = self._lib.module
        self._settings: dict[str, Any] = {
            "profiling_verbosity": module.ProfilingVerbosity.LAYER_NAMES_ONLY,
            "default_device_type": module.DeviceType.GPU,
            "engine_capability": module.EngineCapability.STANDARD,
            "hardware_compatibility_level": None,
            "builder_optimization_level": 3,
            "DLA_core": -1,
            "progress_monitor": None,
            "avg_timing_iterations": 1,
            "max_aux_streams": -1,
            "max_num_tactics": -1,
            "int8_calibrator": None,
        }
        if hasattr(module, "HardwareCompatibilityLevel"):
            none = module.HardwareCompatibilityLevel.NONE
            self._settings["hardware_compatibility_level"] = none

    profiling_verbosity = _stored("profiling_verbosity", "ProfilingVerbosity")
    default_device_type = _stored("default_device_type", "DeviceType")
    engine_capability = _stored("engine_capability", "EngineCapability")
    hardware_compatibility_level = _stored(
        "hardware_compatibility_level", "HardwareCompatibilityLevel"
    )
    builder_optimization_level = _stored("builder_optimization_level")
    DLA_core = _stored("DLA_core")
    progress_monitor = _stored("progress_monitor", "IProgressMonitor")
    avg_timing_iterations = _stored("avg_timing_iterations")
    max_aux_streams = _stored("max_aux_streams")
    max_num_tactics = _stored("max_num_tactics")
    int8_calibrator = _stored("int8_calibrator")
    num_optimization_profiles = property(lambda self: len(self._profiles))

    def set_flag(self, flag: Any) -> None:
        self._lib.check(flag, "BuilderFlag")
        self._flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._lib.check(flag, "BuilderFlag")
        self._flags.discard(flag.name)

    def get_flag(self, flag: Any) -> bool:
        self._lib.check(flag, "BuilderFlag")
        return flag.name in self._flags

    @property
    def flags(self) -> int:
        return sum(1 << int(getattr(self._lib.module.BuilderFlag, name)) for name in self._flags)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._lib.check(pool, "MemoryPoolType")
        self._pools[pool.name] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(pool.name, self._lib.cuda.memory.total)

    def add_optimization_profile(self, profile: Any) -> int:
        self._lib.check(profile, "IOptimizationProfile")
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        made = self._lib.make("ITimingCache", {})
        data = bytes(serialized_timing_cache)
        if data and not made._load(data):
            self._lib.log("WARNING", "Failed to deserialize timing cache. Returning an empty one.")
        return made

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self._lib.check(cache, "ITimingCache")
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        self._sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self._sources

    def set_preview_feature(self, feature: Any, enable: bool) -> None:
        self._lib.check(feature, "PreviewFeature")
        (self._previews.add if enable else self._previews.discard)(feature.name)

    def get_preview_feature(self, feature: Any) -> bool:
        return feature.name in self._previews

    @property
    def num_compute_capabilities(self) -> int:
        return len(self._capabilities)

    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int) -> None:
        kept = self._capabilities[:count]
        self._capabilities = kept + ["NONE"] * (count - len(kept))

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self._lib.check(compute_capability, "ComputeCapability")
        if not 0 <= index < len(self._capabilities):
            self._lib.error(f"setComputeCapability: index {index} is not below the number of them")
            return False
        self._capabilities[index] = compute_capability.name
        return True

    def get_compute_capability(self, index: int) -> Any:
        return getattr(self._lib.module.ComputeCapability, self._capabilities[index])
