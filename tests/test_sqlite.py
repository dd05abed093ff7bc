"""Opening SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trtkit.sqlite import (
    FileKind,
    Mode,
    connected,
    create_tables,
    explained,
    file_kind,
    transaction,
)

KIND = FileKind(application=0x54455354, version=3)


@contextmanager
def opened(path: Path, mode: Mode = "write") -> Iterator[sqlite3.Connection]:
    with connected(path, mode, wait_seconds=0.1, synchronous="NORMAL") as connection:
        yield connection
    connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # Characters that mean something in a URI.
    path = tmp_path / "a file?#%20.sqlite"
    with opened(path, "create") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        with transaction(connection):
            create_tables(connection, "CREATE TABLE rows (n INTEGER); ", KIND)
    return path


def rows(path: Path, mode: Mode = "write") -> list[int]:
    with opened(path, mode) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM rows")]


def test_a_file_says_what_it_is(path: Path) -> None:
    with opened(path) as connection:
        assert file_kind(connection) == KIND
    with opened(path.with_name("new.sqlite"), "create") as connection:
        assert file_kind(connection) == FileKind(0, 0)


def test_a_transaction_is_whole_or_nothing(path: Path) -> None:
    with opened(path) as connection:
        with transaction(connection):
            connection.execute("INSERT INTO rows VALUES (1)")
        with pytest.raises(KeyboardInterrupt), transaction(connection):
            connection.execute("INSERT INTO rows VALUES (2)")
            raise KeyboardInterrupt
        connection.execute("INSERT INTO rows VALUES (3)")
    assert rows(path) == [1, 3]


@pytest.mark.parametrize("mode", ["write", "read", "immutable"])
def test_only_create_makes_a_file(tmp_path: Path, mode: Mode) -> None:
    with pytest.raises(sqlite3.OperationalError), opened(tmp_path / "missing.sqlite", mode):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["read", "immutable"])
def test_reading_modes_do_not_write(path: Path, mode: Mode) -> None:
    assert rows(path, mode) == []
    with opened(path, mode) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("INSERT INTO rows VALUES (1)")


def test_immutable_leaves_no_file_beside(path: Path) -> None:
    before = sorted(path.parent.iterdir())
    with opened(path, "immutable") as connection:
        connection.execute("SELECT n FROM rows").fetchall()
        assert sorted(path.parent.iterdir()) == before


def test_a_connection_closes_when_its_first_use_fails(path: Path) -> None:
    with pytest.raises(ValueError), opened(path) as connection:
        raise ValueError
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_errors_are_explained(path: Path) -> None:
    def use(statement: str, at: Path = path) -> None:
        unusable, damaged = (
            (lambda e: OSError(f"unusable: {e}")),
            (lambda e: ValueError(f"damaged: {e}")),
        )
        with explained(unusable, damaged), opened(at) as connection:
            connection.execute(statement)

    with opened(path) as other, transaction(other):
        other.execute("INSERT INTO rows VALUES (1)")
        with pytest.raises(OSError, match="unusable: database is locked"):
            use("INSERT INTO rows VALUES (2)")
    damaged = path.with_name("damaged.sqlite")
    damaged.write_bytes(b"no database " * 1000)
    with pytest.raises(ValueError, match="damaged: file is not a database"):
        use("SELECT n FROM rows", damaged)
    with pytest.raises(sqlite3.ProgrammingError):
        use("SELECT ?")
