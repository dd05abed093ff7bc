"""A stand-in for `cuda.bindings.runtime` that needs no GPU and forgives no missing synchronisation."""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from random import Random
from types import SimpleNamespace
from typing import Any

from cuda.bindings import runtime as real

from tests.engines.simulated.calls import call
from tests.engines.simulated.capture import Capture, Event, Exec, Graph, Stream
from tests.engines.simulated.errors import CudaFailure, SimulationError
from tests.engines.simulated.memory import Memory, address_of
from tests.engines.simulated.schedule import Op, Schedule
from tests.engines.simulated.streams import StreamCalls

Error = real.cudaError_t
Kind = real.cudaMemcpyKind
DIRECTIONS = {
    Kind.cudaMemcpyHostToHost: "H2H",
    Kind.cudaMemcpyHostToDevice: "H2D",
    Kind.cudaMemcpyDeviceToHost: "D2H",
    Kind.cudaMemcpyDeviceToDevice: "D2D",
}
DEFAULT_STREAMS = (0, 1, 2)
_handles = itertools.count(0x1000, 16)
_owners: dict[int, weakref.ref[SimulatedCuda]] = {}


class SimulatedCuda(StreamCalls):
    """One simulated GPU, with the functions of `cuda.bindings.runtime` as methods.

    Work that a stream is given runs late and in any order that streams and events allow, chosen by
    `seed`. What real hardware would silently get wrong raises SimulationError, and is kept in
    `mistakes` in case a thread swallows it. The default stream is refused: it would hide mistakes.
    `busy` is how likely the device makes progress of its own at each call.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        memory: int = 8 << 30,
        device_name: str = "Simulated GPU",
        compute_capability: tuple[int, int] = (8, 6),
        no_device: bool = False,
        driver_too_old: bool = False,
        driver_version: int = 13000,
        runtime_version: int = 13000,
        busy: float = 0.15,
    ) -> None:
        self.failure: Any = None
        if no_device:
            self.failure = Error.cudaErrorNoDevice
        if driver_too_old:
            self.failure = Error.cudaErrorInsufficientDriver
        self.device_name, self.compute_capability = device_name, compute_capability
        self.driver_version, self.runtime_version = driver_version, runtime_version
        self.busy = busy
        self.memory = Memory(memory)
        self.random = Random(seed)
        self.schedule = Schedule(self.random)
        self.captures = self.launches = 0
        self.mistakes: list[str] = []
        self.last_error: Any = Error.cudaSuccess
        self._lock, self._depth, self._ending = threading.RLock(), 0, False
        self._released: deque[Callable[[], None]] = deque()
        self._objects: dict[int, Any] = {}
        self._gone: dict[int, str] = {}
        self.capturing: list[Capture] = []
        self.__name__ = "cuda.bindings.runtime"
        self.__spec__ = importlib.machinery.ModuleSpec(self.__name__, None)

    def __getattr__(self, name: str) -> Any:
        value = getattr(real, name)  # AttributeError where the real module has no such name
        if callable(value) and not isinstance(value, type):
            raise SimulationError(f"the simulation has no {name}")
        return value

    # What tests look at.

    @property
    def log(self) -> list[tuple[int, str]]:
        """(stream, kind) of everything that has run, in order."""
        return self.schedule.log

    @property
    def peak_bytes(self) -> dict[str, int]:
        return {"device": self.memory.device.peak, "pinned": self.memory.pinned.peak}

    def live(self) -> dict[str, int]:
        """How many objects and bytes are alive."""
        with self.locked():
            kinds = [type(value) for value in self._objects.values()]
            return {
                "streams": kinds.count(Stream),
                "events": kinds.count(Event),
                "graphs": kinds.count(Graph),
                "graph_execs": kinds.count(Exec),
                "device_allocations": len(self.memory.device.live),
                "device_bytes": self.memory.device.bytes,
                "pinned_allocations": len(self.memory.pinned.live),
                "pinned_bytes": self.memory.pinned.bytes,
            }

    def assert_clean(self) -> None:
        """Raises SimulationError when anything is still alive or any mistake was made."""
        gc.collect()
        with self.locked():
            self.synchronize()
        left = {name: count for name, count in self.live().items() if count}
        if self.mistakes:
            raise SimulationError(f"mistakes: {self.mistakes}")
        if left:
            tables = (self.memory.device, self.memory.pinned)
            labels = [allocation.label for table in tables for allocation in table.live]
            raise SimulationError(f"leaked: {left} {labels}")

    def read(self, address: int, count: int) -> bytes:
        """The bytes of device memory as they are now, without running anything."""
        with self.locked():
            return self.memory.device.view(int(address), count, "a test's read").tobytes()

    # What the simulated TensorRT uses, and the calls below.

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._free_released()
                yield
            except SimulationError as mistake:
                if self._depth == 1:
                    self.mistakes.append(str(mistake))
                raise
            finally:
                if self._depth == 1:
                    self._free_released()
                self._depth -= 1

    def release(self, free: Callable[[], None]) -> None:
        """Run `free` now, or when the call that the garbage collector interrupted has ended."""
        self._released.append(free)
        if self._lock.acquire(blocking=False):
            try:
                if self._depth == 0:
                    with self.locked():
                        pass
            finally:
                self._lock.release()

    @property
    def nested(self) -> bool:
        """Whether this call was made inside another one, other than to end what was released."""
        return self._depth > 1 and not self._ending

    def _free_released(self) -> None:
        while self._released:
            free = self._released.popleft()
            self._ending = True
            try:
                free()
            except SimulationError as mistake:
                self.mistakes.append(f"{mistake} (while freeing)")
            finally:
                self._ending = False

    def drift(self) -> None:
        if self.random.random() < self.busy:
            self.schedule.drift(4)

    def synchronize(self) -> None:
        self.schedule.force(self.schedule.pending)

    def refuse_in_capture(self) -> None:
        forbidding = [capture for capture in self.capturing if capture.forbids_unsafe_calls()]
        for capture in forbidding:
            capture.spoil(Error.cudaErrorStreamCaptureUnsupported)
        if forbidding:
            raise CudaFailure(Error.cudaErrorStreamCaptureUnsupported)

    def allocate(self, size: int, label: str) -> int:
        address = self.memory.allocate_device(size, label) if size else 0
        if address is None:
            raise CudaFailure(Error.cudaErrorMemoryAllocation)
        return address

    def stream(self, handle: Any) -> Stream:
        if address_of(handle) in DEFAULT_STREAMS:
            raise SimulationError(
                "the default stream was used; every call must name its own stream"
            )
        found: Stream = self.find(handle, Stream)
        return found

    def enqueue(
        self,
        stream: Stream,
        kind: str,
        action: Callable[[], None] | None,
        behind: Iterable[Op] = (),
    ) -> None:
        """Queue work behind what the stream holds, or record it while the stream is captured."""
        if stream.capture is not None:
            stream.capture.add(stream, kind, action)
        else:
            before = [stream.last] if stream.last else []
            stream.last = self.schedule.add(Op(stream.handle, kind, action, [*before, *behind]))

    def find(self, handle: Any, kind: type) -> Any:
        number = address_of(handle)
        found = self._objects.get(number)
        if type(found) is not kind:
            known = self._gone.get(number) or (type(found).__name__ if found else "unknown")
            raise SimulationError(f"{number:#x} is no live {kind.__name__} but {known}")
        return found

    def register(self, make: Callable[[int], Any]) -> int:
        handle = next(_handles)
        _owners[handle] = weakref.ref(self)
        self._objects[handle] = make(handle)
        return handle

    def drop(self, handle: Any, kind: type) -> None:
        number = address_of(handle)
        if number in _owners and _owners[number]() is not self:
            return  # an object of an earlier simulation that was collected late
        self.find(handle, kind)
        del self._objects[number]
        self._gone[number] = f"a destroyed {kind.__name__}"

    # Devices and errors.

    @call(1)
    def cudaGetDeviceCount(self):
        return 1

    @call(1)
    def cudaGetDevice(self):
        return 0

    @call()
    def cudaSetDevice(self, device):
        if device != 0:
            raise CudaFailure(Error.cudaErrorInvalidDevice)

    @call(1)
    def cudaGetDeviceProperties(self, device):
        if device != 0:
            raise CudaFailure(Error.cudaErrorInvalidDevice)
        major, minor = self.compute_capability
        return SimpleNamespace(
            name=self.device_name.encode(),
            major=major,
            minor=minor,
            totalGlobalMem=self.memory.total,
            multiProcessorCount=16,
        )

    @call(1, device=False)
    def cudaDriverGetVersion(self):
        return 0 if self.failure == Error.cudaErrorNoDevice else self.driver_version

    @call(1, device=False)
    def cudaRuntimeGetVersion(self):
        return self.runtime_version

    def cudaGetErrorString(self, error):
        return real.cudaGetErrorString(error)

    def cudaGetErrorName(self, error):
        return real.cudaGetErrorName(error)

    def cudaGetLastError(self):
        last, self.last_error = self.last_error, Error.cudaSuccess
        return (last,)

    @call(unsafe=True)
    def cudaDeviceSynchronize(self):
        self.synchronize()

    # Memory.

    @call(1, unsafe=True)
    def cudaMalloc(self, size):
        return self.allocate(size, "cudaMalloc")

    @call(unsafe=True, ends=True)
    def cudaFree(self, devPtr):
        self.synchronize()
        if address_of(devPtr) and not self.memory.foreign(address_of(devPtr)):
            self.memory.free_device(address_of(devPtr))

    @call(1, unsafe=True)
    def cudaMallocHost(self, size):
        return self.memory.allocate_pinned(size) if size else 0

    @call(1, unsafe=True)
    def cudaHostAlloc(self, size, flags):
        return self.memory.allocate_pinned(size) if size else 0

    @call(unsafe=True, ends=True)
    def cudaFreeHost(self, ptr):
        self.synchronize()
        if address_of(ptr) and not self.memory.foreign(address_of(ptr)):
            self.memory.free_pinned(address_of(ptr))

    @call(2)
    def cudaMemGetInfo(self):
        return self.memory.total - self.memory.device.bytes, self.memory.total

    @call(1)
    def cudaPointerGetAttributes(self, ptr):
        kinds = real.cudaMemoryType
        types = {
            "device": kinds.cudaMemoryTypeDevice,
            "pinned": kinds.cudaMemoryTypeHost,
            "host": kinds.cudaMemoryTypeUnregistered,
        }
        return SimpleNamespace(type=types[self.memory.where(address_of(ptr))], device=0)

    # Copies.

    def _direction(self, dst: int, src: int, kind: Any) -> str:
        if not isinstance(kind, Kind):
            raise TypeError(f"kind must be a cudaMemcpyKind, not {kind!r}")
        device = {place: self.memory.where(place) == "device" for place in (dst, src)}
        found = f"{'D' if device[src] else 'H'}2{'D' if device[dst] else 'H'}"
        if DIRECTIONS.get(kind, found) != found:
            raise SimulationError(f"{kind.name} for a copy that is {found}")
        return found

    @call()
    def cudaMemcpyAsync(self, dst, src, count, kind, stream):
        found, memory = self.stream(stream), self.memory
        to, source = address_of(dst), address_of(src)
        label = f"memcpy {self._direction(to, source, kind)}"
        # Now, too: a wrong pointer is best reported where it was passed.
        staged = memory.view(source, count, f"{label}, source")
        memory.view(to, count, f"{label}, destination")
        from_pageable, to_pageable = (memory.where(place) == "host" for place in (source, to))
        if found.capture and (from_pageable or to_pageable):
            raise found.capture.spoil(Error.cudaErrorStreamCaptureUnsupported)
        taken = staged.copy() if from_pageable else None

        def copy() -> None:
            values = memory.view(source, count, f"{label}, source") if taken is None else taken
            memory.view(to, count, f"{label}, destination")[:] = values

        self.enqueue(found, label, copy)
        if to_pageable and found.last:
            self.schedule.force([found.last])

    @call(unsafe=True)
    def cudaMemcpy(self, dst, src, count, kind):
        to, source = address_of(dst), address_of(src)
        label = f"memcpy {self._direction(to, source, kind)}"
        # It goes through the default stream, for which streams made with cudaStreamNonBlocking do not wait.
        streams = [s for s in self._objects.values() if isinstance(s, Stream)]
        blocking = [s.last for s in streams if s.last and not s.flags & real.cudaStreamNonBlocking]
        self.schedule.force(blocking)
        values = self.memory.view(source, count, f"{label}, source")
        self.memory.view(to, count, f"{label}, destination")[:] = values
        self.log.append((0, label))

    @call()
    def cudaMemsetAsync(self, devPtr, value, count, stream):
        found, to, memory = self.stream(stream), address_of(devPtr), self.memory
        memory.device.view(to, count, "memset")

        def fill() -> None:
            memory.device.view(to, count, "memset")[:] = value & 0xFF

        self.enqueue(found, "memset", fill)
