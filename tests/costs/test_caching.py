"""Measuring what feature maps cost: that it does what it times, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.pictures import write_photos
from trtkit.atomic import SCRATCH_PREFIX
from trtkit.costs import caching as costing
from trtkit.costs import timed as timing
from trtkit.costs.caching import EngineCosts, engine_costs, entry_bytes, measure_costs
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import LoadedModel
from trtkit.serialization import from_plain, to_plain
from trtkit.stages import OutputRef
from trtkit.store import segment
from trtkit.store import store as feature_store
from trtkit.store.cache import CacheOptions, PrefixCache
from trtkit.store.costs import CacheCosts
from trtkit.store.maintenance import info

IMAGE = Preprocessing.for_image_size(32)
MAPS = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    return write_photos(tmp_path_factory.mktemp("photos"), count=3, size=(50, 40))


def store_costs(photos, features=MAPS, **options):
    return costing.store_costs(photos, list(features), IMAGE, CacheOptions(**options))


@pytest.fixture
def moved(monkeypatch):
    """What goes into a store and comes out of it, in order: `put` or `get`, the key, the map."""
    seen: list[tuple[str, bytes, np.ndarray | None]] = []
    lock = threading.Lock()
    put, get = PrefixCache.put, PrefixCache.get

    def note_put(self, key, feature):
        seen.append(("put", key, feature))
        put(self, key, feature)

    def note_get(self, key, into=None):
        found = get(self, key, into)
        with lock:
            seen.append(("get", key, found))
        return found

    monkeypatch.setattr(PrefixCache, "put", note_put)
    monkeypatch.setattr(PrefixCache, "get", note_get)
    return seen


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("form", ["none", "lz4", "zstd"])
def test_maps_are_written_and_read_in_their_format(photos, moved, own_cache, dtype, form):
    options = CacheOptions(dtype=dtype, codec=form)
    costs = store_costs(photos, np.zeros((2, 3, 50, 7), np.float32), dtype=dtype, codec=form)
    assert costs.bytes == entry_bytes(np.zeros((3, 50, 7), np.float32), options)
    assert min(costs.read, costs.write) > 0
    assert moved
    own = {"fp16": np.float16, "fp32": np.float32}[dtype]
    assert {found.dtype.type for what, _, found in moved if what == "get"} == {own}
    assert list(own_cache.iterdir()) == []


def test_every_photo_has_a_map_and_every_read_finds_it(photos, moved):
    # The last photo is the first one again: what it costs must not be what one map costs.
    store_costs([*photos, photos[0]])
    put = {key: feature for what, key, feature in moved if what == "put"}
    assert len(put) == 4
    for feature, expected in zip(put.values(), MAPS[[0, 1, 0, 1]], strict=True):
        np.testing.assert_array_equal(feature, expected)
    reads = [(key, found) for what, key, found in moved if what == "get"]
    tiers = 2 if hasattr(os, "posix_fadvise") else 1
    assert len(reads) == 4 * costing.PASSES * tiers
    for key, found in reads:
        np.testing.assert_array_equal(found, put[key].astype(np.float16))


def test_writing_is_timed_until_the_maps_are_on_the_disk(photos, monkeypatch):
    events = []
    sync, fill = segment.SegmentWriter.sync, costing._fill
    monkeypatch.setattr(
        segment.SegmentWriter, "sync", lambda self: (events.append("synced"), sync(self))
    )

    def timed(*arguments):
        seconds = fill(*arguments)
        events.append("timed")
        return seconds

    monkeypatch.setattr(costing, "_fill", timed)
    store_costs(photos)
    assert events.index("synced") < events.index("timed")


def test_more_maps_than_wait_to_be_written_at_once(photos, monkeypatch):
    flushed = []
    flush = feature_store.FeatureStore.flush
    monkeypatch.setattr(costing, "COMMIT_BYTES", 2 * MAPS[0].nbytes)
    monkeypatch.setattr(
        feature_store.FeatureStore, "flush", lambda self: (flushed.append(1), flush(self))
    )
    store_costs([*photos, *photos])
    assert len(flushed) == 4, "after each two maps, and at the end"


def test_the_disk_is_measured_with_the_memory_forgotten(photos, monkeypatch):
    forgotten = []
    forget = costing._forget

    def note(files):
        forgotten.append([path.name for path in files])
        assert all(path.is_file() for path in files)
        forget(files)

    monkeypatch.setattr(costing, "_forget", note)
    costs = store_costs(photos)
    if hasattr(os, "posix_fadvise"):
        assert costs.read_cold is not None
        assert forgotten == [["segment-00000001.seg"]] * costing.PASSES


def test_where_the_system_cannot_be_told_to_forget(photos, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert store_costs(photos).read_cold is None


def test_the_users_cache_is_as_it_was(photos, own_cache):
    options = CacheOptions(size=1 << 20)
    with PrefixCache.open(options, IMAGE, "0" * 64) as cache:
        cache.put(cache.key(b"a photo"), MAPS[0])
    before = {path.name: path.read_bytes() for path in own_cache.iterdir()}
    # Also while another process holds it, and with more bytes than it may take.
    with PrefixCache.open(options, IMAGE, "0" * 64):
        store_costs(photos, np.zeros((1, 3, 300, 300), np.float32), size=10 << 20)
    after = {path.name: path.read_bytes() for path in own_cache.iterdir()}
    segments = [name for name in before if name.endswith(".seg")]
    assert segments
    assert before.keys() == after.keys()
    assert all(before[name] == after[name] for name in segments)
    assert info(own_cache).entries == 1


def test_a_store_does_not_see_the_folder_beside_its_files(photos, own_cache, monkeypatch):
    seen = []
    fill = costing._fill

    def look(*arguments):
        (beside,) = own_cache.iterdir()
        with PrefixCache.open(CacheOptions(size=1), IMAGE, "0" * 64) as cache:
            seen.append((beside.name[:7], cache.store.writable))
        assert info(own_cache).entries == 0
        return fill(*arguments)

    monkeypatch.setattr(costing, "_fill", look)
    assert store_costs(photos).bytes == entry_bytes(MAPS[0], CacheOptions())
    assert seen == [(SCRATCH_PREFIX[:7], True)]


def test_what_killed_processes_left_is_swept_away(photos, own_cache):
    old, new = own_cache / f"{SCRATCH_PREFIX}old", own_cache / f"{SCRATCH_PREFIX}new"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "segment-00000001.seg").write_bytes(b"maps")
    os.utime(old, (0, 0))
    store_costs(photos)
    assert not old.exists()
    assert new.exists(), "another process may be measuring there"


def test_a_failure_leaves_no_folder(photos, own_cache, monkeypatch):
    def fail(*arguments):
        raise RuntimeError

    monkeypatch.setattr(costing, "_seconds", fail)
    with pytest.raises(RuntimeError):
        store_costs(photos)
    assert list(own_cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_written(photos, own_cache, monkeypatch, tmp_path):
    # A file in its place is refused to root too, as a read-only disk would be.
    own_cache.write_bytes(b"")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    costs = store_costs(photos)
    assert costs.bytes == entry_bytes(MAPS[0], CacheOptions())
    assert costs.read_cold is None, "that would be another disk's"
    assert list(elsewhere.iterdir()) == []
    shutil.rmtree(elsewhere)
    with pytest.raises(TrtkitError, match=r"^Neither .* can be written \(.*\); free space"):
        store_costs(photos)


def test_a_full_disk_is_said_and_not_taken_for_fast_reads(photos, own_cache, monkeypatch):
    def full(self, header, payload):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segment.SegmentWriter, "append", full)
    with pytest.raises(TrtkitError, match="took 0 of 3 feature maps to measure a cache with"):
        store_costs(photos)
    assert list(own_cache.iterdir()) == []


class Clock:
    """A chain whose engines take known times, by a clock that nothing else moves."""

    on_gpu = False
    logits, cut = OutputRef("head", "logits"), OutputRef("prefix", "maps")

    def __init__(self, prefix: float, tail: float, first: float = 0.0) -> None:
        self.now = 100.0
        self.asked: list[tuple[int, int]] = []
        self.reserved: list[tuple[int, int]] = []
        self._prefix, self._tail, self._late = prefix, tail, first

    def perf_counter(self) -> float:
        return self.now

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        self.reserved.append((images, read_ahead))

    def run(self, wanted, images):
        self.asked.append((len(images), 0))
        self.now += self._late
        self._late = 0.0
        return {self.cut: images[..., 0]}

    def submit(self, wanted, images, known):
        hits = known.get(self.cut, ())
        self.asked.append((len(images), len(hits)))
        taken = len(images) * self._prefix + (len(images) + len(hits)) * self._tail

        def result() -> dict:
            # A batch takes its time until it is done, not until it is begun.
            self.now += taken
            return {self.logits: np.zeros((len(images) + len(hits), 2), np.float32)}

        return SimpleNamespace(result=result)


def measured(monkeypatch, chain: Clock, count: int = 4) -> EngineCosts:
    monkeypatch.setattr(timing, "time", chain)
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    found = engine_costs(LoadedModel(chain, chain.logits, chain.cut), images)
    np.testing.assert_array_equal(found.features, images[..., 0])
    return found


def test_engines_are_timed_by_what_an_image_takes(monkeypatch):
    chain = Clock(prefix=0.25, tail=0.125, first=60.0)
    found = measured(monkeypatch, chain)
    assert (found.prefix, found.tail, found.overlaps) == (0.25, 0.125, False)
    assert chain.reserved == [(4, 4)]
    # Slow ones a few times only, and once before that does not count.
    assert chain.asked == [(4, 0), *[(4, 0), (0, 4)] * costing.FEWEST_ROUNDS]


def test_quick_engines_are_run_more_often(monkeypatch):
    chain = Clock(prefix=2.0**-16, tail=2.0**-17)
    found = measured(monkeypatch, chain)
    assert (found.prefix, found.tail) == pytest.approx((2.0**-16, 2.0**-17))
    assert len(chain.asked) == 1 + 2 * costing.MOST_ROUNDS


def test_a_prefix_quicker_than_the_clock_takes_nothing(monkeypatch):
    chain = Clock(prefix=-0.01, tail=0.125)
    assert measured(monkeypatch, chain).prefix == 0.0


def test_a_model_that_is_not_split_has_nothing_to_cache():
    chain = Clock(1.0, 1.0)
    with pytest.raises(ValueError, match="only a model that is split"):
        engine_costs(LoadedModel(chain, chain.logits), np.zeros((1, 2, 2, 3), np.uint8))


def test_the_costs_of_a_bundle(photos):
    one = EngineCosts(prefix=1.0, tail=2.0, features=MAPS, overlaps=True)
    tails = {
        "cat": one, "dog": replace(one, prefix=4.0, tail=3.0), "cow": replace(one, prefix=1.5),
    }  # fmt: skip
    costs = measure_costs(tails, ("here",), photos, IMAGE)
    assert (costs.machine, costs.batch, costs.overlaps) == (("here",), 2, True)
    assert (costs.prefix, costs.tails) == (1.5, {"cat": 2.0, "dog": 3.0, "cow": 2.0})
    assert set(costs.store) == {"fp16"}
    assert costs.store["fp16"].bytes == entry_bytes(MAPS[0], CacheOptions())
    assert costs.decode > 0
    assert from_plain(to_plain(costs), CacheCosts) == costs


def test_every_photo_is_decoded_in_every_pass(photos, monkeypatch):
    decoded = []
    monkeypatch.setattr(costing, "load_image", lambda data, how: decoded.append(data))
    costing.decode_seconds(photos, IMAGE)
    assert sorted(decoded) == sorted([path.read_bytes() for path in photos] * costing.PASSES)
