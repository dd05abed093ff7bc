"""Simulated device memory and pinned host memory: every access is checked against what is allocated."""

from __future__ import annotations

import bisect
import ctypes
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.engines.simulated.errors import SimulationError

ALIGNMENT = 256
FRESH = 0xFF  # NaN in every float type: what was never written spoils results visibly.
POISON = 0xDD
# Device addresses are not mapped in this process, so the host cannot touch device memory by mistake,
# and are never given twice, so a stale pointer is always recognised.
DEVICE_START = 0x1000_0000_0000
DEVICE_END = 0x2000_0000_0000
QUARANTINE_BYTES = 64 << 20

# All simulations of a process draw from these, so that what an object of an earlier one frees late is
# never taken for something of the present one.
_next_device = [DEVICE_START]
_pinned: dict[int, np.ndarray] = {}
_lock = threading.Lock()


def _device_range(size: int) -> int:
    with _lock:
        address = _next_device[0]
        _next_device[0] += -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    return address


@dataclass(eq=False)
class Allocation:
    address: int
    data: np.ndarray
    label: str
    owner: np.ndarray = field(repr=False)
    freed: bool = False

    @property
    def size(self) -> int:
        return len(self.data)


class Table:
    """The allocations of one kind of memory by address."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.bytes = self.peak = 0
        self._addresses: list[int] = []
        self._by_address: dict[int, Allocation] = {}

    @property
    def live(self) -> list[Allocation]:
        return [a for a in self._by_address.values() if not a.freed]

    def add(self, allocation: Allocation) -> None:
        bisect.insort(self._addresses, allocation.address)
        self._by_address[allocation.address] = allocation
        self.bytes += allocation.size
        self.peak = max(self.peak, self.bytes)

    def free(self, address: int) -> Allocation:
        allocation = self._by_address.get(address)
        if allocation is None or allocation.freed:
            known = "was freed already" if allocation else "is no start of an allocation"
            raise SimulationError(f"freeing {self.kind} memory {address:#x}, which {known}")
        allocation.freed = True
        allocation.data[:] = POISON
        self.bytes -= allocation.size
        return allocation

    def forget(self, allocation: Allocation) -> None:
        self._addresses.remove(allocation.address)
        del self._by_address[allocation.address]

    def at(self, address: int) -> Allocation | None:
        """The allocation, live or freed, that contains `address` or ends there."""
        index = bisect.bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        allocation = self._by_address[self._addresses[index]]
        return allocation if address <= allocation.address + allocation.size else None

    def view(self, address: int, count: int, purpose: str) -> np.ndarray:
        """The bytes from `address`. Raises SimulationError unless one live allocation holds them."""
        allocation = self.at(address)
        if allocation is None:
            raise SimulationError(f"{purpose}: {address:#x} is in no {self.kind} allocation")
        if allocation.freed:
            raise SimulationError(f"{purpose}: {address:#x} ({allocation.label}) was freed")
        start = address - allocation.address
        if start + count > allocation.size:
            raise SimulationError(
                f"{purpose}: {count} bytes at offset {start} of {allocation.label}, which has "
                f"{allocation.size} bytes"
            )
        return allocation.data[start : start + count]


class Memory:
    """All memory that a simulated device and its host know."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.device = Table("device")
        self.pinned = Table("pinned")
        self._quarantine: deque[Allocation] = deque()

    def allocate_device(self, size: int, label: str) -> int | None:
        """The address of `size` new bytes, or None when they do not fit."""
        if self.device.bytes + size > self.total:
            return None
        address = _device_range(size)
        data = np.full(size, FRESH, np.uint8)
        self.device.add(Allocation(address, data, f"{label} of {size} bytes", data))
        return address

    def allocate_pinned(self, size: int) -> int:
        owner = np.empty(size + ALIGNMENT, np.uint8)
        start = -owner.ctypes.data % ALIGNMENT
        data = owner[start : start + size]
        data[:] = FRESH
        self.pinned.add(
            Allocation(data.ctypes.data, data, f"cudaMallocHost of {size} bytes", owner)
        )
        _pinned[int(data.ctypes.data)] = owner
        return int(data.ctypes.data)

    def foreign(self, address: int) -> bool:
        """Whether an earlier simulation gave that address out, and this one did not."""
        if DEVICE_START <= address < _next_device[0]:
            return self.device.at(address) is None
        return address in _pinned and self.pinned.at(address) is None

    def free_device(self, address: int) -> None:
        allocation = self.device.free(address)
        allocation.label += ", freed"
        size = allocation.size
        # The address stays known, the bytes may go.
        allocation.data = allocation.owner = np.broadcast_to(np.uint8(POISON), (size,))

    def free_pinned(self, address: int) -> None:
        """Poison it, and keep it mapped for a while: late readers get poison instead of a crash."""
        self._quarantine.append(self.pinned.free(address))
        _pinned.pop(address, None)
        while sum(a.size for a in self._quarantine) > QUARANTINE_BYTES:
            self.pinned.forget(self._quarantine.popleft())

    def where(self, address: int) -> str:
        """ "device", "pinned" or "host" (pageable)."""
        if DEVICE_START <= address < DEVICE_END:
            return "device"
        allocation = self.pinned.at(address)
        inside = allocation is not None and address < allocation.address + allocation.size
        return "pinned" if inside else "host"

    def view(self, address: int, count: int, purpose: str) -> np.ndarray:
        """`count` writable bytes from any address; bounds are checked where they are known."""
        if count == 0:
            return np.empty(0, np.uint8)
        place = self.where(address)
        if place == "device":
            return self.device.view(address, count, purpose)
        if place == "pinned":
            return self.pinned.view(address, count, purpose)
        if address == 0:
            raise SimulationError(f"{purpose}: null pointer")
        return np.frombuffer((ctypes.c_uint8 * count).from_address(address), np.uint8)


def address_of(value: Any) -> int:
    """The address that a pointer argument means, as cuda-bindings reads it."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data)
    if hasattr(value, "__int__"):
        return int(value)
    return int(np.frombuffer(value, np.uint8).ctypes.data)
