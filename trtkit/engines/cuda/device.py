"""The GPU: what it is, its streams, events and graphs, and copying between host and device.

Everything happens in the context that is current in the calling thread, which without anybody's
doing is the device's primary context: the one that torch, CuPy and `pycuda.autoprimaryctx` use.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trtkit.errors import TrtkitError

INSTALL = "pip install 'trtkit[tensorrt]'"


class CudaError(TrtkitError):
    """A CUDA call failed. `code` is CUDA's name of the error."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Card:
    """A GPU: its name, its compute capability such as (8, 6), its memory in bytes."""

    name: str
    compute_capability: tuple[int, int]
    memory: int

    @property
    def capability(self) -> str:
        return ".".join(map(str, self.compute_capability))

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability})"


def bindings() -> Any:
    """The module of CUDA's runtime functions. Raises CudaError when cuda-python is missing or broken."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise CudaError(
            f"Using the GPU needs cuda-python, which cannot be imported ({error}); run `{INSTALL}`."
        ) from error


def call(function: str, *arguments: Any) -> Any:
    """What a CUDA runtime function returns besides its error code. Raises CudaError when it fails."""
    runtime = bindings()
    code, *values = getattr(runtime, function)(*arguments)
    if int(code) != 0:
        raise _failed(function, code)
    return values[0] if len(values) == 1 else tuple(values)


def describe(code: Any) -> str:
    """CUDA's own words for an error code."""
    _, text = bindings().cudaGetErrorString(code)
    words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return f"{words} ({code.name})"


def missing() -> str | None:
    """Why there is no GPU to use, as part of a sentence; None when there is one."""
    try:
        runtime = bindings()
    except CudaError as error:
        return str(error)
    try:
        code, count = runtime.cudaGetDeviceCount()
    except RuntimeError:  # cuda-python before 12.9
        return "there is no NVIDIA driver"
    name = getattr(code, "name", "")
    if int(code) == 0 and count:
        return None
    if name == "cudaErrorInsufficientDriver":
        _, wanted = runtime.cudaRuntimeGetVersion()
        status, offered = runtime.cudaDriverGetVersion()
        if int(status) == 0 and offered:
            return (
                f"the NVIDIA driver is too old: it offers CUDA {_version(offered)}, and cuda-python "
                f"here is for {_version(wanted)}"
            )
        return "there is no NVIDIA driver"
    if int(code) == 0 or name == "cudaErrorNoDevice":
        return "the NVIDIA driver finds no GPU"
    return f"the NVIDIA driver cannot be used: {describe(code)}"


def current_card() -> Card:
    """The GPU that CUDA uses here. Raises CudaError when there is none."""
    reason = missing()
    if reason is not None:
        raise CudaError(f"No GPU can be used: {reason.rstrip('.')}; `trtkit doctor` shows it.")
    properties = call("cudaGetDeviceProperties", call("cudaGetDevice"))
    name = properties.name
    return Card(
        name.decode() if isinstance(name, bytes) else str(name),
        (int(properties.major), int(properties.minor)),
        int(properties.totalGlobalMem),
    )


def driver_version() -> str:
    """The CUDA version that the driver offers, such as `12.8`."""
    return _version(call("cudaDriverGetVersion"))


def free_memory() -> tuple[int, int]:
    """Free and total bytes of device memory."""
    free, total = call("cudaMemGetInfo")
    return int(free), int(total)


class Event:
    """A point in a stream that another stream or the host can wait for."""

    def __init__(self, *, timing: bool = False) -> None:
        self._runtime = runtime = bindings()
        # A host that waits sleeps: its cores have photos to decode.
        flags = int(runtime.cudaEventBlockingSync)
        if not timing:
            flags |= int(runtime.cudaEventDisableTiming)
        self.handle = call("cudaEventCreateWithFlags", flags)
        self._finalizer = weakref.finalize(self, _destroy, "cudaEventDestroy", self.handle)

    def record(self, stream: Stream) -> None:
        check("cudaEventRecord", self._runtime.cudaEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Block until everything recorded before is done; other threads of Python go on."""
        check("cudaEventSynchronize", self._runtime.cudaEventSynchronize(self.handle))

    def seconds_since(self, start: Event) -> float:
        """Device time between two recorded events made with `timing`."""
        return float(call("cudaEventElapsedTime", start.handle, self.handle)) / 1000.0


class Stream:
    """A queue of device work, independent of the legacy default stream.

    The functions of every batch are called here without a lookup by name: with small batches the
    host's time counts.
    """

    def __init__(self) -> None:
        self._runtime = runtime = bindings()
        self._any_way = runtime.cudaMemcpyKind.cudaMemcpyDefault
        self.handle = call("cudaStreamCreateWithFlags", int(runtime.cudaStreamNonBlocking))
        self._finalizer = weakref.finalize(self, _destroy, "cudaStreamDestroy", self.handle)

    @property
    def pointer(self) -> int:
        """The stream as the number that TensorRT and other libraries take."""
        return int(self.handle)

    def wait(self, event: Event) -> None:
        """Let what is queued from now on start only after `event`'s last record."""
        status = self._runtime.cudaStreamWaitEvent(self.handle, event.handle, 0)
        check("cudaStreamWaitEvent", status)

    def synchronize(self) -> None:
        check("cudaStreamSynchronize", self._runtime.cudaStreamSynchronize(self.handle))

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy between any two addresses, of the device or pinned."""
        status = self._runtime.cudaMemcpyAsync(target, source, nbytes, self._any_way, self.handle)
        check("cudaMemcpyAsync", status)


class Graph:
    """Work that was recorded once and is launched as one call.

    The addresses in it must stay valid while it is used.
    """

    def __init__(self, stream: Stream, enqueue: Callable[[], None]) -> None:
        """Record what `enqueue` queues on `stream`; nothing of it runs.

        Raises CudaError when something in it cannot be recorded; the stream is usable afterwards.
        """
        self._runtime = runtime = bindings()
        # Other threads of the process, torch's say, go on calling CUDA meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call("cudaStreamBeginCapture", stream.handle, mode)
        try:
            enqueue()
        finally:
            code, graph = runtime.cudaStreamEndCapture(stream.handle)
        if int(code) != 0:
            # Left as CUDA's last error it would be found by whoever asks next.
            runtime.cudaGetLastError()
            raise CudaError(f"A run could not be recorded ({code.name}).", code.name)
        try:
            self._executable = call("cudaGraphInstantiate", graph, 0)
        finally:
            runtime.cudaGraphDestroy(graph)
        self._finalizer = weakref.finalize(self, _destroy, "cudaGraphExecDestroy", self._executable)

    def launch(self, stream: Stream) -> None:
        """Queue all of it on `stream`."""
        status = self._runtime.cudaGraphLaunch(self._executable, stream.handle)
        check("cudaGraphLaunch", status)


def check(function: str, status: tuple[Any]) -> None:
    """Raise CudaError unless a call without a result went well; `status` is what it returned."""
    code = status[0]
    if code != 0:
        raise _failed(function, code)


def _failed(function: str, code: Any) -> CudaError:
    return CudaError(
        f"{function} failed: {describe(code)}; start again, as CUDA may be unusable in this process, and "
        "look at `trtkit doctor` if it comes back.",
        code.name,
    )


def _destroy(function: str, handle: Any) -> None:
    # At the interpreter's end the driver may be gone before its handles, which is no error.
    getattr(bindings(), function)(handle)


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
