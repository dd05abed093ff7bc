"""Training from the feature store: room for all maps, refusals, and the reported gain."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from scripts.digits import write_digits
from tests.reports import recorded
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import read_dataset
from trtkit.models import weights
from trtkit.preprocessing import Preprocessing
from trtkit.store import writer as writer_module
from trtkit.training import features
from trtkit.training.augment import PRESETS
from trtkit.training.batches import PhotoBatches, in_order
from trtkit.training.features import describe_rates, store_features
from trtkit.training.network import TrainedNetwork

SIZE = Preprocessing(32, 32, 36)
# A map of resnet18 behind block 2 at that size, in fp16.
MAP = 64 * 8 * 8 * 2
HOLDER = """
import sys
from pathlib import Path
from trtkit.store.store import FeatureStore
with FeatureStore(Path(sys.argv[1]), mode="write"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Fourteen photos to train on and four to validate on."""
    root = tmp_path_factory.mktemp("digits")
    write_digits(root, size=64, classes=[3, 8], count=9)
    return read_dataset(root)


def frozen(seed: int) -> TrainedNetwork:
    return TrainedNetwork(weights.random("resnet18", seed, classes=2).model, 2, torch.device("cpu"))


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    return frozen(0)


@pytest.fixture(scope="module")
def other() -> TrainedNetwork:
    return frozen(7)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(features, "GROUP", 5)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The number of images of each call of the front."""
    sizes: list[int] = []
    plain = TrainedNetwork.features

    def counted(self, images):
        sizes.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(TrainedNetwork, "features", counted)
    return sizes


def read(source, epoch: int = 1) -> None:
    for _ in source.batches(in_order(len(source), 4), epoch):
        pass


@contextmanager
def stored_in(folder: Path, network, dataset, *, views: int = 0, size: int = 2**30):
    how = PRESETS["standard"] if views else None
    photos = PhotoBatches(dataset.train, SIZE, augmentation=how, seed=1, workers=2)
    val = PhotoBatches(dataset.val, SIZE, workers=1)
    with store_features(network, photos, val, views=views, folder=folder, size=size) as maps:
        yield maps


def test_both_parts_are_stored_and_reported(dataset, network, tmp_path, calls):
    with recorded() as reports, stored_in(tmp_path / "a", network, dataset, views=2) as maps:
        assert (maps.filled.computed, maps.filled.reused) == (32, 0)
        assert maps.bytes == 32 * MAP
        assert (maps.train.views, maps.val.views) == (2, 0)
        calls.clear()
        read(maps.train), read(maps.val)
        assert calls == []
        json = maps.describe(rate=100.0)
        assert (json["maps"], json["computed"], json["found"]) == (32, 32, 0)
        through = 1 / (1 / 100 + maps.through)
        assert json["images_per_second_through_frozen_blocks"] == through
        assert 0 < through < 100
    assert reports.messages[0].startswith(
        f"The outputs of the frozen blocks are in {tmp_path / 'a'} (256.0 KiB)"
    )
    assert "32 computed in " in reports.messages[0]
    with stored_in(tmp_path / "a", network, dataset, views=2) as maps:
        assert (maps.filled.computed, maps.filled.reused) == (0, 32)


def test_what_the_front_takes_is_measured_with_few_photos_too(
    dataset, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(features, "GROUP", 32)
    with stored_in(tmp_path, network, dataset) as maps:
        assert maps.through > 0


def test_other_frozen_blocks_have_maps_of_their_own(dataset, network, other, tmp_path):
    for net, computed in ((network, 18), (other, 18), (network, 0)):
        with stored_in(tmp_path, net, dataset) as maps:
            assert maps.filled.computed == computed


def test_a_store_too_small_is_refused_before_anything_is_computed(
    dataset, network, tmp_path, calls
):
    # 32 maps of 8 KiB take three quarters of 349,526 bytes.
    with pytest.raises(TrtkitError) as caught, stored_in(
        tmp_path, network, dataset, views=2, size=349_525
    ):  # fmt: skip
        pass
    assert str(caught.value) == (
        "The frozen blocks' outputs take 256.0 KiB (8,192 bytes for a view of a photo), but the "
        "feature store is limited to 341.3 KiB; give --cache-size 1G, fewer views with --augment, or "
        "--no-feature-store."
    )
    assert calls == [1, 1]
    with stored_in(tmp_path, network, dataset, views=2, size=349_526) as maps:
        assert maps.filled.computed == 32
        assert maps.train.store.stats.evicted == 0


def test_what_was_found_is_there_in_the_epochs(
    dataset, network, other, tmp_path, calls, monkeypatch
):
    monkeypatch.setattr(features, "HELD_BYTES", 0)
    for net in (network, other, network):
        # The maps of one and most of the other's fit.
        with stored_in(tmp_path, net, dataset, views=2, size=500_000) as maps:
            calls.clear()
            for epoch in (1, 2):
                read(maps.train, epoch), read(maps.val, epoch)
            assert calls == []


def free_space(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))


def test_a_disk_too_small_is_refused_before_anything_is_computed(
    dataset, network, tmp_path, calls, monkeypatch
):
    free_space(monkeypatch, 100_000)
    with pytest.raises(TrtkitError) as caught, stored_in(tmp_path, network, dataset):
        pass
    assert str(caught.value) == (
        f"The frozen blocks' outputs take 144.0 KiB, but the disk of {tmp_path} has 97.7 KiB free; "
        "give a --cache-dir elsewhere, or --no-feature-store."
    )
    assert calls == [1, 1]


def test_maps_that_are_there_need_no_room(dataset, network, tmp_path, monkeypatch):
    with stored_in(tmp_path, network, dataset):
        pass
    free_space(monkeypatch, 100_000)
    with stored_in(tmp_path, network, dataset) as maps:
        assert maps.filled.reused == 18


def test_a_store_in_use_by_another_process_is_refused(dataset, network, tmp_path, calls):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrtkitError) as caught, stored_in(tmp_path, network, dataset):
            pass
    finally:
        holder.communicate("")
    assert str(caught.value) == (
        f"The feature store in {tmp_path} is being written to by another process or store object; "
        "wait for it to end; for a training give another --cache-dir, or --no-feature-store."
    )
    assert calls == []
    with stored_in(tmp_path, network, dataset) as maps:
        assert maps.filled.computed == 18


@pytest.fixture
def full_disk(monkeypatch):
    def full(self, key, value):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer_module.Appender, "append", full)


def stored_on_a_full_disk(network, dataset, folder) -> str:
    with pytest.raises(TrtkitError) as caught, stored_in(folder, network, dataset):
        pass
    return str(caught.value)


def test_a_disk_that_fills_up_ends_the_training(dataset, network, tmp_path, full_disk):
    message = stored_on_a_full_disk(network, dataset, tmp_path)
    assert message.startswith(f"The feature store in {tmp_path} takes no more entries: ")
    assert "No space left on device" in message


def test_a_disk_that_fills_up_ends_the_training_with_advice(dataset, network, tmp_path, full_disk):
    message = stored_on_a_full_disk(network, dataset, tmp_path)
    assert "goes on without it" not in message
    assert "--no-feature-store" in message


def test_the_sentence_of_what_the_store_brings():
    sentence = describe_rates(
        {"images_per_second": 120.0, "images_per_second_through_frozen_blocks": 48.0}
    )
    assert "120 images/s from the feature store" in sentence
    assert "about 48 images/s (2.5 times)" in sentence
