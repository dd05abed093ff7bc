"""The SQLite file of a footage store, for several writers and readers at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from trtkit import sqlite
from trtkit.errors import TrtkitError, os_reason
from trtkit.reporting import message
from trtkit.sqlite import FileKind, Mode
from trtkit.tensors import Array
from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.schema import STEPS, crc, sound

FILE = "video.sqlite"
LOCK = "making.lock"
# "TRTV" tells this file from any other SQLite file.
KIND = FileKind(application=0x54525456, version=len(STEPS))
# A commit of another ingest takes a fraction of a second.
WAIT_SECONDS = 60.0
_CACHE_BYTES = 64 * 2**20
# SQLite takes at least 32,766 parameters in a statement since 3.32; fewer take no longer.
_AT_ONCE = 500


class DamagedStore(TrtkitError):
    """SQLite cannot make sense of the file."""


class UnusableStore(TrtkitError):
    """The file cannot be used at the moment; it may be in order."""


class Database:
    """One connection to a store's file. One thread at a time may use it.

    A commit is stored whole or not at all, whatever happens to the process; until then readers see the
    state before it.
    """

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, *, writable: bool = True
    ) -> None:
        self.folder = folder
        self.writable = writable
        self._sql = connection

    @classmethod
    def create(cls, folder: Path) -> Database:
        """The store in `folder`, made if it is missing, and brought forward if it is of an earlier format.

        Raises TrtkitError, also while another process ingests into a store of an earlier format.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_made(folder, os_reason(error)) from error
        # SQLite does not wait where two processes change a new file's journal at once.
        lock = FileLock(folder / LOCK, timeout=WAIT_SECONDS)
        with (
            _acquired(lock, lambda error: _not_made(folder, error)),
            _opened(folder, "create") as connection,
        ):
            # A file of another program is left as it is.
            if _empty(connection):
                connection.execute("PRAGMA journal_mode = WAL")
                sqlite.bring_forward(connection, STEPS, FileKind(KIND.application, 0))
            kind = _check_kind(folder, connection)
            if kind.version < KIND.version:
                _bring_forward(folder, connection, kind)
            return cls(folder, connection)

    @classmethod
    def upgrade(cls, folder: Path) -> None:
        """Move the store in `folder` to the current format.

        Raises TrtkitError when there is none, and while another process ingests into it.
        """
        if not (folder / FILE).is_file():
            raise _missing(folder)
        cls.create(folder).close()

    @classmethod
    def open(cls, folder: Path) -> Database:
        """The store in `folder`, for reading alone where it cannot be written.

        Raises TrtkitError when there is no store.
        """
        path = folder / FILE
        if not path.is_file():
            raise _missing(folder)
        if os.access(path, os.W_OK) and os.access(folder, os.W_OK):
            with suppress(UnusableStore):
                return cls._open(folder, "write")
        try:
            return cls._open(folder, "read")
        except UnusableStore as error:
            # SQLite writes beside a file in WAL mode even to read it, unless it may assume that nobody
            # writes; then it reads no log either.
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise TrtkitError(
                    f"The footage store in {folder} was not closed by its last ingest, and cannot be read "
                    "where it cannot be written; run `trtkit store info` once where it can."
                ) from error
            return cls._open(folder, "immutable")

    @classmethod
    def _open(cls, folder: Path, mode: Mode) -> Database:
        with _opened(folder, mode) as connection:
            # An ingest was killed before it had made the tables.
            if _empty(connection):
                raise _missing(folder)
            version = _check_kind(folder, connection).version
            if version < KIND.version:
                raise TrtkitError(
                    f"The footage store in {folder} has format {version}, and this trtkit reads format "
                    f"{KIND.version}; `trtkit store upgrade --store {folder}` moves it forward."
                )
            return cls(folder, connection, writable=mode == "write")

    def close(self) -> None:
        self._sql.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything written inside is stored afterwards, or after an error none of it.

        Raises TrtkitError, before the block runs if the store can only be read.
        """
        if not self.writable:
            raise TrtkitError(
                f"The footage store in {self.folder} can only be read; fix its permissions to write to it."
            )
        with _explained(self.folder), sqlite.transaction(self._sql):
            yield self._sql

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a query. Raises TrtkitError when the file is damaged."""
        with _explained(self.folder):
            return self._sql.execute(query, parameters).fetchall()

    def sound(self, name: str, row: str) -> str:
        """SQL that is 1 where the row called `row`, of the table `name`, is as it was written, else 0."""
        return sound(name, row)

    def sound_rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """The rows of a query without its last column, which is `sound` of what they are from.

        Raises TrtkitError when one is not as it was written.
        """
        return self._checked(self.rows(query, parameters))

    def damage(self, what: str) -> DamagedStore:
        """The error that says what is wrong, as a clause."""
        return _damaged(self.folder, what)

    def count_of(self, label: int, source: int = 0) -> int:
        """How many rows `tallies` says there are."""
        rows = self.sound_rows(
            f"SELECT t.count, {self.sound('tallies', 't')} FROM tallies t "
            "WHERE t.class = ? AND t.source = ?",
            (label, source),
        )
        return int(rows[0][0]) if rows else 0

    def check_count(self, rows: Sequence[Any], label: int, source: int = 0) -> None:
        """Raise TrtkitError unless these are all rows that `tallies` counts there."""
        count = self.count_of(label, source)
        if count != len(rows):
            raise self.damage(f"it has {len(rows)} rows where {count} were written")

    def _checked(self, rows: Sequence[Any]) -> list[Any]:
        if not all(row[-1] for row in rows):
            raise self.damage("a row is not as it was written")
        return [row[:-1] for row in rows]

    def sound_rows_of(
        self,
        query: str,
        numbers: Sequence[int],
        parameters: tuple[Any, ...] = (),
        *,
        all_there: bool = True,
    ) -> list[Any]:
        """As `rows_among`, without the last column, which is `sound` of the rows.

        `all_there`: every number has a row. Raises TrtkitError when one is missing or not as it was
        written.
        """
        rows = self._checked(self.rows_among(query, numbers, parameters))
        if all_there and len(rows) != len(set(numbers)):
            raise self.damage(f"{len(set(numbers)) - len(rows)} rows are missing")
        return rows

    def rows_among(
        self, query: str, numbers: Sequence[int], parameters: tuple[Any, ...] = ()
    ) -> list[Any]:
        """The rows of a query that ends in `IN`, for all of these numbers together.

        `parameters`: those before the numbers. Raises TrtkitError when the file is damaged.
        """
        rows = []
        for start in range(0, len(numbers), _AT_ONCE):
            part = tuple(numbers[start : start + _AT_ONCE])
            marks = ", ".join("?" * len(part))
            rows += self.rows(f"{query} ({marks})", (*parameters, *part))
        return rows


def source_lock(store: Path, source: int, location: str) -> AbstractContextManager[object]:
    """Hold a source, to which one process at a time writes. Raises TrtkitError when another holds it."""
    path = store / f"source-{source}.lock"

    def refusal(error: OSError) -> TrtkitError:
        if isinstance(error, Timeout):
            return TrtkitError(
                f"Another process is ingesting {location} into {store}; wait for it, or choose another "
                "camera name."
            )
        return TrtkitError(
            f"{path} cannot be locked ({os_reason(error)}); fix the permissions of the folder, or choose "
            "another --store."
        )

    return _acquired(FileLock(path, timeout=0), refusal)


def _acquired(
    lock: FileLock, refusal: Callable[[OSError], TrtkitError]
) -> AbstractContextManager[object]:
    """The lock, held until the block ends."""
    try:
        return lock.acquire()
    except OSError as error:  # filelock's Timeout is one
        raise refusal(error) from error


@contextmanager
def _opened(folder: Path, mode: Mode) -> Iterator[sqlite3.Connection]:
    """A connection that is closed again when the block raises."""
    # In WAL mode a power cut may lose the last commits with NORMAL, but never half of one.
    with (
        _explained(folder),
        sqlite.connected(
            folder / FILE, mode, wait_seconds=WAIT_SECONDS, synchronous="NORMAL",
            cache_bytes=_CACHE_BYTES,
        ) as connection,
    ):  # fmt: skip
        connection.create_function("crc", 1, crc, deterministic=True)
        yield connection


def _bring_forward(folder: Path, connection: sqlite3.Connection, kind: FileKind) -> None:
    """Bring a store to the current format while nobody ingests into it, all of it or nothing."""
    message(
        f"Moving the footage store in {folder} from format {kind.version} to {KIND.version}; earlier "
        "versions of trtkit cannot read it any more."
    )
    with ExitStack() as locks:
        for source, location in connection.execute("SELECT id, location FROM sources").fetchall():
            locks.enter_context(source_lock(folder, source, location))
        sqlite.bring_forward(connection, STEPS, kind)


def _empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to the file."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables and sqlite.file_kind(connection) == FileKind(0, 0)


def _check_kind(folder: Path, connection: sqlite3.Connection) -> FileKind:
    kind = sqlite.file_kind(connection)
    own = kind.application == KIND.application
    if not own or not 1 <= kind.version <= KIND.version:
        what = f"a footage store of format {kind.version}" if own else "a file of another program"
        raise TrtkitError(
            f"{folder / FILE} is {what}, but this trtkit reads footage stores of format 1 to "
            f"{KIND.version}; choose another --store, or use the trtkit that made it."
        )
    return kind


def _missing(folder: Path) -> TrtkitError:
    return TrtkitError(
        f"No footage store in {folder}; `trtkit ingest VIDEO --store {folder}` makes one."
    )


def _not_made(folder: Path, reason: object) -> TrtkitError:
    return TrtkitError(
        f"A footage store cannot be made in {folder} ({reason}); fix its permissions, or choose another "
        "--store."
    )


def _explained(folder: Path) -> AbstractContextManager[None]:
    return sqlite.explained(
        lambda error: UnusableStore(
            f"The footage store in {folder} cannot be used ({error}); free space there, fix its "
            "permissions or wait for the process that writes to it, and run the command again: it "
            "continues where it stopped."
        ),
        lambda error: _damaged(folder, error),
    )


def _damaged(folder: Path, why: object) -> DamagedStore:
    return DamagedStore(
        f"The footage store in {folder} is damaged ({why}); `trtkit store verify` lists the damage, and "
        "ingesting into a new --store replaces it."
    )


# Columns that hold numbers which are always read and written together. A sighting has six.
SIGHTING_BYTES = 48
_RANK = np.dtype([("label", "<u4"), ("score", "<f4")])


def pack_sightings(sightings: Sequence[Sighting]) -> bytes:
    """Frame number, time, x, y, width, height of each, int64, little-endian."""
    rows = [(sighting.frame, sighting.time_us, *sighting.box) for sighting in sightings]
    return np.array(rows, "<i8").tobytes()


def unpack_sightings(packed: bytes) -> list[Sighting]:
    rows = np.frombuffer(packed, "<i8").reshape(-1, 6).tolist()
    return [Sighting(frame, time_us, Box(*box)) for frame, time_us, *box in rows]


def pack_top(labels: Array, scores: Array) -> bytes:
    """The best classes, best first: index uint32 and score float32 of each, little-endian."""
    packed = np.empty(len(labels), _RANK)
    packed["label"], packed["score"] = labels, scores
    return packed.tobytes()


def unpack_top(packed: bytes) -> tuple[Array, Array]:
    """Indexes, int64, and scores, float32, best first."""
    rows = np.frombuffer(packed, _RANK)
    return rows["label"].astype(np.int64), rows["score"].astype(np.float32)


def pack_vector(vector: Array) -> bytes:
    """Features, kept as fp16."""
    return vector.astype("<f2").tobytes()


def unpack_vector(packed: bytes) -> Array:
    """Features, float32."""
    return np.frombuffer(packed, "<f2").astype(np.float32)
