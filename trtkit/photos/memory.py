"""The memory that decoding may take, all threads together, known from headers before anything is decoded.

A small file may describe a picture of gigabytes. Photos wait for others to be done with their memory; one
that needs more than there is at all is refused.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from trtkit.cpu import available_memory
from trtkit.errors import ImageError
from trtkit.sizes import human_bytes, parse_size

ENVIRONMENT: Final = "TRTKIT_DECODE_MEMORY"
# Enough for a photo of 150 megapixels in any common form, and for one of 30.
MOST: Final = 1 << 30
LEAST: Final = 1 << 28

# No photo of so many pixels is that well compressed, nor is a file that Deflate packed: 8 pixels in a
# byte, 1032 bytes in one. Fax and lossless WebP pack blank rows better.
_LARGE_PIXELS: Final = 1 << 24
_MOST_PIXELS_A_BYTE: Final = 10_000


class MemoryBudget:
    """Bytes that threads share. Who waits longest is served first, so that large photos get their turn."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """`size` bytes inside the block, after a wait if others have them.

        Raises ImageError for more than the whole budget.
        """
        if size > self.limit:
            raise ImageError(
                f"Decoding the photo takes about {human_bytes(size)} of memory, more than the "
                f"{human_bytes(self.limit)} for all photos; make it smaller, or raise {ENVIRONMENT} if you "
                "trust the file."
            )
        self._acquire(size)
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()

    def _acquire(self, size: int) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is ticket and self._used + size <= self.limit
                )
                self._used += size
            finally:
                self._queue.remove(ticket)
                if self._queue:
                    self._changed.notify_all()


@functools.cache
def decoding_budget() -> MemoryBudget:
    """The budget of this process: TRTKIT_DECODE_MEMORY, else half of what is available, 256 MiB to 1 GiB.

    Raises TrtkitError for a variable that is no size.
    """
    text = os.environ.get(ENVIRONMENT)
    if text:
        return MemoryBudget(parse_size(text, f"decoding ({ENVIRONMENT})"))
    available = available_memory()
    return MemoryBudget(MOST if available is None else max(LEAST, min(MOST, available // 2)))


def check_compression(height: int, width: int, size: int) -> None:
    """Raise ImageError for a file of `size` bytes that is too small to hold a photo of that many pixels."""
    pixels = height * width
    if pixels > _LARGE_PIXELS and pixels > size * _MOST_PIXELS_A_BYTE:
        raise ImageError(
            f"The file has {size} bytes and describes {width} x {height} pixels: it is blank, or made to "
            "exhaust memory; make it smaller."
        )
