"""Several threads and processes on one store, and folders that cannot be written."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from trtkit.errors import TrtkitError
from trtkit.store.maintenance import clear, info, verify
from trtkit.store.store import FeatureStore

READER = """
import hashlib, sys, time
from pathlib import Path
import numpy as np
from trtkit.store.store import FeatureStore

count, found, deadline = int(sys.argv[2]), 0, time.monotonic() + 25
with FeatureStore(Path(sys.argv[1]), mode="read") as store:
    print("ready", flush=True)
    while found < count and time.monotonic() < deadline:
        array = store.get(hashlib.sha256(str(found).encode()).digest())
        if array is None:
            time.sleep(0.001)
            continue
        assert np.array_equal(array, np.full((40, 50), found, np.float16)), found
        found += 1
    assert store.stats.damaged == 0
print(found)
"""


def key_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def map_of(number: int) -> np.ndarray:
    return np.full((40, 50), number, np.float16)


def fill(folder: Path, count: int, **options) -> None:
    with FeatureStore(folder, **options) as store:
        for number in range(count):
            store.put(key_of(number), map_of(number))


def test_reading_processes_follow_a_running_writer(tmp_path):
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, str(tmp_path), "120"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n"
    with FeatureStore(tmp_path, segment_bytes=30_000) as store:
        for number in range(120):
            store.put(key_of(number), map_of(number))
            if number % 10 == 9:
                store.flush()
        for reader in readers:
            out, errors = reader.communicate(timeout=30)
            assert (reader.returncode, out) == (0, "120\n"), errors


def test_second_writer(tmp_path):
    with FeatureStore(tmp_path) as first:
        first.put(key_of(1), map_of(1))
        first.flush()
        with pytest.raises(TrtkitError, match="being written to by another"):
            FeatureStore(tmp_path, mode="write")
        with FeatureStore(tmp_path, mode="auto") as second:
            assert not second.writable
            assert "being written to by another" in second.read_only_reason
            assert np.array_equal(second.get(key_of(1)), map_of(1))
            second.put(key_of(2), map_of(2))
            second.flush()
            assert second.get(key_of(2)) is None
            assert second.stats.dropped == 1
        with pytest.raises(TrtkitError, match="being written to by another"):
            clear(tmp_path)
        with pytest.raises(TrtkitError, match="being written to by another"):
            verify(tmp_path, repair=True)
        assert info(tmp_path).entries == 1
        assert verify(tmp_path).entries == 1
        assert first.writable
        assert first.read_only_reason is None
    with FeatureStore(tmp_path, mode="write") as third:
        assert third.writable


def test_get_and_put_from_many_threads_until_close(tmp_path):
    fill(tmp_path, 60, segment_bytes=30_000)
    store = FeatureStore(tmp_path, segment_bytes=30_000)
    store._segments._max_open = 2
    wrong: list[object] = []
    stop = threading.Event()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            while not stop.is_set():
                number = int(rng.integers(0, 90))
                found = store.get(key_of(number))
                if found is None:
                    store.put(key_of(number), map_of(number))
                elif not np.array_equal(found, map_of(number)):
                    wrong.append(number)
        except TrtkitError as error:
            if "was closed" not in str(error):
                wrong.append(error)
        except Exception as error:
            wrong.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    store.close()
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert wrong == []
    assert store.stats.damaged == 0
    assert store.stats.hits > 500
    assert verify(tmp_path).damaged == ()


def test_locked_index_does_not_fail_a_read(tmp_path):
    fill(tmp_path, 3)
    other = sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with FeatureStore(tmp_path, mode="read") as store:
        assert np.array_equal(store.get(key_of(2)), map_of(2))
    other.execute("ROLLBACK")
    other.close()


def test_no_store_yet_is_an_empty_one_for_a_reader(tmp_path):
    with FeatureStore(tmp_path / "later", mode="read") as reader:
        assert reader.get(key_of(0)) is None
        assert not (tmp_path / "later").exists()
        fill(tmp_path / "later", 1)
        assert np.array_equal(reader.get(key_of(0)), map_of(0))


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_folder_of_another_user_is_read_only():
    folder = Path(tempfile.mkdtemp())
    try:
        fill(folder, 3)
        folder.chmod(0o755)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setuid(65534)
                with FeatureStore(folder) as store:
                    right = all(np.array_equal(store.get(key_of(n)), map_of(n)) for n in range(3))
                    said = "cannot be written to" in (store.read_only_reason or "")
                    status = 0 if right and said and not store.writable else 2
                try:
                    FeatureStore(folder, mode="write")
                    status = 3
                except TrtkitError:
                    status = status or 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        shutil.rmtree(folder)


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    fill(tmp_path, 3)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with FeatureStore(tmp_path) as store:
        assert "Permission denied" in store.read_only_reason
        assert np.array_equal(store.get(key_of(1)), map_of(1))
    with pytest.raises(TrtkitError, match="cannot be written to"):
        FeatureStore(tmp_path, mode="write")


@pytest.mark.parametrize("mode", ["auto", "read", "write"])
def test_newer_format_is_refused(tmp_path, mode):
    fill(tmp_path, 1)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(TrtkitError, match=r"format 2 .* update trtkit"):
        FeatureStore(tmp_path, mode=mode)
    for use in (info, verify, clear):
        with pytest.raises(TrtkitError, match=r"format 2 .* update trtkit"):
            use(tmp_path)
    assert len(list(tmp_path.glob("segment-*.seg"))) == 1


def test_info_and_clear(tmp_path):
    fill(tmp_path, 5, codec="lz4", max_bytes=1 << 20)
    result = info(tmp_path)
    (path,) = tmp_path.glob("segment-*.seg")
    assert (result.entries, result.segments, result.max_bytes) == (5, 1, 1 << 20)
    assert result.bytes == path.stat().st_size
    assert result.entries_by_codec == {"lz4": 5}
    with FeatureStore(tmp_path, mode="read") as reader:
        assert reader.get(key_of(1)) is not None
        cleared = clear(tmp_path)
        assert (cleared.segments, cleared.bytes) == (1, result.bytes)
        assert reader.get(key_of(1)) is None
        assert reader.stats.damaged == 0
        assert info(tmp_path).entries == info(tmp_path).bytes == 0
        fill(tmp_path, 2)
        assert np.array_equal(reader.get(key_of(1)), map_of(1))


def test_damaged_index_is_named_and_can_be_cleared(tmp_path):
    fill(tmp_path, 5)
    (tmp_path / "index.sqlite").write_bytes(b"not a database" * 1000)
    for use in (info, verify):
        with pytest.raises(TrtkitError, match=r"index\.sqlite is damaged"):
            use(tmp_path)
    assert clear(tmp_path).segments == 1
    assert list(tmp_path.glob("segment-*")) == []


@pytest.mark.parametrize("use", [info, verify, clear])
def test_there_is_no_store(tmp_path, use):
    with pytest.raises(TrtkitError, match="There is no feature store"):
        use(tmp_path)
