"""The simulated runtime and engine: plans are refused where the real ones are."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import numpy as np

from tests.engines.simulated.api import ITEM_SIZES, Closed, Library
from tests.engines.simulated.errors import CudaFailure, SimulationError
from tests.engines.simulated.plan import FORMATS, NUMPY, PlanError, pack, session, unpack

Shapes = dict[str, tuple[int, ...]]


class Core:
    """What an engine and its contexts share. It outlives the objects that users hold."""

    def __init__(self, library: Library, header: dict[str, Any], model: bytes) -> None:
        self.library, self.header, self.model = library, header, model
        self.digest = hashlib.sha256(model).hexdigest()
        self.io = {end["name"]: end for end in header["io"]}
        self.inputs = [end for end in header["io"] if end["mode"] == "INPUT"]
        self.outputs = [end for end in header["io"] if end["mode"] == "OUTPUT"]
        self.profiles_in_use: set[int] = set()
        self._resolved: dict[tuple[Any, ...], Shapes] = {}

    @property
    def dynamic(self) -> bool:
        return any(-1 in end["shape"] for end in self.inputs)

    def scratch_size(self, shapes: Shapes) -> int:
        """Bytes of scratch memory that a run with inputs of these shapes needs."""
        held = sum(self.nbytes(name, shape) for name, shape in shapes.items())
        return 512 + -(-2 * held // 512) * 512

    def largest_scratch(self, profile: int | None = None) -> int:
        chosen = self.header["profiles"]
        if profile is not None:
            chosen = [chosen[profile]]
        return max(self.scratch_size({n: tuple(s[2]) for n, s in p.items()}) for p in chosen)

    def nbytes(self, name: str, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape, dtype=np.int64)) * ITEM_SIZES[self.io[name]["dtype"]]

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs in the types of the engine's ends."""
        opened = session(self.model, self.digest)
        kinds = {value.name: value.type for value in opened.get_inputs()}
        given = {name: value.astype(_numpy_type(kinds[name])) for name, value in feeds.items()}
        names = [end["name"] for end in self.outputs]
        rounded = "HALF" in self.header["precision"] and not self.header["strongly_typed"]
        result = {}
        for name, value in zip(names, opened.run(names, given), strict=True):
            if rounded and value.dtype == np.float32:
                value = value.astype(np.float16)
            result[name] = value.astype(NUMPY[self.io[name]["dtype"]])
        return result

    def resolve(self, shapes: Shapes) -> Shapes:
        """The outputs' shapes for inputs of these shapes."""
        key = tuple(sorted(shapes.items()))
        if key not in self._resolved:
            feeds = {n: np.zeros(s, NUMPY[self.io[n]["dtype"]]) for n, s in shapes.items()}
            self._resolved[key] = {name: value.shape for name, value in self.run(feeds).items()}
        return self._resolved[key]


def _numpy_type(text: str) -> Any:
    kind = text.removeprefix("tensor(").removesuffix(")")
    return np.dtype({"float": "float32", "double": "float64"}.get(kind, kind))


def words(failure: CudaFailure) -> str:
    """CUDA's words for a failure, which is what TensorRT logs."""
    name = str(failure.error.name)
    return "out of memory" if name == "cudaErrorMemoryAllocation" else name


def own_memory(library: Library, owner: Any, size: int, label: str, closed: Any) -> int:
    """Device memory that `owner` holds until it is deleted. Raises CudaFailure when there is none."""
    cuda = library.cuda
    with cuda.locked():
        cuda.refuse_in_capture()
        address = cuda.allocate(size, label)

    def free() -> None:
        # As cudaFree does it: first everything that still runs, which may use the memory.
        try:
            cuda.refuse_in_capture()
        except CudaFailure as failure:
            cuda.last_error = failure.error
        cuda.synchronize()
        cuda.memory.free_device(address)
        closed()

    weakref.finalize(owner, cuda.release, free).atexit = False
    return address


class Runtime:
    _lib: Library

    def __init__(self, logger: Any) -> None:
        lib = self._lib
        lib.use_logger(logger)
        if not lib.rtx and lib.cuda.failure is not None:
            lib.error(
                "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure)"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger, self._host_code = logger, False

    logger = property(lambda self: self._logger)
    num_DLA_cores = property(lambda self: self._lib.dla_cores)
    DLA_core = property(lambda self: -1, lambda self, value: None)

    @property
    def engine_host_code_allowed(self) -> bool:
        return self._host_code

    @engine_host_code_allowed.setter
    def engine_host_code_allowed(self, value: bool) -> None:
        self._host_code = value

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        lib = self._lib
        what = "IRuntime::deserializeCudaEngine: Error Code 1: "
        try:
            header, model = unpack(bytes(serialized_engine))
            if problem := self._problem(header):
                lib.error(what + problem)
                return None
            return lib.make("ICudaEngine", Core(lib, header, model))
        except PlanError as error:
            lib.error(what + f"Serialization (Serialization assertion {error})")
        except CudaFailure as failure:
            lib.error(what + f"Cuda Runtime ({words(failure)})")
        return None

    def _problem(self, header: dict[str, Any]) -> str | None:
        lib, cuda = self._lib, self._lib.cuda
        if cuda.failure is not None:
            return f"Cuda Runtime ({cuda.failure.name})"
        compatible = "VERSION_COMPATIBLE" in header["flags"]
        if compatible and not self._host_code and "EXCLUDE_LEAN_RUNTIME" not in header["flags"]:
            return "API Usage Error (engine_host_code_allowed must be set for a version compatible plan)"
        same = (header["library"], header["version"]) == (lib.name, lib.version)
        older = _numbers(header["version"]) <= _numbers(lib.version)
        if not same and not (compatible and header["library"] == lib.name and older):
            return (
                "Serialization (The engine plan file is not compatible with this version of TensorRT, "
                f"expecting library version {lib.version} got {header['version']}, please rebuild.)"
            )
        return _other_device(header, cuda.compute_capability, lib.rtx)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _other_device(header: dict[str, Any], here: tuple[int, int], rtx: bool) -> str | None:
    built = tuple(header["compute_capability"])
    if rtx:
        named = [name for name in header["compute_capabilities"] if name != "CURRENT"]
        current = "CURRENT" in header["compute_capabilities"] and built == here
        # Turing has to be asked for.
        everywhere = not header["compute_capabilities"] and here >= (8, 0)
        if everywhere or current or f"SM{here[0]}{here[1]}" in named:
            return None
    elif built == here or (header["hardware"] == "AMPERE_PLUS" and here >= (8, 0)):
        return None
    return (
        "Serialization (The engine plan file is generated on an incompatible device, expecting compute "
        f"{here[0]}.{here[1]} got compute {built[0]}.{built[1]}, please rebuild.)"
    )


class ICudaEngine(Closed):
    _lib: Library

    def _open(self, core: Core) -> None:
        self._core, self._header = core, core.header
        size = max(len(core.model), 1)
        own_memory(self._lib, self, size, "weights of an engine", lambda: None)

    num_io_tensors = property(lambda self: len(self._header["io"]))
    num_layers = property(lambda self: len(self._header["layers"]))
    num_optimization_profiles = property(lambda self: len(self._header["profiles"]))
    name = property(lambda self: self._header["name"])
    refittable = property(lambda self: "REFIT" in self._header["flags"])
    device_memory_size = property(lambda self: self._core.largest_scratch())
    device_memory_size_v2 = device_memory_size
    num_aux_streams = property(lambda self: 0)
    streamable_weights_size = property(lambda self: 0)
    has_implicit_batch_dimension = property(lambda self: False)

    @property
    def profiling_verbosity(self) -> Any:
        return getattr(self._lib.module.ProfilingVerbosity, self._header["verbosity"])

    @property
    def hardware_compatibility_level(self) -> Any:
        return getattr(self._lib.module.HardwareCompatibilityLevel, self._header["hardware"])

    def get_tensor_name(self, index: int) -> str:
        return self._header["io"][index]["name"]

    def get_tensor_mode(self, name: str) -> Any:
        end = self._core.io.get(name)
        return getattr(self._lib.module.TensorIOMode, end["mode"] if end else "NONE")

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(self._lib.module.DataType, self._end(name)["dtype"])

    def get_tensor_shape(self, name: str) -> Any:
        return self._lib.module.Dims(self._end(name)["shape"])

    def get_tensor_location(self, name: str) -> Any:
        return self._lib.module.TensorLocation.DEVICE

    def get_tensor_format(self, name: str) -> Any:
        return self._lib.module.TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str) -> str:
        return FORMATS[self._end(name)["dtype"]]

    def get_tensor_bytes_per_component(self, name: str) -> int:
        return ITEM_SIZES[self._end(name)["dtype"]]

    def get_tensor_components_per_element(self, name: str) -> int:
        return 1

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        if self._end(name)["mode"] != "INPUT":
            raise SimulationError(f"only inputs have profile shapes, and {name} is an output")
        shapes = self._header["profiles"][profile_index][name]
        return [self._lib.module.Dims(shape) for shape in shapes]

    def get_device_memory_size_for_profile(self, profile_index: int) -> int:
        return self._core.largest_scratch(profile_index)

    get_device_memory_size_for_profile_v2 = get_device_memory_size_for_profile

    def serialize(self) -> Any:
        return self._lib.module.IHostMemory(pack(self._header, self._core.model))

    def create_engine_inspector(self) -> Any:
        return self._lib.make("EngineInspector", self)

    def create_runtime_config(self) -> Any:
        return self._lib.make("IRuntimeConfig")

    def create_execution_context(self, strategy: Any = None) -> Any:
        name = "STATIC"
        if strategy is not None and not hasattr(
            self._lib.module, "ExecutionContextAllocationStrategy"
        ):
            raise TypeError("create_execution_context(): incompatible function arguments")
        if strategy is not None:
            if hasattr(strategy, "get_execution_context_allocation_strategy"):
                strategy = strategy.get_execution_context_allocation_strategy()
            self._lib.check(strategy, "ExecutionContextAllocationStrategy")
            name = strategy.name
        return self._context(own=name != "USER_MANAGED")

    def create_execution_context_without_device_memory(self) -> Any:
        return self._context(own=False)

    def _context(self, own: bool) -> Any:
        try:
            return self._lib.make("IExecutionContext", self, own)
        except CudaFailure as failure:
            self._lib.error(
                f"createExecutionContext: Error Code 1: Cuda Runtime ({words(failure)})"
            )
            return None

    def _end(self, name: str) -> dict[str, Any]:
        if name not in self._core.io:
            raise SimulationError(f"the engine has no tensor {name!r} but {list(self._core.io)}")
        return self._core.io[name]


class IRuntimeConfig(Closed):
    _lib: Library

    def _open(self) -> None:
        self._strategy = self._lib.module.ExecutionContextAllocationStrategy.STATIC

    def get_execution_context_allocation_strategy(self) -> Any:
        return self._strategy

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._lib.check(strategy, "ExecutionContextAllocationStrategy")
        self._strategy = strategy
