"""Opening SQLite files: one way to connect, to write a whole change, and to explain errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

# "create" makes a missing file. "immutable" reads the database file alone, without the write-ahead log
# and without files beside it: for a folder that cannot be written, and only while nobody writes.
Mode = Literal["create", "write", "read", "immutable"]
_QUERIES: dict[Mode, str] = {
    "create": "mode=rwc",
    "write": "mode=rw",
    "read": "mode=ro",
    "immutable": "mode=ro&immutable=1",
}


@dataclass(frozen=True)
class FileKind:
    """What a file is: SQLite's `application_id` and `user_version`, both 0 in a new file."""

    application: int
    version: int


@contextmanager
def connected(
    path: Path,
    mode: Mode,
    *,
    wait_seconds: float,
    synchronous: Literal["NORMAL", "FULL"],
    cache_bytes: int | None = None,
) -> Iterator[sqlite3.Connection]:
    """A connection for the caller to keep, which is closed when the block raises.

    Every statement is its own transaction unless it is inside `transaction`. `wait_seconds`: how long
    to wait for another process's transaction; `synchronous`: in WAL mode a power cut may lose the last
    commits with NORMAL and none with FULL; `cache_bytes`: memory for pages. Any thread may use the
    connection, one at a time. Raises sqlite3.Error.
    """
    address = f"file:{quote(str(path.absolute()))}?{_QUERIES[mode]}"
    connection = sqlite3.connect(
        address, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if cache_bytes is not None:
            connection.execute(f"PRAGMA cache_size = -{cache_bytes // 1024}")
        yield connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything that is written inside is there afterwards, or after an error none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk has rolled it back already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(
    unusable: Callable[[sqlite3.Error], Exception], damaged: Callable[[sqlite3.Error], Exception]
) -> Iterator[None]:
    """Raise the caller's errors instead of SQLite's.

    `unusable`: the file may be in order (locked, a full disk, permissions). `damaged`: it is no
    database, or not all of one. A wrong statement stays an error of SQLite's.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.OperationalError as error:
        raise unusable(error) from error
    except sqlite3.DatabaseError as error:
        raise damaged(error) from error


def file_kind(connection: sqlite3.Connection) -> FileKind:
    """What the file says it is."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return FileKind(application, version)


def create_tables(connection: sqlite3.Connection, schema: str, kind: FileKind) -> None:
    """Run the statements of `schema` (none of which holds a semicolon) and write `kind`."""
    for statement in schema.split(";"):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {kind.application}")
    connection.execute(f"PRAGMA user_version = {kind.version}")
