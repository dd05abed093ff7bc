"""The bound on disk space, and which segments go first."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from trtkit.store.maintenance import clear, info
from trtkit.store.store import FeatureStore

ENTRY = np.zeros((50, 100), np.float16)
SEGMENT = 3 * (ENTRY.nbytes + 300)


def key_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def map_of(number: int) -> np.ndarray:
    return np.full_like(ENTRY, number)


def segment_bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.glob("segment-*.seg"))


def sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("segment-*.seg")]


def fill(folder: Path, numbers: range, max_bytes: int, **options) -> FeatureStore:
    store = FeatureStore(folder, max_bytes=max_bytes, segment_bytes=SEGMENT, **options)
    for number in numbers:
        store.put(key_of(number), map_of(number))
        store.flush()
    return store


def test_stays_below_the_bound_and_returns_the_space(tmp_path):
    bound = 5 * SEGMENT
    with FeatureStore(tmp_path, max_bytes=bound, segment_bytes=SEGMENT) as store:
        for number in range(60):
            store.put(key_of(number), map_of(number))
            store.flush()
            assert sum(sizes(tmp_path)) <= bound
        found = [number for number in range(60) if store.get(key_of(number)) is not None]
        assert found == list(range(60 - len(found), 60))
        assert 12 <= len(found) <= 15
        assert store.stats.evicted == 60 - len(found)
        assert store.stats.damaged == 0
        # A page more for each file's last, partly filled one.
        assert segment_bytes_on_disk(tmp_path) <= bound + 4096 * len(sizes(tmp_path))
    result = info(tmp_path)
    assert result.entries == len(found)
    assert result.max_bytes == bound
    assert result.bytes == sum(sizes(tmp_path)) <= bound


def test_evicts_the_longest_unused_segment(tmp_path):
    bound = 5 * SEGMENT
    with fill(tmp_path, range(12), bound) as store:
        # Segments hold 0-2, 3-5, 6-8 and 9-11; the first is used again.
        assert store.get(key_of(1)) is not None
        for number in range(12, 16):
            store.put(key_of(number), map_of(number))
        store.flush()
        assert store.stats.evicted == 3
        found = [number for number in range(16) if store.get(key_of(number)) is not None]
        assert found == [0, 1, 2, *range(6, 16)]


def test_use_by_a_reader_counts(tmp_path):
    fill(tmp_path, range(12), 5 * SEGMENT).close()
    with FeatureStore(tmp_path, mode="read") as reader:
        assert reader.get(key_of(0)) is not None
    with fill(tmp_path, range(12, 16), 5 * SEGMENT) as store:
        assert store.get(key_of(0)) is not None
        assert store.get(key_of(3)) is None


def test_reader_of_an_evicted_segment_has_a_miss(tmp_path):
    fill(tmp_path, range(12), 5 * SEGMENT).close()
    with FeatureStore(tmp_path, mode="read") as reader:
        # Has its file open.
        assert np.array_equal(reader.get(key_of(0)), map_of(0))
        fill(tmp_path, range(12, 40), 5 * SEGMENT).close()
        assert reader.get(key_of(0)) is None
        assert reader.get(key_of(5)) is None
        assert np.array_equal(reader.get(key_of(39)), map_of(39))
        assert reader.stats.damaged == 0
        assert reader.stats.misses == 2


def test_eviction_between_lookup_and_read_is_a_miss(tmp_path, monkeypatch):
    fill(tmp_path, range(3), 5 * SEGMENT).close()
    with FeatureStore(tmp_path, mode="read") as reader:
        read = reader._segments.read

        def evicted_meanwhile(*place):
            clear(tmp_path)
            return read(*place)

        monkeypatch.setattr(reader._segments, "read", evicted_meanwhile)
        assert reader.get(key_of(0)) is None
        assert reader.stats.damaged == 0


def test_replacement_between_lookup_and_read_is_a_hit(tmp_path, monkeypatch):
    fill(tmp_path, range(3), 5 * SEGMENT).close()
    with FeatureStore(tmp_path, mode="read") as reader:
        read = reader._segments.read
        once = []

        def replaced_meanwhile(*place):
            if not once:
                once.append(place)
                clear(tmp_path)
                fill(tmp_path, range(1), 5 * SEGMENT).close()
            return read(*place)

        monkeypatch.setattr(reader._segments, "read", replaced_meanwhile)
        assert np.array_equal(reader.get(key_of(0)), map_of(0))
        assert reader.stats.damaged == 0


def test_smaller_bound_takes_effect_when_opened(tmp_path):
    fill(tmp_path, range(30), 100 * SEGMENT).close()
    assert info(tmp_path).entries == 30
    with FeatureStore(tmp_path, max_bytes=4 * SEGMENT, segment_bytes=SEGMENT) as store:
        assert sum(sizes(tmp_path)) <= 4 * SEGMENT
        assert store.stats.evicted >= 18
        assert store.get(key_of(29)) is not None


def test_entry_above_the_bound_is_dropped_and_a_large_one_has_its_own_segment(tmp_path):
    large = np.zeros(4 * SEGMENT, np.int8)
    with FeatureStore(tmp_path, max_bytes=8 * SEGMENT, segment_bytes=SEGMENT) as store:
        store.put(key_of(0), np.zeros(8 * SEGMENT, np.int8))
        store.put(key_of(1), map_of(1))
        store.put(key_of(2), large)
        store.put(key_of(3), map_of(3))
        store.flush()
        assert store.get(key_of(0)) is None
        assert store.get(key_of(2)).nbytes == large.nbytes
        assert store.stats.dropped == 1
        assert store.stats.written == 3
        assert sum(sizes(tmp_path)) <= 8 * SEGMENT


def test_short_runs_share_a_segment(tmp_path):
    for number in range(6):
        fill(tmp_path, range(number, number + 1), 100 * SEGMENT).close()
    assert len(sizes(tmp_path)) == 2
    assert info(tmp_path).entries == 6


def test_open_files_are_bounded_and_let_go(tmp_path):
    fill(tmp_path, range(150), 1000 * SEGMENT).close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with FeatureStore(tmp_path, mode="read") as reader:
        for number in range(150):
            assert reader.get(key_of(number)) is not None
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 36
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_clock_that_is_set_back_does_not_matter(tmp_path, monkeypatch):
    bound = 5 * SEGMENT
    # Filled by an earlier version, which kept times, with a clock that was ahead.
    fill(tmp_path, range(12), bound).close()
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as sql:
        sql.execute("UPDATE segments SET used_ns = ? + number", (2_400_000_000 * 10**9,))
        sql.commit()
    monkeypatch.setattr(time, "time_ns", lambda: 10**9)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    for _ in range(2):
        with fill(tmp_path, range(100, 109), bound) as store:
            assert all(store.get(key_of(number)) is not None for number in range(100, 109))
    with FeatureStore(tmp_path, mode="read") as store:
        assert all(store.get(key_of(number)) is not None for number in range(100, 109))
