"""A writer killed at random moments, and a disk that takes no more."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from trtkit.store.maintenance import verify
from trtkit.store.store import FeatureStore

COMMON = """
import hashlib, resource, sys
from pathlib import Path
import numpy as np
from trtkit.store.store import FeatureStore

def key_of(number):
    return hashlib.sha256(str(number).encode()).digest()

def map_of(number):
    size = 200 + number * 37 % 9000
    return np.random.default_rng(number).integers(-9, 9, size).astype(np.float16)
"""


def key_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def map_of(number: int) -> np.ndarray:
    size = 200 + number * 37 % 9000
    return np.random.default_rng(number).integers(-9, 9, size).astype(np.float16)


WRITER = COMMON + textwrap.dedent("""
    number, codec = int(sys.argv[2]), sys.argv[3]
    with FeatureStore(Path(sys.argv[1]), mode="write", codec=codec, segment_bytes=60_000,
                      max_bytes=1 << 30) as store:
        while True:
            for _ in range(number % 7 + 1):
                store.put(key_of(number), map_of(number))
                print("put", number, flush=True)
                number += 1
            store.flush()
            print("flushed", number - 1, flush=True)
""")


def run_and_kill(folder: Path, first: int, codec: str, seconds: float) -> tuple[int, int]:
    """Write from `first` on until killed; the last number flushed and the last number put."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first), codec],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    begun = process.stdout.readline()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    # Not communicate(): it reads past what readline() has already taken in.
    out, errors = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=20) == -signal.SIGKILL, errors
    lines = [line.split() for line in (begun + out).splitlines(keepends=True) if line[-1] == "\n"]
    flushed = [int(number) for what, number in lines if what == "flushed"]
    return max(flushed, default=first - 1), max(int(number) for _, number in lines)


def test_killed_at_any_moment(tmp_path):
    rng = random.Random(20)
    safe: set[int] = set()
    first = 0
    for turn in range(10):
        codec = ("none", "lz4", "zstd")[turn % 3]
        flushed, last = run_and_kill(tmp_path, first, codec, rng.uniform(0, 0.15))
        safe.update(range(first, flushed + 1))
        first = last + 2
        # As a reader finds it, and as the next writer leaves it.
        for mode in ("read", "write") if turn % 2 else ("read",):
            with FeatureStore(tmp_path, mode=mode, segment_bytes=60_000) as store:
                for number in range(first):
                    found = store.get(key_of(number))
                    assert found is not None or number not in safe
                    assert found is None or np.array_equal(found, map_of(number))
                assert store.stats.damaged == 0
    assert len(safe) > 50
    assert verify(tmp_path).damaged == ()


def test_next_writer_cuts_off_what_was_not_committed(tmp_path):
    with FeatureStore(tmp_path) as store:
        store.put(key_of(1), map_of(1))
    (path,) = tmp_path.glob("segment-*.seg")
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"half an entry")
    orphan = tmp_path / "segment-00000077.seg"
    orphan.write_bytes(b"never committed")
    theirs = tmp_path / "notes.txt"
    theirs.write_text("not the store's")
    FeatureStore(tmp_path).close()
    assert path.stat().st_size == size
    assert not orphan.exists()
    assert theirs.exists()


def check_goes_on_read_only(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    assert not store.writable
    assert "takes no more entries" in store.read_only_reason
    for number in range(10, 15):
        store.put(key_of(number), map_of(number))
    store.flush()
    assert np.array_equal(store.get(key_of(1)), map_of(1))
    assert store.get(key_of(10)) is None
    assert store.stats.dropped >= 5
    assert store.stats.damaged == 0
    assert sum("takes no more" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("failing", ["pwritev", "fdatasync"])
def test_full_disk(tmp_path, monkeypatch, caplog, failing):
    caplog.set_level(logging.WARNING, "trtkit.store")
    with FeatureStore(tmp_path) as store:
        store.put(key_of(1), map_of(1))
        store.flush()
        (path,) = tmp_path.glob("segment-*.seg")
        pwritev = os.pwritev

        def full(fd, buffers=(), *rest):
            if buffers:
                pwritev(fd, [buffers[0]], *rest)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, failing, full)
        store.put(key_of(2), map_of(2))
        store.flush()
        assert "No space left" in store.read_only_reason
        check_goes_on_read_only(store, caplog)
        monkeypatch.undo()
        # Nothing half-written stays.
        assert path.stat().st_size == verify(tmp_path).bytes
    with FeatureStore(tmp_path) as store:
        assert store.writable
        assert np.array_equal(store.get(key_of(1)), map_of(1))
        assert store.get(key_of(2)) is None


def test_file_size_limit(tmp_path):
    script = COMMON + textwrap.dedent("""
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
        with FeatureStore(Path(sys.argv[1]), mode="write") as store:
            for number in range(60):
                store.put(key_of(number), map_of(number))
                store.flush()
            found = [n for n in range(60) if store.get(key_of(n)) is not None]
            assert 0 < len(found) < 60 and not store.writable, store.stats
            assert all(np.array_equal(store.get(key_of(n)), map_of(n)) for n in found)
            assert store.stats.damaged == 0 and store.stats.written == len(found)
            print(len(found))
    """)
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stderr
    report = verify(tmp_path)
    assert (report.entries, report.damaged) == (int(result.stdout), ())


def test_who_waited_for_a_failed_write_finds_the_reason(tmp_path, monkeypatch):
    slow = FeatureStore._on_failure

    def later(store, failure):
        time.sleep(0.3)
        slow(store, failure)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FeatureStore, "_on_failure", later)
    with FeatureStore(tmp_path) as store:
        monkeypatch.setattr(os, "pwritev", full)
        store.put(key_of(1), map_of(1))
        store.flush()
        assert "No space left" in str(store.read_only_reason)
