"""Appending entries, publishing them, and making room for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trtkit.store import codec
from trtkit.store.codec import HEADER_BYTES, Array, Header
from trtkit.store.index import Index
from trtkit.store.segment import SegmentWriter, segment_numbers, segment_path


@dataclass(frozen=True)
class StoreLimits:
    """What bounds a store, and the form its entries take."""

    max_bytes: int
    segment_bytes: int
    dtype: str
    codec: str


class Appender:
    """Turns arrays into committed entries and evicts old segments. Used by one thread.

    Any method may raise OSError or sqlite3.Error, after which only `close` may be called.
    """

    def __init__(
        self,
        folder: Path,
        index: Index,
        limits: StoreLimits,
        take_used: Callable[[], list[int]],
        on_evicted: Callable[[int, int], None],
    ) -> None:
        self._folder = folder
        self._index = index
        self._limits = limits
        self._take_used = take_used
        self._on_evicted = on_evicted
        self._added: list[tuple[Header, int, int]] = []
        self._segment: SegmentWriter | None = None
        self._committed = 0
        self._remove_orphans()
        self._resume()
        self._evict(room=limits.segment_bytes - self._committed if self._segment else 0)
        index.set_setting("max_bytes", limits.max_bytes)

    def append(self, key: bytes, value: Array) -> bool:
        """Write one entry, found after `commit`; False when it exceeds the bound of the store."""
        array = codec.as_stored(value, self._limits.dtype)
        header, block, payload = codec.encode(key, self._limits.dtype, array, self._limits.codec)
        length = HEADER_BYTES + header.payload_bytes
        if length > self._limits.max_bytes:
            return False
        segment = self._segment
        if segment is None or (segment.end and segment.end + length > self._limits.segment_bytes):
            segment = self._roll(length)
        offset = segment.append(block, payload)
        self._added.append((header, offset, length))
        return True

    def commit(self) -> None:
        """Make everything appended durable and visible."""
        added, self._added = self._added, []
        if self._segment is not None and added:
            self._segment.sync()
            end = self._segment.end
            self._index.commit(self._segment.number, end, added, self._take_used())
            self._committed = end

    def close(self) -> None:
        """Let go of the active segment, cut to what is committed."""
        if self._segment is not None:
            segment, self._segment = self._segment, None
            segment.close(self._committed)
            if self._committed == 0:
                segment_path(self._folder, segment.number).unlink(missing_ok=True)

    def _roll(self, length: int) -> SegmentWriter:
        """Start a new segment that has room for `length` bytes."""
        self.commit()
        self.close()
        room = max(length, self._limits.segment_bytes)
        self._evict(room)
        # A number is taken only by a commit, and orphans were removed: the file is new.
        self._segment = SegmentWriter(self._folder, self._index.next_segment(), 0, room)
        self._committed = 0
        return self._segment

    def _evict(self, room: int) -> None:
        """Delete the longest unused segments until `room` bytes fit into the bound."""
        self._index.touch(self._take_used())
        segments = self._index.segments()
        total = sum(segment.bytes for segment in segments)
        for segment in segments:
            if total + room <= self._limits.max_bytes:
                return
            if self._segment is not None and segment.number == self._segment.number:
                continue
            # Rows first: a reader that finds the file gone must find the row gone too.
            entries = self._index.drop_segment(segment.number)
            segment_path(self._folder, segment.number).unlink(missing_ok=True)
            self._on_evicted(segment.number, entries)
            total -= segment.bytes

    def _remove_orphans(self) -> None:
        """Delete the segments that a killed process had not committed or had already evicted."""
        committed = {segment.number for segment in self._index.segments()}
        for number in segment_numbers(self._folder):
            if number not in committed:
                segment_path(self._folder, number).unlink(missing_ok=True)

    def _resume(self) -> None:
        """Go on with the newest segment if it has room and holds all that it should."""
        newest = max(self._index.segments(), default=None)
        if newest is None or newest.bytes >= self._limits.segment_bytes:
            return
        path = segment_path(self._folder, newest.number)
        if path.exists() and path.stat().st_size >= newest.bytes:
            self._segment = SegmentWriter(
                self._folder, newest.number, newest.bytes, self._limits.segment_bytes
            )
            self._committed = newest.bytes
