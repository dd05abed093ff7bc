"""Device memory and pinned host memory, which say who wanted them when there is not enough."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections import deque

import numpy as np

from trtkit.engines.cuda.device import CudaError, bindings, call, free_memory
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes
from trtkit.tensors import Array

OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


class DeviceMemory:
    """Bytes on the device, freed when the object goes.

    `what` names the purpose for the message when there is not enough, `lower` what to lower then.
    Raises TrtkitError.
    """

    def __init__(self, nbytes: int, what: str, lower: str = "--batch") -> None:
        self.nbytes = nbytes
        try:
            self.pointer = int(call("cudaMalloc", max(1, nbytes)))
        except CudaError as error:
            if error.code != OUT_OF_MEMORY:
                raise
            raise TrtkitError(not_enough(nbytes, what, lower)) from error
        self._finalizer = weakref.finalize(self, _free, "cudaFree", self.pointer)

    def close(self) -> None:
        """Free it now. All work that uses it must be done."""
        self._finalizer()


def not_enough(nbytes: int, what: str, lower: str) -> str:
    """The sentence for device memory that ran out."""
    free, total = free_memory()
    return (
        f"There is not enough device memory for {what}: {human_bytes(nbytes)} are needed, "
        f"{human_bytes(free)} of {human_bytes(total)} are free; lower {lower}, or end what else uses the "
        "GPU."
    )


def pinned(shape: tuple[int, ...], dtype: str, what: str) -> Array:
    """An array in page-locked host memory, which the device copies from and to while the host goes on.

    Freed when the last view of it goes. Raises TrtkitError when the host has not enough memory.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        pointer = int(call("cudaMallocHost", max(1, nbytes)))
    except CudaError as error:
        if error.code != OUT_OF_MEMORY:
            raise
        raise TrtkitError(
            f"There is not enough page-locked host memory for {what}: {human_bytes(nbytes)} are needed; "
            "lower --batch."
        ) from error
    block = (ctypes.c_uint8 * max(1, nbytes)).from_address(pointer)
    weakref.finalize(block, _free, "cudaFreeHost", pointer)
    flat: Array = np.frombuffer(memoryview(block), dtype=np.uint8, count=nbytes)
    return flat.view(dtype).reshape(shape)


class PinnedRows:
    """A bounded set of equal arrays in pinned memory, for threads to read feature maps into.

    A row is free again when the last array that shows it goes. `take` may be called from any thread.
    """

    def __init__(self, count: int, shape: tuple[int, ...], dtype: str) -> None:
        self.count = count
        self._rows = pinned((count, *shape), dtype, f"{count} feature maps read ahead")
        self._start = address(self._rows)
        self._row_bytes = self._rows.nbytes // max(1, count)
        self._free = deque(range(count))

    def take(self) -> Array | None:
        """A row to read into, 1-D uint8; None when all are in use."""
        try:
            index = self._free.popleft()
        except IndexError:
            return None
        block = (ctypes.c_uint8 * self._row_bytes).from_address(
            self._start + index * self._row_bytes
        )
        # The set must outlive its rows: the finalizer holds it.
        weakref.finalize(block, self._give_back, index)
        return np.frombuffer(memoryview(block), dtype=np.uint8)

    def owns(self, array: Array) -> bool:
        """Whether `array` lies in this set, so that the device can copy from it."""
        return self._start <= address(array) < self._start + self._rows.nbytes

    def _give_back(self, index: int) -> None:
        self._free.append(index)


def address(array: Array) -> int:
    """Where an array's values begin. Several times as fast as `array.ctypes.data`."""
    return int(array.__array_interface__["data"][0])


def _free(function: str, pointer: int) -> None:
    getattr(bindings(), function)(pointer)
