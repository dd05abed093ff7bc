"""The SQLite file of a store: made, opened, refused, and what an error leaves of it."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from trtkit.errors import TrtkitError
from trtkit.video.footage.database import FILE, KIND, LOCK, Database

ADD = "INSERT INTO settings (name, value) VALUES (?, ?)"
ALL = "SELECT name, value FROM settings ORDER BY name"


def put(database: Database, name: str, value: str = "v") -> None:
    with database.transaction() as sql:
        sql.execute(ADD, (name, value))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one setting, in a folder that SQLite's URIs would misread."""
    folder = tmp_path / "a store? 100% #1"
    with Database.create(folder) as database:
        put(database, "a")
    return folder


def test_made_once_and_opened(store: Path) -> None:
    assert {path.name for path in store.iterdir()} == {FILE, LOCK}
    for opened in (Database.create(store), Database.open(store)):
        with opened as database:
            assert database.rows(ALL) == [("a", "v")]
            assert database.rows("PRAGMA journal_mode") == [("wal",)]
            assert database.writable
    # A mistake of the caller's, which is not to be told as damage.
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.rows(ALL)


def test_made_by_several_at_once(tmp_path: Path) -> None:
    together, failed = threading.Barrier(6), []

    def make(number: int) -> None:
        together.wait()
        try:
            with Database.create(tmp_path / "store") as database:
                put(database, str(number))
        except TrtkitError as error:
            failed.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with Database.open(tmp_path / "store") as database:
        assert len(database.rows(ALL)) == 6


def test_there_is_none(tmp_path: Path) -> None:
    sentence = rf"No footage store in {tmp_path}; `trtkit ingest VIDEO --store {tmp_path}` makes"
    with pytest.raises(TrtkitError, match=sentence):
        Database.open(tmp_path)
    # As an ingest leaves it that is killed before it has made the tables.
    (tmp_path / FILE).touch()
    with pytest.raises(TrtkitError, match=sentence):
        Database.open(tmp_path)
    with Database.create(tmp_path) as database:
        put(database, "a")
    (tmp_path / "file").touch()
    with pytest.raises(TrtkitError, match=r"cannot be made in .*file.*, or choose another --store"):
        Database.create(tmp_path / "file")


@pytest.mark.parametrize("version", [0, 1, 7])
def test_a_file_of_another_program_is_left_alone(tmp_path: Path, version: int) -> None:
    with sqlite3.connect(tmp_path / FILE) as sql:
        sql.execute("CREATE TABLE theirs (x)")
        sql.execute(f"PRAGMA user_version = {version}")
    sql.close()
    before = (tmp_path / FILE).read_bytes()
    for attempt in (Database.create, Database.open):
        with pytest.raises(
            TrtkitError, match=r"video.sqlite is a file of another program, .*choose another"
        ):
            attempt(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {FILE, LOCK}


def test_a_newer_format(store: Path) -> None:
    sql = sqlite3.connect(store / FILE)
    sql.execute(f"PRAGMA user_version = {KIND.version + 1}")
    sql.close()
    for attempt in (Database.create, Database.open):
        with pytest.raises(
            TrtkitError,
            match=rf"is a footage store of format {KIND.version + 1}, but this .* {KIND.version}; ",
        ):
            attempt(store)
    sql = sqlite3.connect(store / FILE)
    assert sql.execute("PRAGMA user_version").fetchone() == (KIND.version + 1,)
    assert sql.execute("PRAGMA application_id").fetchone() == (KIND.application,)
    sql.close()


def test_a_damaged_file(store: Path) -> None:
    path = store / FILE
    whole = path.read_bytes()
    path.write_bytes(b"This is no database." * 500)
    for attempt in (Database.create, Database.open):
        with pytest.raises(TrtkitError, match=r"is damaged \(.*\); `trtkit store verify` lists"):
            attempt(store)
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(TrtkitError, match="is damaged"), Database.open(store) as database:
        database.rows(ALL)


def test_an_error_inside_leaves_nothing(store: Path) -> None:
    with Database.open(store) as database:
        for error in (KeyboardInterrupt, TrtkitError, ValueError):
            with pytest.raises(error), database.transaction() as sql:
                sql.execute(ADD, ("b", "v"))
                raise error
            assert database.rows(ALL) == [("a", "v")]
        put(database, "b")
    with Database.open(store) as database:
        assert database.rows(ALL) == [("a", "v"), ("b", "v")]


def test_a_full_disk(store: Path) -> None:
    with Database.open(store) as database:
        pages = database.rows("PRAGMA page_count")[0][0]
        database.rows(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(
            TrtkitError,
            match=r"cannot be used \(database or disk is full\); free space .*run the command again: it "
            r"continues where it stopped\.$",
        ):
            put(database, "b", "much" * 10_000)
        assert database.rows(ALL) == [("a", "v")]
        database.rows(f"PRAGMA max_page_count = {pages + 100}")
        put(database, "b")
        assert database.rows(ALL) == [("a", "v"), ("b", "v")]


class Refusing:
    """A connection whose commit fails once, as on a disk that is full only then."""

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql
        self._refuse = True

    def execute(self, statement: str, *more: object) -> object:
        if statement == "COMMIT" and self._refuse:
            self._refuse = False
            raise sqlite3.OperationalError("disk I/O error")
        return self._sql.execute(statement, *more)

    def __getattr__(self, name: str) -> object:
        return getattr(self._sql, name)


def test_a_commit_that_fails(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database.open(store) as database:
        monkeypatch.setattr(database, "_sql", Refusing(database._sql))
        with pytest.raises(TrtkitError, match=r"cannot be used \(disk I/O error\)"):
            put(database, "b")
        # Not half open: the next one may begin.
        put(database, "c")
        assert database.rows(ALL) == [("a", "v"), ("c", "v")]


def test_one_that_another_holds_for_too_long(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtkit.video.footage.database.WAIT_SECONDS", 0.05)
    with Database.open(store) as mine, Database.open(store) as theirs, theirs.transaction() as sql:
        sql.execute(ADD, ("b", "v"))
        with pytest.raises(
            TrtkitError, match=r"\(database is locked\).* wait for the process that writes"
        ):
            put(mine, "c")
        # Reading does not wait.
        assert mine.rows(ALL) == [("a", "v")]


def test_killed_within_a_transaction(store: Path) -> None:
    with Database.open(store):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_half, args=(store,))
        process.start()
        process.join()
        assert process.exitcode == 9
    with Database.create(store) as database:
        assert database.rows(ALL) == [("a", "v")]
        put(database, "b")


def _half(store: Path) -> None:
    with Database.open(store) as database, database.transaction() as sql:
        sql.executemany(ADD, [(f"n{number}", "v" * 1000) for number in range(2000)])
        os._exit(9)


READ_ONLY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from trtkit.errors import TrtkitError
from trtkit.video.footage.database import Database
from trtkit.video.judging import Verdict, Verdicts
store = Path(sys.argv[1])
if os.getuid() == 0:
    # Nothing is forbidden to root.
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
with Database.open(store) as database:
    print(database.writable, database.rows("SELECT name FROM settings ORDER BY name"))
    try:
        Verdicts(database, "s").remember({1: Verdict(1, 0.5)})
    except TrtkitError as error:
        print(error)
    print(Verdicts(database, "s").known([1]))
try:
    Database.create(store).close()
except TrtkitError as error:
    print(error)
"""


@pytest.mark.parametrize("log", [False, True])
def test_a_store_that_cannot_be_written_can_be_read(tmp_path: Path, log: bool) -> None:
    # Not below pytest's folder, into which nobody but its owner can look.
    folder = Path(tempfile.mkdtemp(prefix="trtkit-read-only-"))
    folder.chmod(0o755)
    store = folder / "store"
    try:
        with Database.create(store) as database:
            put(database, "a")
            if log:
                # As a process leaves it that was killed: the last commit is in the log alone.
                shutil.copytree(store, folder / "killed")
        if log:
            store = folder / "killed"
        for path in store.iterdir():
            path.chmod(0o444)
        store.chmod(0o555)
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(store), str(root)],
            capture_output=True, text=True, check=False, cwd="/",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "False [('a',)]"
        assert lines[1] == (
            f"The footage store in {store} can only be read; fix its permissions to write to it."
        )
        assert lines[2] == "{}"
        assert "fix its permissions" in lines[3]
    finally:
        for path in folder.glob("*"):
            path.chmod(0o755)
        shutil.rmtree(folder)
