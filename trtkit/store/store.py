"""The feature store: what a prefix computed once, kept on disk by key."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trtkit.errors import TrtkitError, listed
from trtkit.store.append import Appender, StoreLimits
from trtkit.store.codec import (
    CODEC_CODES,
    DTYPE_CODES,
    REQUESTABLE,
    Array,
    CodecName,
    DamagedEntry,
    DtypeName,
    as_stored,
    check_array,
    check_key,
)
from trtkit.store.index import DamagedIndex, Index, IndexPool, UnreadableIndex, open_index
from trtkit.store.opening import lock_for_writing, opened_for_writing
from trtkit.store.segment import SegmentReader
from trtkit.store.writer import BackgroundWriter

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("trtkit.store")

DEFAULT_MAX_BYTES = 10 * 1024**3
DEFAULT_SEGMENT_BYTES = 64 * 1024**2

_TOUCH_SECONDS = 30.0
# A row can be replaced or evicted while its bytes are read; more often than this, something is off.
_READ_ATTEMPTS = 4


@dataclass(frozen=True)
class StoreStats:
    """What one FeatureStore object has done since it was opened; all are numbers of entries.

    `written` counts committed entries, `evicted` those deleted to stay below `max_bytes`,
    `damaged` the misses (also counted in `misses`) due to an entry that did not pass its checks,
    and `dropped` those not taken by `put`: not writable, no room in time, or above `max_bytes`.
    """

    hits: int = 0
    misses: int = 0
    written: int = 0
    evicted: int = 0
    damaged: int = 0
    dropped: int = 0


class FeatureStore:
    """Arrays by 32-byte key in a folder, for many readers and one writer. Thread-safe.

    A key names content: whoever puts under a key puts the same array every time. The store's
    `dtype` is part of the key, so a store opened with "fp32" never returns a map that was rounded
    to fp16, and the other way round. Any codec is read, whatever the store was opened with.

    Damaged entries are misses. After a crash at any moment, what was flushed is there and the rest
    is a miss. Open a store in each process: an open one does not survive a fork.

    folder: created when missing (not with mode "read", where a missing store is an empty one).
    mode: "write" raises a TrtkitError when the store cannot be written to, for example because
        another process does; "auto" then reads only, with `read_only_reason` set.
    dtype: what float arrays are stored as, "fp16" (default) or "fp32". An fp32 array with a value
        beyond fp16's range is kept as fp32. int8 and uint8 arrays are kept as they are.
    codec: "none" (default), "lz4" or "zstd"; all are lossless.
    max_bytes: bound of the segment files together (default 10 GiB); the index adds about 200 bytes
        an entry. Above it, the segments longest unused are deleted whole.
    segment_bytes: size of a segment file (default 64 MiB), at most a quarter of `max_bytes`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["auto", "read", "write"] = "auto",
        dtype: DtypeName = "fp16",
        codec: CodecName = "none",
        max_bytes: int = DEFAULT_MAX_BYTES,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    ) -> None:
        _check_choice("mode", mode, ("auto", "read", "write"))
        _check_choice("dtype", dtype, REQUESTABLE)
        _check_choice("codec", codec, CODEC_CODES)
        if max_bytes < 1 or segment_bytes < 1:
            raise TrtkitError(
                f"A feature store of {max_bytes} bytes in segments of {segment_bytes} bytes cannot "
                "hold anything: both must be positive."
            )
        self.folder = Path(folder)
        self._limits = StoreLimits(
            max_bytes, max(1, min(segment_bytes, max_bytes // 4)), dtype, codec
        )
        self._requested = DTYPE_CODES[dtype]
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((field.name for field in fields(StoreStats)), 0)
        # Segments by when they were used last.
        self._used: dict[int, int] = {}
        self._uses = itertools.count()
        self._touched = time.monotonic()
        self._warned: set[str] = set()
        self._closed = False
        self._reason: str | None = "The feature store was opened for reading only."
        self._file_lock: BaseFileLock | None = None
        self._index: Index | None = None
        self._writer: BackgroundWriter | None = None
        self._segments = SegmentReader(self.folder)
        self._pool = IndexPool(self.folder)
        if mode == "read":
            self._check_index()
        else:
            self._open_for_writing(required=mode == "write")
        atexit.register(self.close)

    @property
    def writable(self) -> bool:
        """Whether `put` stores anything."""
        return self.read_only_reason is None

    @property
    def read_only_reason(self) -> str | None:
        """Why `put` stores nothing, as a sentence; None while it does."""
        return self._reason

    @property
    def stats(self) -> StoreStats:
        """The counters at this moment."""
        with self._lock:
            return StoreStats(**self._counts)

    def get(self, key: bytes, into: Array | None = None) -> Array | None:
        """The array stored under `key`, as it is stored (fp16, fp32, int8 or uint8), or None.

        The array is the caller's own. `into`, 1-D uint8, is read into when the entry is of its size
        and not compressed; the array is then a view of it. Raises a TrtkitError for a key that is not
        32 bytes and for a closed store; whatever else goes wrong is a miss.
        """
        self._check_usable()
        check_key(key)
        pending = self._writer.pending(key) if self._writer is not None else None
        if pending is not None:
            array: Array | None = np.array(as_stored(pending, self._limits.dtype))
        else:
            array = self._read(key, into)
        if array is None:
            self._count(misses=1)
        else:
            self._count(hits=1)
        return array

    def has(self, key: bytes) -> bool:
        """Whether there is an entry under `key`, which counts as a use of it.

        What it holds is checked when it is read.
        """
        self._check_usable()
        check_key(key)
        if self._writer is not None and self._writer.pending(key) is not None:
            return True
        try:
            with self._pool.borrow() as index:
                place = index.find(key, self._requested) if index is not None else None
                if index is not None and place is not None:
                    self._note_use(index, place.segment)
                return place is not None
        except (OSError, sqlite3.Error, TrtkitError) as error:
            self._warn("read", f"The feature store in {self.folder} cannot be read: {error}")
            return False

    def put(self, key: bytes, value: Array) -> None:
        """Store `value` (float16, float32, int8 or uint8; up to 8 dimensions) under `key`.

        Takes a copy and returns; a thread writes it, replacing an older entry. While 64 MiB wait to
        be written it waits for room, for a second at most. A store that is not writable takes
        nothing. Raises a TrtkitError for a key or an array it can never hold.
        """
        self._check_usable()
        check_key(key)
        check_array(value)
        if self._writer is None or not self.writable:
            accepted = False
        else:
            accepted = self._writer.put(key, np.array(value, order="C"))
        if not accepted:
            self._count(dropped=1)

    def flush(self) -> None:
        """Return once everything put before is committed; at once when the store is read-only."""
        self._check_usable()
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Commit what was put and let go of the folder. Closing again does nothing."""
        if self._process != os.getpid():
            return
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        atexit.unregister(self.close)
        if self._writer is not None:
            self._writer.close()
        self._touch()
        self._pool.close()
        if self._index is not None:
            self._index.close()
        self._segments.close()
        if self._file_lock is not None:
            self._file_lock.release()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_index(self) -> None:
        """Refuse a newer format; an index that cannot be read makes an empty store, said once."""
        try:
            index = open_index(self.folder, write=False)
        except (DamagedIndex, UnreadableIndex) as error:
            self._warn("read", f"{error} Until then nothing is found in it.")
            return
        if index is not None:
            self._pool.lend(index)

    def _open_for_writing(self, *, required: bool) -> None:
        try:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file_lock = lock_for_writing(self.folder)
                self._index, appender = opened_for_writing(self.folder, self._appender)
            except (OSError, sqlite3.Error) as error:
                raise TrtkitError(
                    f"The feature store in {self.folder} cannot be written to ({error}): make the "
                    "folder writable, or choose another one."
                ) from error
        except TrtkitError as error:
            self._release()
            if required:
                raise
            self._reason = str(error)
            self._check_index()
            return
        self._reason = None
        self._writer = BackgroundWriter(
            appender,
            on_written=lambda count: self._count(written=count),
            on_dropped=lambda: self._count(dropped=1),
            on_failure=self._on_failure,
        )

    def _appender(self, index: Index) -> Appender:
        return Appender(self.folder, index, self._limits, self._take_used, self._on_evicted)

    def _release(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        if self._file_lock is not None:
            self._file_lock.release()
            self._file_lock = None

    def _read(self, key: bytes, into: Array | None) -> Array | None:
        try:
            with self._pool.borrow() as index:
                return None if index is None else self._read_at(index, key, into)
        except (OSError, sqlite3.Error, TrtkitError) as error:
            # Not the entry's fault: a locked or unreadable index, or too many open files.
            self._warn("read", f"The feature store in {self.folder} cannot be read: {error}")
            return None

    def _read_at(self, index: Index, key: bytes, into: Array | None) -> Array | None:
        failed = None
        why = ""
        for _ in range(_READ_ATTEMPTS):
            place = index.find(key, self._requested)
            if place is None:
                return None
            if place == failed:
                self._count(damaged=1)
                self._warn(
                    "damaged",
                    f"An entry of the feature store in {self.folder} is damaged ({why}) and is "
                    f"computed again: segment {place.segment}, byte {place.offset}. Further ones "
                    "are only counted; verify the store to list them.",
                )
                return None
            try:
                header, array = self._segments.read(*place, into)
                if header.key == key and DTYPE_CODES[header.requested] == self._requested:
                    self._note_use(index, place.segment)
                    return array
                why = "the index points to another entry"
            except DamagedEntry as error:
                why = str(error)
            # If the row is the same when asked again, it is damage, otherwise an eviction.
            failed = place
        return None

    def _note_use(self, index: Index, segment: int) -> None:
        self._used[segment] = next(self._uses)
        # A writer records this with its commits; a reader that runs for long must do so itself.
        if self._writer is None and time.monotonic() - self._touched > _TOUCH_SECONDS:
            self._touched = time.monotonic()
            self._touch_through(index)

    def _touch(self) -> None:
        if not self._used:
            return
        try:
            with self._pool.borrow() as index:
                if index is not None:
                    self._touch_through(index)
        except (OSError, sqlite3.Error, TrtkitError) as error:
            log.debug("the last use of segments is not recorded: %s", error)

    def _touch_through(self, index: Index) -> None:
        used = self._take_used()
        try:
            index.touch(used)
        except sqlite3.Error as error:
            log.debug("the last use of segments is not recorded: %s", error)

    def _take_used(self) -> list[int]:
        """The segments used since the last call, in the order of their last use."""
        used, self._used = self._used, {}
        return sorted(used, key=used.__getitem__)

    def _on_evicted(self, segment: int, entries: int) -> None:
        self._segments.forget(segment)
        self._count(evicted=entries)

    def _on_failure(self, failure: str) -> None:
        self._reason = (
            f"The feature store in {self.folder} takes no more entries: {failure}; free space or "
            "make the folder writable, the run goes on without it."
        )
        self._warn("write", self._reason)

    def _count(self, **added: int) -> None:
        with self._lock:
            for name, count in added.items():
                self._counts[name] += count

    def _warn(self, kind: str, message: str) -> None:
        with self._lock:
            if kind in self._warned:
                return
            self._warned.add(kind)
        log.warning("%s", message)

    def _check_usable(self) -> None:
        if self._closed:
            raise TrtkitError(
                f"The feature store in {self.folder} was closed: open it again to use it."
            )
        if self._process != os.getpid():
            raise TrtkitError(
                f"The feature store in {self.folder} was opened by another process (a fork's "
                "parent): open it in each process that uses it."
            )


def _check_choice(option: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise TrtkitError(
            f"A feature store has no {option} `{value}`; available: {listed(choices)}."
        )
