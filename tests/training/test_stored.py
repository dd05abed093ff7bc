"""Training from the feature store: room for all maps, what is refused, and what it is said to bring."""

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
from trtkit.errors import TrtkitError
from trtkit.evaluation.dataset import read_dataset
from trtkit.models import weights
from trtkit.preprocessing import Preprocessing
from trtkit.store import writer as writer_module
from trtkit.training import features, stored
from trtkit.training.augment import PRESETS
from trtkit.training.batches import PhotoBatches, in_order
from trtkit.training.network import Network
from trtkit.training.stored import describe_rates, store_features

SIZE = Preprocessing(32, 32, 36)
# A map of resnet18 behind block 2 at that size, in fp16.
MAP = 64 * 8 * 8 * 2
HOLDER = """
import sys
from pathlib import Path
from trtkit.store import FeatureStore
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


def frozen(seed: int) -> Network:
    return Network(weights.random("resnet18", seed, classes=2).model, 2, torch.device("cpu"))


@pytest.fixture(scope="module")
def network() -> Network:
    return frozen(0)


@pytest.fixture(scope="module")
def other() -> Network:
    return frozen(7)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(features, "GROUP", 5)
    monkeypatch.setattr(stored, "GROUP", 5)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The number of images of each call of the front."""
    calls: list[int] = []
    plain = Network.features

    def counted(self, images):
        calls.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(Network, "features", counted)
    return calls


def read(source, epoch: int = 1) -> None:
    for _ in source.batches(in_order(len(source), 4), epoch):
        pass


@contextmanager
def stored_in(folder: Path, network, dataset, *, views: int = 0, size: int = 2**30, told=None):
    how = PRESETS["standard"] if views else None
    photos = PhotoBatches(dataset.train, SIZE, augmentation=how, seed=1, workers=2)
    val = PhotoBatches(dataset.val, SIZE, workers=1)
    with store_features(
        network, photos, val, views=views, folder=folder, size=size,
        progress=(told if told is not None else []).append, advance=lambda phase, share: None,
    ) as found:  # fmt: skip
        yield found


def test_both_parts_are_stored_and_said(dataset, network, tmp_path, asked):
    told: list[str] = []
    with stored_in(tmp_path / "a", network, dataset, views=2, told=told) as found:
        assert (found.filled.computed, found.filled.found) == (32, 0)
        assert found.bytes == 32 * MAP
        assert (found.train.views, found.val.views) == (2, 0)
        asked.clear()
        read(found.train), read(found.val)
        assert asked == []
        json = found.to_json(rate=100.0)
        assert (json["maps"], json["computed"], json["found"]) == (32, 32, 0)
        through = 1 / (1 / 100 + found.through)
        assert json["images_per_second_through_frozen_blocks"] == through
        assert 0 < through < 100
    assert told[0].startswith(
        f"The outputs of the frozen blocks are in {tmp_path / 'a'} (256.0 KiB)"
    )
    assert "32 computed in " in told[0]
    with stored_in(tmp_path / "a", network, dataset, views=2) as found:
        assert (found.filled.computed, found.filled.found) == (0, 32)


def test_what_the_front_takes_is_measured_with_few_photos_too(
    dataset, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(stored, "GROUP", 32)
    with stored_in(tmp_path, network, dataset) as found:
        assert found.through > 0


def test_other_frozen_blocks_have_maps_of_their_own(dataset, network, other, tmp_path):
    for net, computed in ((network, 18), (other, 18), (network, 0)):
        with stored_in(tmp_path, net, dataset) as found:
            assert found.filled.computed == computed


def test_a_store_too_small_is_refused_before_anything_is_computed(
    dataset, network, tmp_path, asked
):
    # 32 maps of 8 KiB take three quarters of 349,526 bytes.
    with pytest.raises(TrtkitError) as caught, stored_in(
        tmp_path, network, dataset, views=2, size=349_525
    ):  # fmt: skip
        pass
    assert str(caught.value) == (
        "The frozen blocks' outputs take 256.0 KiB (8,192 bytes for a view of a photo), but the "
        "feature store is to hold 341.3 KiB; give --cache-size 1G, fewer views with --augment, or "
        "--no-feature-store."
    )
    assert asked == [1, 1]
    with stored_in(tmp_path, network, dataset, views=2, size=349_526) as found:
        assert found.filled.computed == 32
        assert found.train.store.stats.evicted == 0


def test_what_was_found_is_there_in_the_epochs(
    dataset, network, other, tmp_path, asked, monkeypatch
):
    monkeypatch.setattr(stored, "HELD_BYTES", 0)
    for net in (network, other, network):
        # The maps of one and most of the other's fit.
        with stored_in(tmp_path, net, dataset, views=2, size=500_000) as found:
            asked.clear()
            for epoch in (1, 2):
                read(found.train, epoch), read(found.val, epoch)
            assert asked == []


def free_space(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))


def test_a_disk_too_small_is_refused_before_anything_is_computed(
    dataset, network, tmp_path, asked, monkeypatch
):
    free_space(monkeypatch, 100_000)
    with pytest.raises(TrtkitError) as caught, stored_in(tmp_path, network, dataset):
        pass
    assert str(caught.value) == (
        f"The frozen blocks' outputs take 144.0 KiB, but the disk of {tmp_path} has 97.7 KiB free; "
        "give a --cache-dir elsewhere, or --no-feature-store."
    )
    assert asked == [1, 1]


def test_maps_that_are_there_need_no_room(dataset, network, tmp_path, monkeypatch):
    with stored_in(tmp_path, network, dataset):
        pass
    free_space(monkeypatch, 100_000)
    with stored_in(tmp_path, network, dataset) as found:
        assert found.filled.found == 18


def test_a_store_in_use_by_another_process_is_refused(dataset, network, tmp_path, asked):
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
    assert asked == []
    with stored_in(tmp_path, network, dataset) as found:
        assert found.filled.computed == 18


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
