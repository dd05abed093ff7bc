"""Opening a store's folder for writing: the lock, the index, and what a crash left behind."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from trtkit.errors import TrtkitError
from trtkit.store.codec import HEADER_BYTES
from trtkit.store.index import (
    DamagedIndex,
    Index,
    SegmentRow,
    create_index,
    damaged,
    index_path,
    move_aside,
    open_index,
)
from trtkit.store.segment import scan, segment_numbers, segment_path

log = logging.getLogger("trtkit.store")


def lock_for_writing(folder: Path) -> BaseFileLock:
    """The writer's lock of the store in `folder`, held; the system frees it when a process dies.

    Raises a TrtkitError when another writer holds it or the folder cannot be written to.
    """
    # Not bound to a thread: whoever closes the store may be another one than opened it.
    lock = FileLock(folder / "writer.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise TrtkitError(
            f"The feature store in {folder} is being written to by another process or store "
            "object; wait for it to end."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise TrtkitError(
            f"The feature store in {folder} cannot be written to ({error}): make the folder "
            "writable, or choose another one."
        ) from error
    return lock


def index_for_writing(folder: Path) -> Index:
    """The index of the store in `folder`, made anew when it is missing or damaged.

    A new index is filled with the entries that the segment files hold. The writer's lock must be
    held. Raises TrtkitError, OSError or sqlite3.Error.
    """
    try:
        index = open_index(folder, write=True)
        if index is not None:
            try:
                index.check()
            except sqlite3.OperationalError:
                index.close()
                raise
            except sqlite3.DatabaseError as error:
                index.close()
                raise damaged(index_path(folder), error) from error
            return index
    except DamagedIndex as error:
        aside = move_aside(folder)
        log.warning("%s Moved it to %s.", error, aside)
    return _rebuild(folder)


def _rebuild(folder: Path) -> Index:
    numbers = segment_numbers(folder)
    index = create_index(folder)
    if not numbers:
        return index
    # Open files of older segments may still be in use under their numbers.
    index.reserve_numbers(numbers[-1])
    total = 0
    for number in numbers:
        path = segment_path(folder, number)
        entries = [(h, offset, HEADER_BYTES + h.payload_bytes) for h, offset in scan(path)]
        if entries:
            _, offset, length = entries[-1]
            row = SegmentRow(number, offset + length, path.stat().st_mtime_ns)
            index.commit(row, entries, {})
            total += len(entries)
    log.warning("The feature store in %s had no usable index; found %d entries.", folder, total)
    return index
