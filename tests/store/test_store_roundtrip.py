"""What goes in comes out: dtypes, codecs, shapes, pending entries, and what is refused."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtkit.errors import TrtkitError
from trtkit.store import writer as writer_module
from trtkit.store.maintenance import info
from trtkit.store.store import FeatureStore


def key_of(name: object) -> bytes:
    return hashlib.sha256(repr(name).encode()).digest()


def relu_map(seed: int, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((16, 7, 7)) - 0.25
    return np.maximum(values, 0).astype(dtype)


def same(a: np.ndarray | None, b: np.ndarray) -> bool:
    return (
        a is not None
        and a.dtype == b.dtype
        and a.shape == b.shape
        and np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()
    )


def as_numpy_stores(value: np.ndarray, requested: str) -> np.ndarray:
    """The rule of the store, said in another way than the store does."""
    if value.dtype.kind != "f":
        return value
    if requested == "fp32":
        return value.astype(np.float32)
    with np.errstate(all="ignore"):
        half = value.astype(np.float16)
    return value if np.any(~np.isfinite(half) & np.isfinite(value)) else half


arrays = st.sampled_from(["float16", "float32", "int8", "uint8"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=6)
    )
)


@settings(max_examples=20, deadline=None)
@given(
    values=st.lists(arrays, min_size=1, max_size=6),
    codec=st.sampled_from(["none", "lz4", "zstd"]),
    dtype=st.sampled_from(["fp16", "fp32"]),
    segment_bytes=st.sampled_from([1, 700, 1 << 20]),
)
def test_any_array_comes_back_as_the_store_keeps_it(values, codec, dtype, segment_bytes):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with FeatureStore(folder, codec=codec, dtype=dtype, segment_bytes=segment_bytes) as store:
            for number, value in enumerate(values):
                store.put(key_of(number), value)
            for number, value in enumerate(values):
                assert same(store.get(key_of(number)), as_numpy_stores(value, dtype))
            store.flush()
            for number, value in enumerate(values):
                assert same(store.get(key_of(number)), as_numpy_stores(value, dtype))
        # Another codec than it was written with.
        with FeatureStore(folder, mode="read", dtype=dtype) as store:
            for number, value in enumerate(values):
                assert same(store.get(key_of(number)), as_numpy_stores(value, dtype))
            assert store.stats.hits == len(values)
            assert store.stats.damaged == 0


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_what_get_returns_belongs_to_the_caller(tmp_path, codec):
    value = relu_map(1)
    with FeatureStore(tmp_path, codec=codec) as store:
        store.put(key_of(1), value)
        kept = value.copy()
        value[:] = 9
        store.get(key_of(1))[:] = 7
        store.flush()
        store.get(key_of(1))[:] = 5
        assert same(store.get(key_of(1)), kept)


def test_arrays_that_are_not_contiguous(tmp_path):
    value = relu_map(2, "float32").transpose(2, 0, 1)[:, ::2]
    with FeatureStore(tmp_path, dtype="fp32") as store:
        store.put(key_of(1), value)
        store.flush()
        assert same(store.get(key_of(1)), value)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_codec_shrinks_sparse_maps_and_leaves_noise_alone(tmp_path, codec):
    noise = np.frombuffer(np.random.default_rng(0).bytes(20_000), np.int8)
    with FeatureStore(tmp_path, codec=codec) as store:
        store.put(key_of("sparse"), np.zeros((100, 100), np.float16))
        store.put(key_of("noise"), noise)
        store.flush()
        assert same(store.get(key_of("noise")), noise)
        assert same(store.get(key_of("sparse")), np.zeros((100, 100), np.float16))
    result = info(tmp_path)
    assert result.entries_by_codec == {"none": 1, codec: 1}
    assert result.bytes < 21_500


def test_dtypes_are_apart(tmp_path):
    exact = np.array([1 / 3, 1e-9, 1000.1], np.float32)
    with FeatureStore(tmp_path, dtype="fp16") as store:
        store.put(key_of(1), exact)
    with FeatureStore(tmp_path, dtype="fp32") as store:
        assert store.get(key_of(1)) is None
        store.put(key_of(1), exact)
        store.flush()
        assert same(store.get(key_of(1)), exact)
    with FeatureStore(tmp_path, dtype="fp16", mode="read") as store:
        assert same(store.get(key_of(1)), exact.astype(np.float16))
    assert info(tmp_path).entries_by_dtype == {"fp16": 1, "fp32": 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 65504.0], "float16"),
        ([1.0, 65519.99], "float16"),
        ([1.0, 65520.0], "float32"),
        ([1.0, -65520.0], "float32"),
        ([1.0, np.inf], "float16"),
        ([np.nan, 3.0], "float16"),
        ([np.nan, 70000.0], "float32"),
        ([-np.inf, 70000.0], "float32"),
    ],
)
def test_overflow_of_fp16_is_kept_as_fp32(tmp_path, values, expected):
    value = np.array(values, np.float32)
    with FeatureStore(tmp_path) as store:
        store.put(key_of(1), value)
        pending = store.get(key_of(1))
        store.flush()
        stored = store.get(key_of(1))
    assert pending.dtype == stored.dtype == np.dtype(expected)
    assert np.array_equal(stored, value.astype(expected), equal_nan=True)


def test_pending_entry_is_found_and_the_last_put_wins(tmp_path, monkeypatch):
    held = threading.Event()
    append = writer_module.Appender.append

    def slow(self, key, value):
        held.wait(20)
        return append(self, key, value)

    monkeypatch.setattr(writer_module.Appender, "append", slow)
    with FeatureStore(tmp_path) as store:
        for seed in range(4):
            store.put(key_of(1), relu_map(seed))
            store.put(key_of(seed), relu_map(seed))
        assert same(store.get(key_of(0)), relu_map(0))
        assert same(store.get(key_of(3)), relu_map(3))
        store.put(key_of(1), relu_map(9))
        assert same(store.get(key_of(1)), relu_map(9))
        assert store.stats.written == 0
        held.set()
        store.flush()
        assert same(store.get(key_of(1)), relu_map(9))
        assert store.stats.hits == 4
    with FeatureStore(tmp_path, mode="read") as store:
        assert same(store.get(key_of(1)), relu_map(9))


def test_put_waits_for_room_and_then_drops(tmp_path, monkeypatch):
    held = threading.Event()
    append = writer_module.Appender.append

    def slow(self, key, value):
        held.wait(20)
        return append(self, key, value)

    monkeypatch.setattr(writer_module.Appender, "append", slow)
    monkeypatch.setattr(writer_module, "QUEUE_BYTES", 3 * relu_map(0).nbytes)
    monkeypatch.setattr(writer_module, "PUT_WAIT_SECONDS", 0.05)
    with FeatureStore(tmp_path) as store:
        for number in range(5):
            store.put(key_of(number), relu_map(number))
        assert store.stats.dropped == 2
        held.set()
        store.flush()
        found = [store.get(key_of(number)) is not None for number in range(5)]
        assert found == [True, True, True, False, False]


def test_commits_by_itself_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "COMMIT_SECONDS", 0.05)
    with FeatureStore(tmp_path) as store, FeatureStore(tmp_path, mode="read") as reader:
        assert reader.get(key_of(1)) is None
        store.put(key_of(1), relu_map(1))
        waited = threading.Event()
        for _ in range(200):
            if reader.get(key_of(1)) is not None:
                break
            waited.wait(0.02)
        assert same(reader.get(key_of(1)), relu_map(1))


def test_one_key_is_one_entry(tmp_path):
    with FeatureStore(tmp_path) as store:
        for seed in range(3):
            store.put(key_of(1), relu_map(seed))
            store.flush()
        assert same(store.get(key_of(1)), relu_map(2))
    assert info(tmp_path).entries == 1


@pytest.mark.parametrize("key", [b"short", b"x" * 33, "x" * 32])
def test_refuses_other_keys(tmp_path, key):
    with FeatureStore(tmp_path) as store:
        with pytest.raises(TrtkitError, match="32 bytes"):
            store.put(key, relu_map(0))
        with pytest.raises(TrtkitError, match="32 bytes"):
            store.get(key)


@pytest.mark.parametrize(
    "value", [np.zeros(3), np.zeros(3, np.int64), np.zeros((1,) * 9, np.float16)]
)
def test_refuses_arrays_it_cannot_hold(tmp_path, value):
    with FeatureStore(tmp_path) as store, pytest.raises(TrtkitError, match=r"float64|int64|8 dim"):
        store.put(key_of(1), value)


@pytest.mark.parametrize(
    "options", [{"dtype": "int4"}, {"codec": "gzip"}, {"mode": "append"}, {"max_bytes": 0}]
)
def test_refuses_unknown_options(tmp_path, options):
    with pytest.raises(TrtkitError, match=r"has no (dtype|codec|mode) `\w+`; available: |positive"):
        FeatureStore(tmp_path, **options)


def test_has_tells_what_is_there_without_reading_it(tmp_path, monkeypatch):
    held = threading.Event()
    append = writer_module.Appender.append

    def slow(self, key, value):
        held.wait(20)
        return append(self, key, value)

    monkeypatch.setattr(writer_module.Appender, "append", slow)
    with FeatureStore(tmp_path) as store, FeatureStore(tmp_path, mode="read") as reader:
        store.put(key_of(1), relu_map(1))
        # Still to be written: the writer has it, nobody else.
        assert (store.has(key_of(1)), reader.has(key_of(1))) == (True, False)
        held.set()
        store.flush()
        assert (store.has(key_of(1)), reader.has(key_of(1))) == (True, True)
        assert not store.has(key_of(2))
        monkeypatch.setattr(store._segments, "read", lambda *place: pytest.fail("it was read"))
        assert store.has(key_of(1))
        assert store.stats.hits == store.stats.misses == 0
    with FeatureStore(tmp_path, dtype="fp32") as store:
        assert not store.has(key_of(1))
        with pytest.raises(TrtkitError, match="32 bytes"):
            store.has(b"short")
    with pytest.raises(TrtkitError, match="was closed"):
        store.has(key_of(1))
    with FeatureStore(tmp_path / "nowhere", mode="read") as store:
        assert not store.has(key_of(1))


def test_has_tells_neither_damage_nor_what_was_evicted(tmp_path):
    with FeatureStore(tmp_path, max_bytes=4 * 1800, segment_bytes=1800) as store:
        for number in range(20):
            store.put(key_of(number), relu_map(number))
        store.flush()
        assert store.stats.evicted > 0
        for number in range(20):
            assert store.has(key_of(number)) == (store.get(key_of(number)) is not None)
        last = max(tmp_path.glob("*.seg"))
        last.write_bytes(bytes(last.stat().st_size))
        # It is there by its key; only reading tells.
        assert store.has(key_of(19))
        assert store.get(key_of(19)) is None


def test_has_of_an_index_that_cannot_be_read_is_no_and_said_once(tmp_path, caplog):
    with FeatureStore(tmp_path) as store:
        store.put(key_of(1), relu_map(1))
    with FeatureStore(tmp_path, mode="read") as store:
        assert store.has(key_of(1))
        connection = sqlite3.connect(tmp_path / "index.sqlite")
        connection.execute("DROP TABLE entries")
        connection.close()
        assert not store.has(key_of(1))
        assert not store.has(key_of(1))
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "cannot be read" in text] == said[:1]


def test_closed_store_says_so(tmp_path):
    store = FeatureStore(tmp_path)
    store.close()
    store.close()
    for use in (
        store.flush,
        lambda: store.get(key_of(1)),
        lambda: store.put(key_of(1), relu_map(1)),
    ):
        with pytest.raises(TrtkitError, match="was closed"):
            use()


def test_forked_child_is_told_to_open_its_own(tmp_path):
    with FeatureStore(tmp_path) as store:
        store.put(key_of(1), relu_map(1))
        store.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                store.get(key_of(1))
            except TrtkitError as error:
                status = 0 if "opened by another process" in str(error) else 2
            store.close()
            os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert same(store.get(key_of(1)), relu_map(1))


def _drop_page_cache(folder) -> None:
    for path in folder.glob("*.seg"):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="no way to empty the page cache")
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_cold_and_warm_reads_give_the_same(tmp_path, codec):
    # Odd sizes, so that entries begin and end anywhere in a page and the last one at the file's end.
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-5, 5, size).astype(np.float16) for size in (1, 777, 4096, 100_001, 33)]
    keys = [bytes([number]) * 32 for number in range(len(arrays))]
    with FeatureStore(tmp_path, codec=codec) as store:
        for key, array in zip(keys, arrays, strict=True):
            store.put(key, array)
    for drop in (True, False, True):
        if drop:
            _drop_page_cache(tmp_path)
        with FeatureStore(tmp_path, mode="read") as store:
            for key, array in zip(keys, arrays, strict=True):
                np.testing.assert_array_equal(store.get(key), array)
