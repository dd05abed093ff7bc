"""Feature maps kept on the card: a bounded set of rows in device memory, the longest unused replaced."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

from trtkit.engines.cuda.memory import DeviceMemory
from trtkit.errors import TrtkitError
from trtkit.sizes import human_bytes


class ResidentLease:
    """A row that stays what it is while the lease lives."""

    def __init__(self, address: int) -> None:
        self.address = address


class ResidentCache:
    """Rows by key. All copies from and to its rows must be queued on one stream.

    On one stream a row that is replaced was read by everything queued before, so that a lease has to
    last only until the copy from its row is queued. `lease` may be called from any thread.
    """

    def __init__(self, nbytes: int, row_bytes: int) -> None:
        """Raises TrtkitError when not one row fits `nbytes`, or the device has not so much."""
        self.capacity = nbytes // row_bytes
        if self.capacity < 1:
            raise TrtkitError(
                f"A GPU cache of {human_bytes(nbytes)} does not hold one feature map, which takes "
                f"{human_bytes(row_bytes)}; give --gpu-cache more."
            )
        self._row_bytes = row_bytes
        self._memory = DeviceMemory(
            self.capacity * row_bytes, "the feature maps kept on the card", "--gpu-cache"
        )
        self._rows: OrderedDict[bytes, int] = OrderedDict()
        self._leases: dict[int, int] = {}
        self._lock = threading.RLock()
        self.hits = 0

    def __len__(self) -> int:
        return len(self._rows)

    def lease(self, key: bytes) -> ResidentLease | None:
        """The row of that key, held; None when it is not there."""
        with self._lock:
            row = self._rows.get(key)
            if row is None:
                return None
            self._rows.move_to_end(key)
            self._leases[row] = self._leases.get(row, 0) + 1
            self.hits += 1
        lease = ResidentLease(self._address(row))
        weakref.finalize(lease, self._release, row)
        return lease

    def place(self, key: bytes) -> int | None:
        """Where to copy the feature map of a new key; None when it is there or all rows are held.

        The caller queues the copy at once: the key is found from now on.
        """
        with self._lock:
            if key in self._rows:
                return None
            row = len(self._rows) if len(self._rows) < self.capacity else self._replace()
            if row is None:
                return None
            self._rows[key] = row
            return self._address(row)

    def _replace(self) -> int | None:
        for key, row in self._rows.items():
            if not self._leases.get(row):
                del self._rows[key]
                return row
        return None

    def _release(self, row: int) -> None:
        with self._lock:
            self._leases[row] -= 1

    def _address(self, row: int) -> int:
        return self._memory.pointer + row * self._row_bytes
