"""Items in, rows out: hits, misses, failures and duplicates, whatever is wanted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small import BUNDLE, FILES, PIXELS
from tests.stage_runs import rows_by_stage
from trtkit.bundle import read_manifest
from trtkit.errors import ImageError, TrtkitError
from trtkit.identity import bytes_digest
from trtkit.photos.images import load_image
from trtkit.runtime.classifier import Classifier, Item
from trtkit.runtime.loading import load_runner
from trtkit.runtime.runner import HostRunner
from trtkit.stages import OutputRef, StageInput, StageOutput

MANIFEST = read_manifest(BUNDLE)
ONE, OTHER = (tail.ref("logits") for tail in MANIFEST.tails)
MAPS = MANIFEST.cut_of(MANIFEST.tails[0])
EMBEDDING = MANIFEST.embedding_of(MANIFEST.tails[1])
IMAGES = np.stack([load_image(content, MANIFEST.preprocessing) for content in FILES])
BROKEN = b"no picture"


class MemoryStore:
    """Feature maps in a dict, and what was looked for and put there."""

    def __init__(self, *, writable: bool = True) -> None:
        self.writable = writable
        self.maps = {}
        self.looked_for = []
        self.put_keys = []

    def key(self, data):
        return bytes_digest(data)

    def get(self, key, into=None):
        self.looked_for.append(key)
        return self.maps.get(key)

    def put(self, key, feature):
        self.put_keys.append(key)
        self.maps[key] = np.array(feature)


@pytest.fixture(scope="module")
def runner():
    return load_runner(BUNDLE, MANIFEST, MANIFEST.tails)


@pytest.fixture(scope="module")
def expected(runner):
    return runner.run([ONE, OTHER, MAPS, EMBEDDING], IMAGES)


@pytest.fixture
def rows_run(monkeypatch):
    return rows_by_stage(monkeypatch)


def file_item(number: int) -> Item:
    content = BROKEN if number < 0 else FILES[number]
    return Item(str(number), partial(bytes, content))


def key_of(number: int):
    return bytes_digest(FILES[number])


def filled(expected, numbers, **options) -> MemoryStore:
    store = MemoryStore(**options)
    store.maps = {key_of(number): expected[MAPS][number] for number in numbers}
    return store


def classifier(runner, wanted, store=None) -> Classifier:
    return Classifier(runner, MANIFEST.preprocessing, wanted, store=store, guarded=MAPS)


def run(one: Classifier, numbers):
    return one.run([one.prepare(file_item(number)) for number in numbers])


def assert_rows(finished, wanted, numbers, expected) -> None:
    good = [number for number in numbers if number >= 0]
    assert [item.error is None for item in finished.items] == [number >= 0 for number in numbers]
    assert set(finished.rows) == (set(wanted) if good else set())
    for ref, rows in finished.rows.items():
        np.testing.assert_allclose(rows, expected[ref][good], rtol=1e-4, atol=1e-6)


def test_any_batch_with_any_store_gives_each_item_its_rows(runner, expected):
    @given(
        numbers=st.lists(st.integers(-2, 9), max_size=12),
        stored=st.sets(st.integers(0, 9)),
        wanted=st.lists(
            st.sampled_from([ONE, OTHER, MAPS, EMBEDDING]), min_size=1, max_size=4, unique=True
        ),
        writable=st.booleans(),
    )
    @settings(max_examples=150, deadline=None)
    def check(numbers, stored, wanted, writable):
        store = filled(expected, stored, writable=writable)
        with pytest.MonkeyPatch.context() as patch:
            rows = rows_by_stage(patch)
            one = classifier(runner, wanted, store)
            assert_rows(run(one, numbers), wanted, numbers, expected)
        good = [number for number in numbers if number >= 0]
        misses = [number for number in good if number not in stored]
        distinct = list(dict.fromkeys(misses))
        assert rows.get("prefix", []) == ([len(distinct)] if distinct else [])
        assert store.put_keys == ([key_of(number) for number in distinct] if writable else [])
        for key, feature in store.maps.items():
            number = next(n for n in range(10) if key_of(n) == key)
            np.testing.assert_allclose(feature, expected[MAPS][number], rtol=1e-4, atol=1e-6)
        stats = one.stats
        assert (stats.images, stats.failed) == (len(numbers), len(numbers) - len(good))
        assert (stats.hits, stats.misses) == (len(good) - len(misses), len(misses))

    check()


def test_hits_are_neither_decoded_nor_run_through_the_prefix(
    runner, expected, rows_run, monkeypatch
):
    from trtkit.runtime import classifier as module

    monkeypatch.setattr(module, "load_image", None)
    one = classifier(runner, [ONE, OTHER], filled(expected, range(3)))
    assert_rows(run(one, [2, 0, 1, 0]), [ONE, OTHER], [2, 0, 1, 0], expected)
    assert "prefix" not in rows_run
    assert rows_run["resnet18"] == rows_run["resnet34"] == [4]


def test_nothing_runs_where_all_that_is_wanted_is_known(runner, expected, rows_run):
    one = classifier(runner, [MAPS], filled(expected, range(5)))
    assert_rows(run(one, [4, 1, -1, 1]), [MAPS], [4, 1, -1, 1], expected)
    assert rows_run == {}
    assert_rows(run(one, [7, 4, 7]), [MAPS], [7, 4, 7], expected)
    assert rows_run == {"prefix": [1]}


def test_a_store_that_is_only_read_is_read_and_not_written(runner, expected):
    store = filled(expected, [1], writable=False)
    one = classifier(runner, [ONE], store)
    assert_rows(run(one, [0, 1, 2]), [ONE], [0, 1, 2], expected)
    assert store.looked_for == [key_of(number) for number in range(3)]
    assert store.put_keys == []
    assert (one.stats.hits, one.stats.misses) == (1, 2)


def test_an_item_s_own_key_is_used_and_its_bytes_are_read_only_on_a_miss(runner, expected):
    read = []

    def reading(number):
        read.append(number)
        return FILES[number]

    store = MemoryStore()
    items = [Item("", partial(reading, number), key=("footage", number)) for number in range(2)]
    one = classifier(runner, [ONE], store)
    for hits in (0, 2):
        finished = one.run([one.prepare(item) for item in items])
        assert_rows(finished, [ONE], [0, 1], expected)
        assert one.stats.hits == hits
    assert read == [0, 1]
    assert list(store.maps) == [("footage", 0), ("footage", 1)]


def test_pixels_and_prepared_images_have_no_key_unless_they_are_given_one(
    runner, expected, rows_run
):
    store = MemoryStore()
    one = classifier(runner, [ONE], store)
    items = [Item("", pixels=PIXELS[0]), Item("", image=IMAGES[1]), Item("", pixels=PIXELS[0])]
    assert_rows(one.run([one.prepare(item) for item in items]), [ONE], [0, 1, 0], expected)
    assert rows_run["prefix"] == [3]
    assert not store.maps
    keyed = [Item("", pixels=PIXELS[0], key="a"), Item("", image=IMAGES[1], key="b")]
    for _ in range(2):
        assert_rows(one.run([one.prepare(item) for item in keyed]), [ONE], [0, 1], expected)
    assert rows_run["prefix"] == [3, 2]
    assert store.put_keys == ["a", "b"]


def test_a_key_is_never_taken_for_a_place(runner, expected):
    one = classifier(runner, [ONE])
    items = [Item("", image=IMAGES[0]), Item("", image=IMAGES[1], key=0), Item("", image=IMAGES[2])]
    assert_rows(one.run([one.prepare(item) for item in items]), [ONE], range(3), expected)


def test_without_a_guarded_edge_there_is_no_store(runner, expected):
    store = filled(expected, range(10))
    one = Classifier(runner, MANIFEST.preprocessing, [ONE], store=store, guarded=None)
    assert_rows(run(one, [3, 4]), [ONE], [3, 4], expected)
    assert one.store is None
    assert store.looked_for == store.put_keys == []
    assert (one.stats.hits, one.stats.misses) == (0, 0)


def test_items_that_must_not_fail(runner):
    one = classifier(runner, [ONE])
    assert len(one.prepare_all(map(file_item, [1, 2]))) == 2
    with pytest.raises(ImageError, match="^-1: "):
        one.prepare_all(map(file_item, [1, -1]))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_stream_keeps_the_order_and_fills_the_store(runner, expected, batch):
    store = filled(expected, [2, 5])
    one = classifier(runner, [OTHER, MAPS], store)
    numbers = [0, 2, -1, 5, 2, 0, 9, -1, 7]
    finished = list(one.stream(map(file_item, numbers), batch=batch, workers=3))
    assert [len(part.items) for part in finished] == [
        min(batch, len(numbers) - start) for start in range(0, len(numbers), batch)
    ]
    for start, part in zip(range(0, len(numbers), batch), finished, strict=True):
        assert_rows(part, [OTHER, MAPS], numbers[start : start + batch], expected)
    assert set(store.maps) == {key_of(number) for number in (0, 2, 5, 7, 9)}
    assert one.stats.seconds > 0


def test_streams_and_batches_from_several_threads(runner, expected):
    store = MemoryStore()
    one = classifier(runner, [ONE, MAPS], store)
    start = threading.Barrier(6)

    def work(turn: int) -> None:
        numbers = [(turn * 3 + place) % 10 for place in range(7)]
        start.wait()
        for _ in range(5):
            if turn % 2:
                assert_rows(run(one, numbers), [ONE, MAPS], numbers, expected)
            else:
                (finished,) = one.stream(map(file_item, numbers), batch=7, workers=1)
                assert_rows(finished, [ONE, MAPS], numbers, expected)

    with ThreadPoolExecutor(6) as threads:
        for future in [threads.submit(work, turn) for turn in range(6)]:
            future.result()
    assert one.stats.images == 6 * 5 * 7
    for number in range(10):
        np.testing.assert_allclose(
            store.maps[key_of(number)], expected[MAPS][number], rtol=1e-4, atol=1e-6
        )


def test_what_stored_maps_do_not_give_is_refused(runner):
    stem = replace(
        MANIFEST.stages[0], name="stem", outputs=(StageOutput("stem", "float32", (None, 3)),)
    )
    twin = StageOutput("twin", "float32", (None, 3))
    prefix, *others = MANIFEST.stages
    prefix = replace(
        prefix, parent="stem", outputs=(*prefix.outputs, twin),
        inputs=(StageInput("x", "float32", (None, 3), "stem"),),
    )  # fmt: skip
    heads = [stage for stage in others if stage.role == "head"]
    both = replace(
        heads[0], name="both", parent="prefix",
        inputs=(
            StageInput("x", *astuple(prefix.outputs[0])[1:3], prefix.outputs[0].name),
            StageInput("y", "float32", (None, 3), "twin"),
        ),
    )  # fmt: skip
    tree = HostRunner([stem, prefix, *others, both], {})
    refused = {
        OutputRef("stem", "stem"): "Output stem:stem cannot be computed from stored maps of",
        OutputRef("prefix", "twin"): "Output prefix:twin cannot be computed from stored maps of",
        both.ref("logits"): "Stage both takes x ",
    }
    for ref, sentence in refused.items():
        with pytest.raises(TrtkitError, match=f"^{sentence}"):
            classifier(tree, [ONE, ref], MemoryStore())
        # Nothing of it is stored, so all of it is computed.
        assert classifier(tree, [ONE, ref]).wanted == (ONE, ref)
    assert classifier(tree, [ONE, MAPS, EMBEDDING], MemoryStore()).store is not None


WRONG_ENTRIES = {
    "of another size": lambda feature: feature[:, :3],
    "that numpy would repeat": lambda feature: feature[:1],
    "with a batch": lambda feature: feature[None],
    "quantized": lambda feature: feature.astype(np.int8),
}


@pytest.mark.parametrize("change", WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_entries_that_no_prefix_gave_are_computed_again(runner, expected, caplog, change):
    store = filled(expected, range(4))
    for number in (1, 2):
        store.maps[key_of(number)] = change(expected[MAPS][number])
    one = classifier(runner, [ONE], store)
    for hits in (2, 6):
        assert_rows(run(one, range(4)), [ONE], range(4), expected)
        assert one.stats.hits == hits
    assert store.put_keys == [key_of(1), key_of(2)]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"A stored map of {MAPS} is ")
