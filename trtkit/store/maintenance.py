"""Looking after a store from outside a run: info, verify and clear."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import TrtkitError
from trtkit.reporting import advance
from trtkit.store.codec import DTYPE_CODES, DamagedEntry
from trtkit.store.index import (
    DamagedIndex,
    Entry,
    Index,
    UnreadableIndex,
    index_path,
    open_index,
    remove_index_files,
)
from trtkit.store.opening import lock_for_writing
from trtkit.store.segment import SegmentReader, segment_numbers, segment_path


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    `bytes` is the size of its segments and `max_bytes` the bound of its last writer, both in bytes;
    `entries_by_dtype` and `entries_by_codec` count entries by how they are stored.
    """

    folder: Path
    entries: int
    segments: int
    bytes: int
    max_bytes: int | None
    entries_by_dtype: dict[str, int]
    entries_by_codec: dict[str, int]


@dataclass(frozen=True)
class DamageReport:
    """One damaged entry: where it lies (offset in bytes) and, as a clause, what is wrong."""

    key: bytes
    segment: int
    offset: int
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`.

    `entries` were read, `bytes` in all; `damaged` did not pass; `repaired` of those were dropped.
    """

    folder: Path
    entries: int
    bytes: int
    damaged: tuple[DamageReport, ...]
    repaired: int


@dataclass(frozen=True)
class ClearReport:
    """What `clear` deleted: segment files and their size in bytes."""

    folder: Path
    segments: int
    bytes: int


def info(folder: Path) -> StoreInfo:
    """What the store in `folder` holds.

    Raises a TrtkitError when there is none or its index cannot be read.
    """
    with _reading(folder) as index:
        segments = index.segments()
        by_dtype = index.count_by("dtype")
        return StoreInfo(
            folder=folder,
            entries=sum(by_dtype.values()),
            segments=len(segments),
            bytes=sum(segment.bytes for segment in segments),
            max_bytes=index.setting("max_bytes"),
            entries_by_dtype=by_dtype,
            entries_by_codec=index.count_by("codec"),
        )


def verify(folder: Path, repair: bool = False) -> VerifyReport:
    """Read every entry of the store in `folder` and check it.

    repair: also make the store forget the damaged ones; needs to be its only writer.
    Raises a TrtkitError when there is no store, its index cannot be read or, with `repair`, a
    writer is running.
    """
    if not repair:
        with _reading(folder) as index:
            return _verify(folder, index)[0]
    with _reading(folder):
        lock = lock_for_writing(folder)
    try:
        with _reading(folder, write=True) as index:
            report, bad = _verify(folder, index)
            index.drop_entries(bad)
            for segment in index.segments():
                if not segment_path(folder, segment.number).exists():
                    index.drop_segment(segment.number)
            return VerifyReport(
                folder, report.entries, report.bytes, report.damaged, repaired=len(bad)
            )
    finally:
        lock.release()


def clear(folder: Path) -> ClearReport:
    """Delete all entries of the store in `folder`, also of one whose index is damaged.

    Raises a TrtkitError when there is no store or a writer is running.
    """
    folder = Path(folder)
    if not index_path(folder).exists() and not (folder.is_dir() and segment_numbers(folder)):
        raise _no_store(folder)
    lock = lock_for_writing(folder)
    try:
        numbers = segment_numbers(folder)
        _forget_all(folder)
        freed = 0
        for number in numbers:
            path = segment_path(folder, number)
            freed += path.stat().st_size
            path.unlink()
        remove_index_files(index_path(folder).with_suffix(".damaged"))
        return ClearReport(folder, len(numbers), freed)
    except OSError as error:
        raise TrtkitError(
            f"The feature store in {folder} cannot be cleared ({error}): make the folder writable."
        ) from error
    finally:
        lock.release()


def _forget_all(folder: Path) -> None:
    """Empty the index before its files go: a reader that finds a file gone must find its row gone too.

    A full disk has no room for that, and a damaged index no way: then the index goes as a whole, and
    readers who have it open find damaged entries, which are misses.
    """
    try:
        index = open_index(folder, write=True)
        if index is None:
            return
        with contextlib.closing(index):
            for segment in index.segments():
                index.drop_segment(segment.number)
    except (sqlite3.Error, DamagedIndex, UnreadableIndex):
        remove_index_files(index_path(folder))


@contextlib.contextmanager
def _reading(folder: Path, *, write: bool = False) -> Iterator[Index]:
    index = open_index(Path(folder), write=write)
    if index is None:
        raise _no_store(folder)
    try:
        yield index
    except sqlite3.Error as error:
        raise TrtkitError(
            f"The feature store's index {index_path(folder)} cannot be read ({error}): the next "
            "run that writes to the store makes a new one, or clear the store."
        ) from error
    finally:
        index.close()


def _verify(folder: Path, index: Index) -> tuple[VerifyReport, list[Entry]]:
    segments = SegmentReader(folder)
    entries = index.entries()
    bad: list[Entry] = []
    reports: list[DamageReport] = []
    checked = size = 0
    for done, entry in enumerate(entries, 1):
        reason = _damage(segments, entry)
        # A writer may have replaced or evicted the entry meanwhile.
        gone = reason is not None and index.find(entry.key, entry.requested) != entry.place
        if not gone:
            checked += 1
            size += entry.place.length
        if reason is not None and not gone:
            bad.append(entry)
            reports.append(DamageReport(entry.key, entry.place.segment, entry.place.offset, reason))
        advance("Verifying feature maps", done / len(entries))
    segments.close()
    return VerifyReport(folder, checked, size, tuple(reports), repaired=0), bad


def _damage(segments: SegmentReader, entry: Entry) -> str | None:
    try:
        header, _ = segments.read(*entry.place)
    except DamagedEntry as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read ({error})"
    if header.key != entry.key or DTYPE_CODES[header.requested] != entry.requested:
        return "the index points to another entry"
    return None


def _no_store(folder: Path) -> TrtkitError:
    return TrtkitError(
        f"There is no feature store in {folder}: a run with the cache on makes one, or name "
        "another folder."
    )
