"""Outputs of frozen blocks: computed once, stored, and never used for other photos or blocks."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scripts.digits import write_digits
from tests.reports import recorded
from trtkit.evaluation.dataset import read_dataset
from trtkit.models import weights
from trtkit.preprocessing import Preprocessing
from trtkit.store.codec import as_stored
from trtkit.store.store import FeatureStore
from trtkit.training import features
from trtkit.training.augment import PRESETS
from trtkit.training.batches import PhotoBatches, epoch_order, in_order
from trtkit.training.features import FeatureBatches
from trtkit.training.network import TrainedNetwork

SIZE = Preprocessing(32, 32, 36)
PREFIX = "ab" * 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Fourteen photos to train on and four to validate on."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(root, size=64, classes=[3, 8], count=9)
    return read_dataset(root)


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    return TrainedNetwork(weights.random("resnet18", classes=2).model, 2, torch.device("cpu"))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Of five photos, so that fourteen are three groups."""
    monkeypatch.setattr(features, "GROUP", 5)


@pytest.fixture
def calls(network, monkeypatch) -> list[int]:
    """The number of images of each call of the front, but for the blank that tells the size of a map."""
    sizes: list[int] = []
    plain = TrainedNetwork.features

    def counted(self, images):
        if images.any():
            sizes.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(TrainedNetwork, "features", counted)
    return sizes


@pytest.fixture
def store(tmp_path):
    with FeatureStore(tmp_path / "store", mode="write") as opened:
        yield opened


def plain(dataset, **options) -> PhotoBatches:
    return PhotoBatches(dataset.train, SIZE, **{"workers": 2, **options})


def augmented(dataset, **options) -> PhotoBatches:
    return plain(dataset, **{"augmentation": PRESETS["standard"], "seed": 1, **options})


def fill(source: FeatureBatches) -> tuple[int, int]:
    filled = source.fill(source.missing())
    return filled.computed, filled.reused


def epoch(source, number: int = 1, batch: int = 4) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = zip(*source.batches(in_order(len(source), batch), number), strict=True)
    return np.concatenate(inputs), np.concatenate(labels)


def expected(network, photos: PhotoBatches, view: int) -> np.ndarray:
    """Said in another way: every group of five's own maps, rounded."""
    groups = [list(photos.photos[n : n + 5]) for n in (0, 5, 10)]
    if len(photos) == 14:
        groups = [list(photos.photos[a:b]) for a, b in ((0, 5), (5, 10), (10, 14))]
    images = [np.stack([photos.prepare(photo, view) for photo in group]) for group in groups]
    return np.concatenate([as_stored(network.features(part), "fp16") for part in images])


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype == np.float16 and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("views", [0, 3])
def test_epochs_read_what_was_computed_once(dataset, network, store, calls, views):
    photos = augmented(dataset) if views else plain(dataset)
    source = FeatureBatches(photos, network, store, PREFIX, views)
    with recorded() as reports:
        filled = source.fill(source.missing())
    maps = 14 * max(1, views)
    assert (filled.computed, filled.reused, source.maps) == (maps, 0, maps)
    shares = [share for _, share in reports.phases]
    assert shares == pytest.approx(np.arange(1, len(shares) + 1) / len(shares))
    assert calls == [5, 5, 4] * max(1, views)
    truth = [expected(network, photos, view) for view in range(max(1, views))]
    calls.clear()
    for number in range(1, 6):
        inputs, labels = epoch(source, number)
        assert same(inputs, truth[(number - 1) % max(1, views)])
        assert labels.tolist() == [photo.label for photo in photos.photos]
    order = epoch_order(14, 4, 0, 1)
    flat = [index for group in order for index in group]
    inputs, labels = zip(*source.batches(order, 1), strict=True)
    assert [len(part) for part in inputs] == [len(group) for group in order]
    assert same(np.concatenate(inputs), truth[0][flat])
    assert np.concatenate(labels).tolist() == [photos.photos[index].label for index in flat]
    assert fill(source) == (0, maps)
    assert calls == []
    if views:
        assert len({part.tobytes() for part in truth}) == 3
        # View n of the store is what photo batches give in epoch n.
        images, _ = epoch(photos, 2)
        assert np.allclose(network.features(images), truth[2], rtol=0.01, atol=0.01)


def test_the_next_training_finds_them(dataset, network, tmp_path, calls):
    for expected_ in [(28, 0), (0, 28)]:
        with FeatureStore(tmp_path / "store", mode="write") as store:
            source = FeatureBatches(augmented(dataset), network, store, PREFIX, 2)
            assert fill(source) == expected_
    # More views of the same seed: only those that are new.
    with FeatureStore(tmp_path / "store", mode="write") as store:
        source = FeatureBatches(augmented(dataset), network, store, PREFIX, 3)
        assert fill(source) == (14, 28)
    assert len(calls) == 9


def test_held_maps_give_the_same_batches_without_the_store(dataset, network, store, monkeypatch):
    source = FeatureBatches(augmented(dataset), network, store, PREFIX, 2)
    fill(source)
    order = epoch_order(14, 4, 3, 1)
    before = {number: list(source.batches(order, number)) for number in (1, 2, 3)}
    source.hold()
    monkeypatch.setattr(store, "get", lambda key: pytest.fail("the store was read"))
    for number, batches in before.items():
        held = list(source.batches(order, number))
        assert all(same(a, b) for (a, _), (b, _) in zip(held, batches, strict=True))
        assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(held, batches, strict=True))
        for inputs, labels in held:
            # What the caller gets is the caller's own.
            inputs[:] = 7
            labels[:] = 7


def test_what_is_lost_is_computed_again_to_the_same_bits(dataset, network, tmp_path, calls):
    folder = tmp_path / "store"
    with FeatureStore(folder, mode="write") as store:
        source = FeatureBatches(augmented(dataset), network, store, PREFIX, 2)
        fill(source)
        truth = [epoch(source, number)[0] for number in (1, 2)]
    connection = sqlite3.connect(folder / "index.sqlite")
    places = connection.execute(
        "SELECT key, offset, length FROM entries ORDER BY offset"
    ).fetchall()
    # The photos 2 of view 0 and 7 of view 1 are gone, and 12 of view 0 is damaged.
    connection.executemany(
        "DELETE FROM entries WHERE offset = ?", [(places[n][1],) for n in (2, 21)]
    )
    connection.commit()
    connection.close()
    (segment,) = folder.glob("*.seg")
    content = bytearray(segment.read_bytes())
    content[places[12][1] + places[12][2] - 9] ^= 1
    segment.write_bytes(content)
    calls.clear()
    with FeatureStore(folder, mode="write") as store:
        source = FeatureBatches(augmented(dataset), network, store, PREFIX, 2)
        assert same(epoch(source, 1)[0], truth[0])
        assert same(epoch(source, 2)[0], truth[1])
        assert (store.stats.damaged > 0, sorted(calls)) == (True, [4, 5, 5])
        # They are whole again.
        store.flush()
        assert same(epoch(source, 1)[0], truth[0])
        assert same(epoch(source, 2)[0], truth[1])
        assert len(calls) == 3


@pytest.mark.parametrize("wrong", [np.zeros((3, 8, 8)), np.zeros((64, 8, 8), np.int8)])
def test_maps_that_the_blocks_do_not_give_are_computed_again(
    dataset, network, store, calls, caplog, wrong
):
    source = FeatureBatches(plain(dataset), network, store, PREFIX)
    fill(source)
    truth, _ = epoch(source)
    for index in (2, 12):
        store.put(
            source._key(index, 0), wrong.astype(np.float32) if wrong.dtype == float else wrong
        )
    store.flush()
    calls.clear()
    for _ in range(2):
        assert same(epoch(source)[0], truth)
        store.flush()
    assert sorted(calls) == [4, 5]
    (record,) = caplog.records
    assert record.getMessage().startswith("A stored map is ")


def test_filling_goes_on_where_another_stopped(dataset, network, tmp_path, calls):
    with FeatureStore(tmp_path / "whole", mode="write") as store:
        source = FeatureBatches(plain(dataset), network, store, PREFIX)
        fill(source)
        truth, _ = epoch(source)
        keys = [source._key(index, 0) for index in range(14)]
        parts = {key: store.get(key) for key in keys}
    with FeatureStore(tmp_path / "part", mode="write") as store:
        for key in keys[:7]:
            store.put(key, parts[key])
        store.flush()
        source = FeatureBatches(plain(dataset), network, store, PREFIX)
        calls.clear()
        assert fill(source) == (9, 5)
        assert calls == [5, 4]
        assert same(epoch(source)[0], truth)


def test_nobody_else_s_maps_are_found(dataset, store):
    blank = SimpleNamespace(features=lambda images: images[:, :4, :4].astype(np.float32))

    def computed(photos, prefix=PREFIX, views=0) -> int:
        return fill(FeatureBatches(photos, blank, store, prefix, views))[0]

    assert computed(plain(dataset)) == 14
    assert computed(plain(dataset, seed=9, workers=1)) == 0
    assert computed(plain(dataset), prefix="ac" * 32) == 14
    assert computed(PhotoBatches(dataset.val, SIZE, workers=1)) == 4
    wider = PhotoBatches(dataset.train, Preprocessing(32, 36, 36), workers=1)
    assert computed(wider) == 14
    assert computed(augmented(dataset), views=2) == 28
    assert computed(augmented(dataset), views=2) == 0
    assert computed(augmented(dataset, seed=2), views=2) == 28
    gentle = replace(PRESETS["standard"], area=0.36)
    assert computed(augmented(dataset, augmentation=gentle), views=1) == 14
    assert computed(plain(dataset)) == 0


def test_threads_that_miss_the_same_group_compute_it_once(dataset, network, store, calls):
    source = FeatureBatches(plain(dataset, workers=4), network, store, PREFIX)
    inputs, _ = epoch(source, batch=14)
    assert same(inputs, expected(network, plain(dataset), 0))
    assert sorted(calls[:3]) == [4, 5, 5]
    assert len(calls) == 6  # Three of them are `expected`'s.
