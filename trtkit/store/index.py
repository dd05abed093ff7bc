"""The SQLite index: which entry lies where, and when each segment was last used."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from trtkit import sqlite
from trtkit.atomic import sync
from trtkit.errors import TrtkitError
from trtkit.sqlite import FileKind
from trtkit.store.codec import CODEC_CODES, DTYPE_CODES, Header

# "TRTK" tells this index from any other SQLite file.
KIND = FileKind(application=0x5452544B, version=1)

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    bytes INTEGER NOT NULL,
    used_ns INTEGER NOT NULL
);
CREATE TABLE entries (
    key BLOB NOT NULL,
    requested INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    dtype INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    PRIMARY KEY (key, requested)
) WITHOUT ROWID;
CREATE INDEX entries_by_segment ON entries (segment, offset);
"""

_COLUMNS = {
    "settings": "name, value",
    "segments": "number, bytes, used_ns",
    "entries": "key, requested, segment, offset, length, dtype, codec",
}
# A cache must not make its reader wait: what is locked for longer than this is a miss.
_READ_WAIT_SECONDS = 0.5
_WRITE_WAIT_SECONDS = 10.0
# Far above any count of uses and below what SQLite's integers hold.
_LAST_USE = 2**62


class DamagedIndex(TrtkitError):
    """index.sqlite is not an index, or not all of one. `why`: a clause."""

    why = "it cannot be read"


class UnreadableIndex(TrtkitError):
    """index.sqlite cannot be read at the moment; it may be in order."""


class Place(NamedTuple):
    """Where an entry lies; offset and length in bytes, header included."""

    segment: int
    offset: int
    length: int


class Entry(NamedTuple):
    """One row of the index."""

    key: bytes
    requested: int
    place: Place


class SegmentRow(NamedTuple):
    """A segment: its committed size in bytes, and its place in the order of last use.

    That is a counter: a clock may be set back. It goes on from the times that earlier versions wrote.
    """

    number: int
    bytes: int
    used: int


def index_path(folder: Path) -> Path:
    """The index of the store in `folder`."""
    return folder / "index.sqlite"


class Index:
    """One connection to the index of a store, used by one thread at a time.

    Any method may raise sqlite3.Error.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._sql = connection

    def close(self) -> None:
        self._sql.close()

    def find(self, key: bytes, requested: int) -> Place | None:
        """Where the entry of `key` lies, in its latest commit."""
        row = self._sql.execute(
            "SELECT segment, offset, length FROM entries WHERE key = ? AND requested = ?",
            (key, requested),
        ).fetchone()
        return Place(*sqlite.checked(row, int, int, int)) if row else None

    def entries(self) -> list[Entry]:
        """Every row, in the order of the bytes on disk."""
        rows = self._sql.execute(
            "SELECT key, requested, segment, offset, length FROM entries ORDER BY segment, offset"
        ).fetchall()
        return [
            Entry(key, requested, Place(*place))
            for key, requested, *place in (
                sqlite.checked(row, bytes, int, int, int, int) for row in rows
            )
        ]

    def segments(self) -> list[SegmentRow]:
        """Every segment, the longest unused first."""
        rows = self._sql.execute(
            "SELECT number, bytes, used_ns FROM segments ORDER BY used_ns, number"
        ).fetchall()
        segments = [SegmentRow(*sqlite.checked(row, int, int, int)) for row in rows]
        if any(segment.number < 1 or segment.bytes < 0 for segment in segments):
            raise sqlite3.DatabaseError("a segment has a number or a size that none can have")
        return segments

    def next_segment(self) -> int:
        """A number that no segment of this index ever had: readers keep files open by number."""
        row = self._sql.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'segments'"
        ).fetchone()
        latest = int(sqlite.checked(row, int)[0]) if row else 0
        return 1 + max([latest, *(segment.number for segment in self.segments())])

    def reserve_numbers(self, highest: int) -> None:
        """Never hand out a segment number up to `highest`."""
        with sqlite.transaction(self._sql):
            self._sql.execute("INSERT INTO segments VALUES (?, 0, 0)", (highest,))
            self._sql.execute("DELETE FROM segments WHERE number = ?", (highest,))

    def setting(self, name: str) -> int | None:
        row = self._sql.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return int(sqlite.checked(row, int)[0]) if row else None

    def set_setting(self, name: str, value: int) -> None:
        self._sql.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def count_by(self, column: Literal["dtype", "codec"]) -> dict[str, int]:
        """The number of entries for each stored dtype or codec that occurs."""
        names = {n: name for name, n in (DTYPE_CODES if column == "dtype" else CODEC_CODES).items()}
        rows = self._sql.execute(
            f"SELECT {column}, COUNT(*) FROM entries GROUP BY {column} ORDER BY {column}"
        ).fetchall()
        return {names.get(number, f"unknown ({number})"): count for number, count in rows}

    def commit(
        self,
        segment: int,
        size: int,
        added: Iterable[tuple[Header, int, int]],
        used: Sequence[int],
    ) -> None:
        """Publish entries (header, offset, length) of `segment`, which has `size` bytes with them.

        They replace older entries of the same key. `used`: as in `touch`; the segment itself is used
        last. All or nothing, safe on disk when it returns.
        """
        with sqlite.transaction(self._sql):
            self._sql.execute(
                "INSERT INTO segments VALUES (?, ?, 0) ON CONFLICT (number) DO UPDATE "
                "SET bytes = excluded.bytes",
                (segment, size),
            )
            self._sql.executemany(
                "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        header.key,
                        DTYPE_CODES[header.requested],
                        segment,
                        offset,
                        length,
                        DTYPE_CODES[header.dtype],
                        CODEC_CODES[header.codec],
                    )
                    for header, offset, length in added
                ],
            )
            self._touch([*used, segment])

    def touch(self, used: Sequence[int]) -> None:
        """Record that these segments were used after all others, the last one last."""
        with sqlite.transaction(self._sql):
            self._touch(used)

    def drop_segment(self, number: int) -> int:
        """Forget a segment; returns the number of its entries."""
        with sqlite.transaction(self._sql):
            count = self._sql.execute("DELETE FROM entries WHERE segment = ?", (number,)).rowcount
            self._sql.execute("DELETE FROM segments WHERE number = ?", (number,))
        return count

    def drop_entries(self, entries: Iterable[Entry]) -> None:
        """Forget these entries, unless they were replaced since."""
        with sqlite.transaction(self._sql):
            self._sql.executemany(
                "DELETE FROM entries WHERE key = ? AND requested = ? AND segment = ? "
                "AND offset = ? AND length = ?",
                [(entry.key, entry.requested, *entry.place) for entry in entries],
            )

    def check(self) -> None:
        """Raise sqlite3.DatabaseError when the file is damaged."""
        result = self._sql.execute("PRAGMA quick_check(1)").fetchone()
        if result != ("ok",):
            # Under a heading of SQLite's.
            raise sqlite3.DatabaseError(str(result[0]).splitlines()[-1])
        # Whether all tables are there, with all columns that are used.
        for table, columns in _COLUMNS.items():
            self._sql.execute(f"SELECT {columns} FROM {table} LIMIT 1").fetchone()
        self.next_segment()

    def _touch(self, used: Sequence[int]) -> None:
        row = self._sql.execute("SELECT coalesce(max(used_ns), 0) FROM segments").fetchone()
        (latest,) = sqlite.checked(row, int)
        if latest > _LAST_USE:
            raise sqlite3.DatabaseError("the order of use has no room")
        self._sql.executemany(
            "UPDATE segments SET used_ns = ? WHERE number = ?",
            [(latest + step, number) for step, number in enumerate(used, 1)],
        )


def open_index(folder: Path, *, write: bool) -> Index | None:
    """The index in `folder`, or None when there is none yet.

    Raises DamagedIndex when it cannot be read and TrtkitError when a newer trtkit wrote it.
    """
    path = index_path(folder)
    if not path.exists():
        return None
    if write:
        return _connect(path, "write")
    # A folder that cannot be written has no room for SQLite's shared memory file: then read the
    # database file alone, as it is.
    modes: tuple[sqlite.Mode, ...] = ("write", "read")
    for mode in modes:
        with contextlib.suppress(UnreadableIndex):
            return _connect(path, mode, _READ_WAIT_SECONDS)
    return _connect(path, "immutable", _READ_WAIT_SECONDS)


def _connect(path: Path, mode: sqlite.Mode, wait_seconds: float = _WRITE_WAIT_SECONDS) -> Index:
    with (
        sqlite.explained(
            lambda error: _unreadable(path, error), lambda error: damaged(path, error)
        ),
        sqlite.connected(path, mode, wait_seconds=wait_seconds, synchronous="FULL") as connection,
    ):
        _check_kind(connection, path)
        return Index(connection)


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    kind = sqlite.file_kind(connection)
    if kind.application != KIND.application or kind.version < 1:
        raise damaged(path, "it is another kind of database")
    if kind.version > KIND.version:
        raise TrtkitError(
            f"The feature store in {path.parent} has format {kind.version} and this trtkit reads up "
            f"to format {KIND.version}: update trtkit or use another folder."
        )
    # Reads a page of the tables, and the write-ahead log if there is one.
    connection.execute("SELECT COUNT(*) FROM segments").fetchone()


def damaged(path: Path, why: object) -> DamagedIndex:
    """The error that says that the index `path` is damaged, and `why`."""
    error = DamagedIndex(
        f"The feature store's index {path} is damaged ({why}): the next run that writes to the "
        "store makes a new one, or clear the store."
    )
    error.why = str(why)
    return error


def _unreadable(path: Path, why: object) -> UnreadableIndex:
    return UnreadableIndex(
        f"The feature store's index {path} cannot be read ({why}): check the folder's permissions "
        "and whether another program holds it."
    )


def create_index(folder: Path) -> Index:
    """A new, empty index in `folder`, which appears complete or not at all."""
    path = index_path(folder)
    draft = path.with_suffix(".new")
    remove_index_files(draft)
    # A log left by a deleted index would be applied to the new one.
    remove_index_files(path)
    with sqlite.connected(draft, "create", wait_seconds=0.0, synchronous="FULL") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with sqlite.transaction(connection):
            sqlite.create_tables(connection, _SCHEMA, KIND)
        connection.close()
    draft.replace(path)
    sync(folder)
    return _connect(path, "write")


def remove_index_files(path: Path) -> None:
    """Delete a database and SQLite's files beside it."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def move_aside(folder: Path) -> Path:
    """Rename a damaged index, so that a new one can take its place; returns its new name."""
    path = index_path(folder)
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    remove_index_files(path)
    return aside


class IndexPool:
    """Read connections to one index, lent to one thread at a time. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: list[Index] = []
        self._lock = threading.Lock()
        self._closed = False

    def lend(self, index: Index) -> None:
        """Take over a connection that was opened elsewhere."""
        self._give_back(index)

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Index | None]:
        """A connection, or None while the store has no index. Raises as `open_index` does."""
        with self._lock:
            index = self._idle.pop() if self._idle else None
        if index is None:
            index = open_index(self._folder, write=False)
        try:
            yield index
        finally:
            if index is not None:
                self._give_back(index)

    def close(self) -> None:
        """Close every connection; one that is lent closes when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for index in idle:
            index.close()

    def _give_back(self, index: Index) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(index)
                return
        index.close()
