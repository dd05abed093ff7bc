"""The classifier on a simulated GPU: hits from the card, from a store and by computing, from any thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.simulated import install
from tests.engines.simulated.plans import backend_for
from tests.runtime.branched import EMBEDDING, EXIT, IMAGES, MAPS, WHOLE, A, load_tree
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.classifier import Classifier, Item
from trtkit.runtime.device.runner import DeviceRunner

MAP_BYTES = 4 * 8 * 8 * 4


class PinnedStore:
    """Feature maps by key, read into the memory that is offered."""

    writable = True

    def __init__(self) -> None:
        self.maps = {}

    def key(self, data):
        raise AssertionError("the items have keys")

    def get(self, key, into=None):
        found = self.maps.get(key)
        if found is None or into is None:
            return found
        rows = into.view(np.float32).reshape(found.shape)
        rows[...] = found
        return rows

    def put(self, key, feature):
        self.maps[key] = np.array(feature)


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("plans")


def item(number: int) -> Item:
    return Item(str(number), image=IMAGES[number], key=bytes([number]) * 32)


def classifier(plans, wanted, store, *, rows: int, profiles=((1, 4, 8),)):
    folder = plans / str(profiles[0][0])
    folder.mkdir(exist_ok=True)
    stages, engines = load_tree(backend_for("10.3.0"), folder, profiles=profiles)
    runner = DeviceRunner(stages, engines, guarded=MAPS, gpu_cache=rows * MAP_BYTES)
    return Classifier(runner, Preprocessing(), wanted, store=store, guarded=MAPS)


def assert_rows(finished, wanted, numbers) -> None:
    assert set(finished.rows) == set(wanted)
    for ref in wanted:
        np.testing.assert_allclose(
            finished.rows[ref], WHOLE[ref][list(numbers)], rtol=1e-4, atol=1e-5
        )


def assert_kept(store, numbers) -> None:
    assert set(store.maps) == {item(number).key for number in numbers}
    for number in numbers:
        np.testing.assert_allclose(
            store.maps[item(number).key], WHOLE[MAPS][number], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("least", [1, 3])
@given(
    several=st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=8), min_size=1, max_size=6),
    wanted=st.lists(st.sampled_from([A, EXIT, EMBEDDING, MAPS]), min_size=1, unique=True),
    rows=st.sampled_from([0, 2, 30]),
    stream=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=15, deadline=None)
def test_any_batches_give_each_item_its_rows(plans, least, several, wanted, rows, stream, seed):
    with pytest.MonkeyPatch.context() as patch:
        simulation = install(patch, seed=seed, busy=0.3)
        store = PinnedStore()
        one = classifier(plans, wanted, store, rows=rows, profiles=((least, 4, 8),))
        numbers = [number for batch in several for number in batch]
        if stream:
            several = [numbers[start : start + 5] for start in range(0, len(numbers), 5)]
            batches = one.stream(map(item, numbers), batch=5, workers=2)
        else:
            batches = (one.run([one.prepare(item(n)) for n in batch]) for batch in several)
        for finished, batch in zip(batches, several, strict=True):
            assert_rows(finished, wanted, batch)
        assert_kept(store, set(numbers))
        assert one.stats.hits + one.stats.misses == len(numbers)
        if MAPS in wanted:
            assert one.stats.gpu_hits == 0, "what stays on the card cannot be handed out"
        elif rows == 30:
            assert one.stats.gpu_hits == one.stats.hits
        one.runner.close()
        # Rows of the finished batches are the caller's, not the device's.
        del one, finished, batches
        simulation.cuda.assert_clean()


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_and_streams_at_once(monkeypatch, plans, seed):
    simulation = install(monkeypatch, seed=seed, busy=0.3)
    store = PinnedStore()
    one = classifier(plans, [A, EXIT], store, rows=6)

    def work(one: Classifier, turn: int) -> None:
        numbers = [(turn * 5 + place) % 24 for place in range(8)]
        for _ in range(3):
            if turn % 2:
                assert_rows(one.run([one.prepare(item(n)) for n in numbers]), [A, EXIT], numbers)
                continue
            batches = one.stream(map(item, numbers), batch=3, workers=1)
            for start, finished in zip((0, 3, 6), batches, strict=True):
                assert_rows(finished, [A, EXIT], numbers[start : start + 3])

    with ThreadPoolExecutor(5) as threads:
        for future in [threads.submit(work, one, turn) for turn in range(5)]:
            future.result()
    assert_kept(store, {(turn * 5 + place) % 24 for turn in range(5) for place in range(8)})
    one.runner.close()
    del one
    simulation.cuda.assert_clean()
