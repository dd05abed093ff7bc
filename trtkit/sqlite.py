"""Opening SQLite files: one way to connect, to write a whole change, and to explain errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
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


# Of SQLite's messages on errors that the file's content has no part in (sqlite3.c, sqlite3ErrStr).
_SURROUNDINGS = (
    "locked", "full", "readonly", "unable to open", "disk I/O", "permission", "busy", "interrupted",
    "out of memory", "locking protocol", "authorization", "within a transaction", "large file support",
)  # fmt: skip


@dataclass(frozen=True)
class FileKind:
    """What a file is: SQLite's `application_id` and `user_version`, both 0 in a new file."""

    application: int
    version: int


class _Cursor(sqlite3.Cursor):
    """Raises sqlite3.DatabaseError where Python cannot decode SQLite's message on a damaged file."""

    def execute(self, *arguments: Any) -> _Cursor:
        try:
            super().execute(*arguments)
        except UnicodeDecodeError as error:
            raise _undecodable() from error
        return self

    def executemany(self, *arguments: Any) -> _Cursor:
        try:
            super().executemany(*arguments)
        except UnicodeDecodeError as error:
            raise _undecodable() from error
        return self

    def fetchone(self) -> Any:
        try:
            return super().fetchone()
        except UnicodeDecodeError as error:
            raise _undecodable() from error

    def fetchall(self) -> list[Any]:
        try:
            return super().fetchall()
        except UnicodeDecodeError as error:
            raise _undecodable() from error


class _Connection(sqlite3.Connection):
    def execute(self, *arguments: Any) -> _Cursor:
        return self.cursor(_Cursor).execute(*arguments)

    def executemany(self, *arguments: Any) -> _Cursor:
        return self.cursor(_Cursor).executemany(*arguments)


def _undecodable() -> sqlite3.DatabaseError:
    return sqlite3.DatabaseError("its texts are no UTF-8")


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
        address, uri=True, timeout=wait_seconds, isolation_level=None, check_same_thread=False,
        factory=_Connection,
    )  # fmt: skip
    # A damaged file may hold any bytes for a text.
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
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
    database, or not all of one. A wrong use of the library stays an error of SQLite's.
    """
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise (damaged if is_damage(error) else unusable)(error) from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is at fault, not its surroundings.

    A table that is not there is damage too: every statement was written for tables that are.
    """
    if not isinstance(error, sqlite3.OperationalError):
        return True
    return not any(words in str(error) for words in _SURROUNDINGS)


def checked(row: Sequence[Any], *kinds: type) -> Any:
    """The row, if its values are of these kinds. Raises sqlite3.DatabaseError for any other value.

    SQLite keeps the type of a value with the value, so that a damaged file can hold any type in any column.
    """
    if len(row) != len(kinds) or not all(map(isinstance, row, kinds)):
        raise sqlite3.DatabaseError("a row holds values of other types than were written")
    return row


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


def bring_forward(
    connection: sqlite3.Connection,
    steps: Sequence[Callable[[sqlite3.Connection], None]],
    kind: FileKind,
) -> None:
    """Run the steps that a file of this kind has not had, all or none.

    Its version is the number of steps that it has had.
    """
    with transaction(connection):
        # Another process may have done it meanwhile.
        version = max(kind.version, file_kind(connection).version)
        for step in steps[version:]:
            step(connection)
        connection.execute(f"PRAGMA application_id = {kind.application}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
