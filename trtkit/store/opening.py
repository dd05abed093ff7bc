"""Opening a store's folder for writing: the lock, the index, and what a crash left behind."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.errors import TrtkitError
from trtkit.sqlite import is_damage
from trtkit.store.append import Appender
from trtkit.store.codec import HEADER_BYTES
from trtkit.store.index import DamagedIndex, Index, create_index, move_aside, open_index
from trtkit.store.segment import scan, segment_numbers, segment_path

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("trtkit.store")


def lock_for_writing(folder: Path) -> BaseFileLock:
    """The writer's lock of the store in `folder`, held; the system frees it when a process dies.

    Raises a TrtkitError when another writer holds it or the folder cannot be written to.
    """
    # It loads asyncio, which a pipeline without a cache needs not wait for.
    from filelock import FileLock, Timeout

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


def opened_for_writing(
    folder: Path, make_appender: Callable[[Index], Appender]
) -> tuple[Index, Appender]:
    """The index of the store in `folder`, and what writes to it.

    A damaged index is set aside, which is said once; a new one is filled with the entries that the
    segment files hold. The writer's lock must be held. Raises TrtkitError, OSError or sqlite3.Error.
    """
    try:
        index = open_index(folder, write=True)
        if index is not None:
            return index, _used_by(index, make_appender, whole=True)
        aside, damage = None, None
    except (DamagedIndex, sqlite3.DatabaseError) as error:
        if isinstance(error, sqlite3.Error) and not is_damage(error):
            raise
        aside, damage = move_aside(folder), error
    index = _rebuilt(folder, aside, damage)
    return index, _used_by(index, make_appender)


def _used_by(
    index: Index, make_appender: Callable[[Index], Appender], *, whole: bool = False
) -> Appender:
    """The appender, for which the index is read; it is closed if that fails. `whole`: check it first."""
    try:
        if whole:
            index.check()
        return make_appender(index)
    except BaseException:
        index.close()
        raise


def _rebuilt(folder: Path, aside: Path | None, damage: Exception | None) -> Index:
    numbers = segment_numbers(folder)
    index = create_index(folder)
    total = 0
    if numbers:
        # Open files of older segments may still be in use under their numbers.
        index.reserve_numbers(numbers[-1])
    for number in numbers:
        path = segment_path(folder, number)
        entries = [(h, offset, HEADER_BYTES + h.payload_bytes) for h, offset in scan(path)]
        if entries:
            _, offset, length = entries[-1]
            index.commit(number, offset + length, entries, [])
            total += len(entries)
    if aside is not None:
        log.warning(
            "The feature store in %s had a damaged index (%s), which is now %s; a new one has the %d "
            "entries of its segments.", folder, reason_of(damage), aside.name, total,
        )  # fmt: skip
    elif numbers:
        log.warning("The feature store in %s had no index; found %d entries.", folder, total)
    return index


def reason_of(error: Exception | None) -> str:
    """Why an index is damaged, as a clause."""
    return error.why if isinstance(error, DamagedIndex) else str(error)
