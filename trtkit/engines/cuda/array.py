"""Arrays on the device: this process's own, and those of other libraries, without a copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtkit.engines.cuda import dlpack
from trtkit.engines.cuda.device import Event, Stream, call
from trtkit.engines.cuda.memory import DeviceMemory
from trtkit.errors import TrtkitError
from trtkit.tensors import Array

DLPACK_CUDA = 2
# A CUDA stream number of DLPack that means: do not synchronize.
NO_STREAM = -1


@dataclass(frozen=True)
class DeviceView:
    """Contiguous values on the device that belong to `owner`, which is kept alive with the view."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    owner: Any


class DeviceTensor:
    """An array of this process on the device.

    Other libraries take it without a copy through `__dlpack__` or `__cuda_array_interface__`; they
    wait for the work that fills it. The memory stays while the tensor or what they made of it does.
    """

    def __init__(
        self, memory: DeviceMemory, shape: tuple[int, ...], dtype: str, ready: Event
    ) -> None:
        self._memory = memory
        self._ready = ready
        self.shape = shape
        self.dtype = dtype

    @property
    def pointer(self) -> int:
        return self._memory.pointer

    def wait(self, stream: Stream) -> None:
        """Let `stream` go on only once the values are there."""
        stream.wait(self._ready)

    def numpy(self) -> Array:
        """A copy on the host."""
        host = np.empty(self.shape, dtype=self.dtype)
        self._ready.synchronize()
        stream = Stream()
        stream.copy(host.ctypes.data, self.pointer, host.nbytes)
        stream.synchronize()
        return host

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # Version 3 can name a stream to wait for, but not an event; so the wait is here.
        self._ready.synchronize()
        return {
            "shape": self.shape,
            "typestr": np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, int(call("cudaGetDevice"))

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        if stream != NO_STREAM:
            self._ready.synchronize()
        return dlpack.make_capsule(
            self.pointer, self.shape, self.dtype, self.__dlpack_device__(), owner=self
        )


def device_view(value: Any, stream: Stream) -> DeviceView | None:
    """`value` as a view if it lies on the device, else None.

    Takes tensors of this process, and objects with `__cuda_array_interface__` or `__dlpack__`.
    `stream` will wait for the work that fills them. Raises TrtkitError for one that is not contiguous.
    """
    if isinstance(value, DeviceTensor):
        value.wait(stream)
        return DeviceView(value.pointer, value.shape, value.dtype, value)
    # First, because the producer makes our stream wait for its own work; torch's interface names none.
    device: Callable[[], tuple[int, int]] | None = getattr(value, "__dlpack_device__", None)
    if device is not None and int(device()[0]) == DLPACK_CUDA:
        received = dlpack.take_capsule(value.__dlpack__(stream=stream.pointer))
        _check_contiguous(received.shape, received.strides)
        return DeviceView(received.pointer, received.shape, received.dtype, received)
    interface = getattr(value, "__cuda_array_interface__", None)
    return _from_interface(interface, value) if interface is not None else None


def _from_interface(interface: dict[str, Any], owner: Any) -> DeviceView:
    dtype = np.dtype(interface["typestr"])
    shape = tuple(int(size) for size in interface["shape"])
    strides = interface.get("strides")
    if strides is not None:
        _check_contiguous(shape, tuple(size // dtype.itemsize for size in strides))
    if "stream" not in interface:
        # Before version 3 nothing says which work fills the array.
        call("cudaDeviceSynchronize")
    elif producer := interface["stream"]:
        # 1 and 2 are CUDA's own numbers for the legacy and the per-thread default stream.
        call("cudaStreamSynchronize", producer)
    return DeviceView(int(interface["data"][0]), shape, dtype.name, owner)


def _check_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> None:
    """`strides` in elements, None for contiguous."""
    if strides is None or math.prod(shape) == 0:
        return
    wanted = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != wanted:
            raise TrtkitError(
                f"Engines read contiguous arrays, not one of shape {shape} with strides {strides}; copy "
                "it into a contiguous array first."
            )
        wanted *= size
