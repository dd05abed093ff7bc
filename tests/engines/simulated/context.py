"""The simulated execution context: each run is two queued ops, so that missing order shows."""

from __future__ import annotations

import itertools
import sys
import weakref
import zlib
from typing import Any

import numpy as np

from tests.engines.simulated.api import Closed, Interface, Library
from tests.engines.simulated.engine import Core, Shapes, own_memory
from tests.engines.simulated.errors import CudaFailure, SimulationError
from tests.engines.simulated.memory import ALIGNMENT
from tests.engines.simulated.plan import NUMPY

_tokens = itertools.count(1)


class Life:
    """Whether a context still exists, and runs: queued work outlives the object."""

    ended = False
    running = False


class Run:
    """One enqueued execution, with the shapes and addresses it was enqueued with."""

    def __init__(
        self,
        core: Core,
        life: Life,
        scratch: tuple[int, int],
        shapes: Shapes,
        addresses: dict[str, int],
    ) -> None:
        self.core, self.life, self.scratch = core, life, scratch
        self.shapes = {**shapes, **core.resolve(shapes)}
        self.addresses = dict(addresses)
        self._token = np.empty(0, np.uint8)
        self._seen: dict[str, int] = {}

    def view(self, name: str) -> np.ndarray:
        size = self.core.nbytes(name, self.shapes[name])
        table = self.core.library.cuda.memory.device
        return table.view(self.addresses[name], size, f"tensor {name}")

    def _scratch(self) -> np.ndarray:
        return self.core.library.cuda.memory.device.view(*self.scratch, "scratch memory")

    def check(self) -> None:
        for name in self.shapes:
            self.view(name)
        self._scratch()

    def begin(self) -> None:
        if self.life.ended:
            raise SimulationError("an execution context was deleted before its work had run")
        if self.life.running:
            raise SimulationError("an execution context runs on two streams at once")
        self.life.running = True
        held = self._scratch()
        self._token = np.resize(
            np.frombuffer(next(_tokens).to_bytes(8, "little"), np.uint8), len(held)
        )
        held[:] = self._token
        self._seen = {end["name"]: zlib.crc32(self.view(end["name"])) for end in self.core.inputs}
        for end in self.core.outputs:
            # Until the end nobody knows what is there.
            self.view(end["name"])[:] = 0xFF

    def end(self) -> None:
        self.life.running = False
        if self.life.ended:
            raise SimulationError("an execution context was deleted while its work ran")
        if not np.array_equal(self._scratch(), self._token):
            raise SimulationError("scratch memory used by two engines at once")
        feeds = {}
        for end in self.core.inputs:
            name = end["name"]
            data = self.view(name)
            if zlib.crc32(data) != self._seen[name]:
                raise SimulationError(f"the input {name} was written while an engine read it")
            feeds[name] = data.view(NUMPY[end["dtype"]]).reshape(self.shapes[name])
        for name, value in self.core.run(feeds).items():
            self.view(name)[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)


class IExecutionContext(Closed):
    _lib: Library

    def _open(self, engine: Any, own: bool) -> None:
        self._engine, self._core, self._life = engine, engine._core, Life()
        self._own, self._scratch = own, (0, 0)
        self._addresses: dict[str, int] = {}
        self._profiler: Any = None
        self._emits = True
        self._name = ""
        self._last_run: Any = None
        self._runs = 0
        # The stream of the run that the profiler has not been told of, and the run's end.
        self._untold: tuple[int, Any] | None = None
        core, life = self._core, self._life
        held: set[int] = set()
        if own:
            size = core.largest_scratch()
            address = own_memory(self._lib, self, size, "an execution context", lambda: _end(life))
            self._scratch = (address, size)
        else:
            weakref.finalize(self, _end, life).atexit = False
        weakref.finalize(self, core.profiles_in_use.difference_update, held).atexit = False
        self._held, self._profile = held, -1
        self._forget_shapes()
        # Where contexts cannot share a profile, only the first gets one by itself.
        self._take_profile(0)

    engine = property(lambda self: self._engine)
    active_optimization_profile = property(lambda self: self._profile)
    all_binding_shapes_specified = property(lambda self: not self.infer_shapes())

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def profiler(self) -> Any:
        return self._profiler

    @profiler.setter
    def profiler(self, value: Any) -> None:
        self._lib.check(value, "IProfiler")
        self._profiler = value

    @property
    def enqueue_emits_profile(self) -> bool:
        return self._emits

    @enqueue_emits_profile.setter
    def enqueue_emits_profile(self, value: bool) -> None:
        self._emits = value

    def _take_profile(self, index: int) -> bool:
        lib, core = self._lib, self._core
        sharing = lib.major != 8 or lib.rtx or "PROFILE_SHARING_0806" in core.header["previews"]
        if core.dynamic and not sharing and index in core.profiles_in_use - self._held:
            return False
        core.profiles_in_use.difference_update(self._held)
        self._held.clear()
        self._held.add(index)
        core.profiles_in_use.add(index)
        self._profile = index
        self._forget_shapes()
        return True

    def _forget_shapes(self) -> None:
        self._shapes: dict[str, tuple[int, ...] | None] = {
            end["name"]: None if -1 in end["shape"] else tuple(end["shape"])
            for end in self._core.inputs
        }

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._lib.cuda.locked():
            stream = self._lib.cuda.stream(_handle(stream_handle))
            if not 0 <= profile_index < len(self._core.header["profiles"]):
                return self._refuse(f"profile {profile_index} does not exist")
            if stream.capture is not None:
                return self._refuse("the profile cannot be switched while the stream is captured")
            if not self._take_profile(profile_index):
                return self._refuse(
                    f"profile {profile_index} is in use by another execution context"
                )
            self._lib.cuda.enqueue(stream, "profile", None)
            return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        wanted = tuple(int(size) for size in shape)
        if name not in self._shapes:
            return self._refuse(f"setInputShape: {name} is no input")
        if self._profile < 0:
            return self._refuse("setInputShape: no optimization profile is selected")
        low, _, high = self._core.header["profiles"][self._profile][name]
        fits = len(wanted) == len(low) and all(
            a <= n <= b for a, n, b in zip(low, wanted, high, strict=True)
        )
        if not fits:
            text = f"Supplied binding dimension {wanted} for {name} exceed min ~ max range {low} ~ {high}"
            return self._refuse(f"setInputShape: Error Code 3: API Usage Error ({text})")
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Any:
        shape = self._engine._end(name)["shape"]
        if name in self._shapes:
            shape = self._shapes[name] or shape
        elif None not in self._shapes.values():
            shape = self._core.resolve(self._known())[name]
        return self._lib.module.Dims(shape)

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self._shapes.items() if shape is None]

    def get_max_output_size(self, name: str) -> int:
        largest = {n: tuple(s[2]) for n, s in self._core.header["profiles"][self._profile].items()}
        return self._core.nbytes(name, self._core.resolve(largest)[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._core.io:
            return self._refuse(f"setTensorAddress: {name} is no tensor of the engine")
        if _handle(memory) % ALIGNMENT:
            raise SimulationError(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
        self._addresses[name] = memory
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def _set_scratch(self, memory: int, size: int) -> None:
        if self._own:
            raise SimulationError("device memory was given to a context that has its own")
        if _handle(memory) % ALIGNMENT:
            raise SimulationError(f"scratch memory is not aligned to {ALIGNMENT} bytes")
        with self._lib.cuda.locked():
            self._lib.cuda.memory.device.view(memory, size, "scratch memory")
        self._scratch = (memory, size)

    device_memory = property(
        None, lambda self, memory: self._set_scratch(memory, self._core.largest_scratch())
    )

    def set_device_memory(self, memory: int, size: int) -> None:
        self._set_scratch(memory, size)

    def update_device_memory_size_for_shapes(self) -> int:
        if self.infer_shapes():
            self._refuse("updateDeviceMemorySizeForShapes: not all input shapes are set")
            return 0
        return self._core.scratch_size(self._known())

    def is_stream_capturable(self, stream: int) -> bool:
        return self._lib.capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._lib.cuda
        with cuda.locked():
            cuda.drift()
            stream = cuda.stream(_handle(stream_handle))
            if problem := self._problem():
                return self._refuse(f"enqueueV3: Error Code 3: API Usage Error ({problem})")
            shapes = self._known()
            run = Run(self._core, self._life, self._scratch, shapes, self._addresses)
            run.check()
            state = (self._profile, shapes)
            if stream.capture is not None and self._last_run != state:
                # The first run with new shapes does work that a graph cannot hold.
                stream.capture.spoil(cuda.cudaError_t.cudaErrorStreamCaptureUnsupported)
                return self._refuse("enqueueV3: run once with these shapes before capturing")
            self._last_run = state
            try:
                cuda.enqueue(stream, "engine begin", run.begin)
                cuda.enqueue(stream, "engine end", run.end)
            except CudaFailure as failure:
                return self._refuse(f"enqueueV3: Error Code 1: Cuda Runtime ({failure.error.name})")
            if stream.capture is None:
                self._runs += 1
                # Only a run that began with a profiler has its events.
                timed = self._profiler is not None
                self._untold = (stream_handle, stream.last) if timed else None
        if self._profiler is not None and self._emits:
            self._tell_profiler()
        return True

    def report_to_profiler(self) -> bool:
        if self._profiler is not None and self._emits and not self._lib.fail_report:
            return True
        if self._profiler is None or self._untold is None or self._lib.fail_report:
            return self._refuse("reportToProfiler: no profiler, or no run to report")
        self._tell_profiler()
        return True

    def _tell_profiler(self) -> None:
        """Wait for the last run, then tell its layers one by one."""
        if self._untold is None:
            return
        (handle, end), self._untold = self._untold, None
        cuda = self._lib.cuda
        with cuda.locked():
            if cuda.stream(handle).capture is not None:
                raise SimulationError("a profiler was told while its stream was captured")
            cuda.schedule.force([end])
        for layer in self._core.header["layers"]:
            name = self._lib.layer_name(layer["nodes"])
            try:
                self._profiler.report_layer_time(name, self._lib.layer_ms(name, self._runs))
            except BaseException as error:  # noqa: BLE001
                # As NVIDIA's bindings do, in which not even Ctrl-C gets through.
                print(f"[ERROR] Exception caught in report_layer_time(): {error}", file=sys.stderr)  # noqa: T201

    def _problem(self) -> str | None:
        if self._lib.fail_execute:
            return "a failure that the test asked for"
        if missing := self.infer_shapes():
            return f"input shapes are not set: {missing}"
        if missing := [name for name in self._core.io if not self._addresses.get(name)]:
            return f"addresses are not set: {missing}"
        if self._scratch[1] < self._core.scratch_size(self._known()):
            return f"device memory of {self._scratch[1]} bytes is too little"
        return None

    def _known(self) -> Shapes:
        return {name: shape for name, shape in self._shapes.items() if shape is not None}

    def _refuse(self, text: str) -> bool:
        self._lib.error(f"IExecutionContext::{text}")
        return False


def _end(life: Life) -> None:
    life.ended = True


def _handle(value: Any) -> int:
    """A pointer or stream as TensorRT's bindings take it: a plain int."""
    if not isinstance(value, int):
        raise TypeError(f"incompatible function arguments: {value!r} is no int")
    return value


class IProfiler(Interface):
    def report_layer_time(self, layer_name: str, ms: float) -> None: ...
