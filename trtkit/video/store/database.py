"""The SQLite file of a video store, for several writers and readers at once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from trtkit.errors import TrtkitError, os_reason

FILE = "video.sqlite"
LOCK = "making.lock"
FORMAT = 1
# Tells this file from any other of SQLite's ("TRTV").
APPLICATION_ID = 0x54525456
# A commit of another ingest takes a fraction of a second.
WAIT_SECONDS = 60.0
# SQLite takes at least 32,766 parameters in a statement since 3.32; fewer take no longer.
_AT_ONCE = 500

# Times are microseconds since a source's first frame. `ranks` has a row for every segment in which a
# cluster has objects, so that a question about a class and a time reads one stretch of one table.
SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    location TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    options TEXT NOT NULL,
    start_us INTEGER,
    next_segment INTEGER NOT NULL DEFAULT 0,
    frames INTEGER NOT NULL DEFAULT 0,
    end_us INTEGER NOT NULL DEFAULT 0,
    complete INTEGER NOT NULL DEFAULT 0,
    UNIQUE (camera, location)
);
CREATE TABLE segments (
    source INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    PRIMARY KEY (source, number)
) WITHOUT ROWID;
CREATE TABLE gaps (
    source INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE clusters (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    representative INTEGER NOT NULL,
    label INTEGER NOT NULL,
    used INTEGER NOT NULL
);
CREATE INDEX clusters_by_use ON clusters (source, used);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    key BLOB NOT NULL,
    top BLOB NOT NULL
);
CREATE INDEX objects_by_cluster ON objects (cluster, segment, start_us, end_us);
CREATE TABLE sightings (object INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE crops (object INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE vectors (object INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE ranks (
    class INTEGER NOT NULL,
    source INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (class, source, segment, cluster)
) WITHOUT ROWID;
CREATE TABLE tails (id INTEGER PRIMARY KEY, stage TEXT NOT NULL UNIQUE);
CREATE TABLE verdicts (
    tail INTEGER NOT NULL,
    object INTEGER NOT NULL,
    class INTEGER NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (tail, object)
) WITHOUT ROWID;
"""


class DamagedStore(TrtkitError):
    """What SQLite cannot make sense of."""


class Database:
    """One connection to a store's file. One thread at a time may use it.

    A commit is there as a whole or not at all, whatever happens to the process; readers see the
    state before it until then.
    """

    def __init__(
        self, folder: Path, connection: sqlite3.Connection, *, writable: bool = True
    ) -> None:
        self.folder = folder
        self.writable = writable
        self._sql = connection

    @classmethod
    def create(cls, folder: Path) -> Database:
        """The store in `folder`, made where there is none. Raises TrtkitError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrtkitError(
                f"A store cannot be made in {folder} ({os_reason(error)}); choose another --store."
            ) from error
        # SQLite does not wait where two change a new file's journal at once.
        with _made_by_one(folder), _opened(folder, "rwc") as connection:
            # A file of another program is left as it is.
            if _empty(connection):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                # Whoever comes second finds the schema of the first.
                if _empty(connection):
                    for statement in SCHEMA.split(";"):
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.execute("COMMIT")
            _check_format(folder, connection)
            return cls(folder, connection)

    @classmethod
    def open(cls, folder: Path) -> Database:
        """The store in `folder`, for reading alone where that cannot be written.

        Raises TrtkitError when there is none.
        """
        path = folder / FILE
        if not path.is_file():
            raise _missing(folder)
        writable = os.access(path, os.W_OK) and os.access(folder, os.W_OK)
        with _opened(folder, "rw" if writable else _reading_mode(path)) as connection:
            # Left by an ingest that was killed before it had made it.
            if _empty(connection):
                raise _missing(folder)
            _check_format(folder, connection)
            return cls(folder, connection, writable=writable)

    def close(self) -> None:
        self._sql.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is written inside is there afterwards, or after an error none of it.

        Raises TrtkitError, before anything inside is done where the store can only be read.
        """
        if not self.writable:
            raise TrtkitError(
                f"The store in {self.folder} can only be read; mend its permissions to have it written."
            )
        with _explained(self.folder):
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._sql
                self._sql.execute("COMMIT")
            except BaseException:
                # A full disk has rolled it back already.
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        """What a query gives. Raises TrtkitError when the file is damaged."""
        with _explained(self.folder):
            return self._sql.execute(query, parameters).fetchall()

    def rows_among(
        self, query: str, numbers: Sequence[int], parameters: tuple[Any, ...] = ()
    ) -> list[Any]:
        """What a query that ends in `IN` gives for all of these numbers together.

        `parameters`: those before them. Raises TrtkitError when the file is damaged.
        """
        found = []
        for start in range(0, len(numbers), _AT_ONCE):
            part = tuple(numbers[start : start + _AT_ONCE])
            marks = ", ".join("?" * len(part))
            found += self.rows(f"{query} ({marks})", (*parameters, *part))
        return found


@contextmanager
def _opened(folder: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection that is closed again when what is done first with it fails."""
    with _explained(folder):
        connection = _connect(folder, mode)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise


def _empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing was ever written to the file."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not (version or application or tables)


def _check_format(folder: Path, connection: sqlite3.Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID or version != FORMAT:
        what = "of another program" if application != APPLICATION_ID else f"of format {version}"
        raise TrtkitError(
            f"{folder / FILE} is {what}, and this trtkit reads its own of format {FORMAT}; choose "
            "another --store, or the trtkit that made it."
        )


@contextmanager
def _made_by_one(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK, timeout=WAIT_SECONDS)
    try:
        lock.acquire()
    except (OSError, Timeout) as error:
        raise TrtkitError(
            f"A store cannot be made in {folder} ({error}); mend its permissions, or choose another "
            "--store."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _missing(folder: Path) -> TrtkitError:
    return TrtkitError(
        f"There is no video store in {folder}; `trtkit ingest VIDEO --store {folder}` makes one."
    )


def _reading_mode(path: Path) -> str:
    # SQLite writes beside a file in WAL mode even to read it, unless it is told that nobody writes.
    log = path.with_name(f"{path.name}-wal")
    return "ro" if log.exists() and log.stat().st_size else "ro&immutable=1"


def _connect(folder: Path, mode: str) -> sqlite3.Connection:
    place = f"file:{quote(str((folder / FILE).absolute()))}?mode={mode}"
    connection = sqlite3.connect(place, uri=True, timeout=WAIT_SECONDS, isolation_level=None)
    # In WAL mode a power cut may lose the last commits with this, but never half of one.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    return connection


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turn SQLite's errors into sentences."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise TrtkitError(
            f"The store in {folder} cannot be used ({error}); free space there, mend its permissions "
            "or wait for who is writing to it, and run the command again: it goes on where it ended."
        ) from error
    except sqlite3.ProgrammingError:
        # A wrong statement is no damage of the file.
        raise
    except sqlite3.DatabaseError as error:
        raise DamagedStore(
            f"The store in {folder} is damaged ({error}); `trtkit store verify` says how much, and "
            "ingesting into a new --store makes it anew."
        ) from error
