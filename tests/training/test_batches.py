"""The order of an epoch, and that training sees the very pixels that inference does."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import encoded, scaled
from trtkit.errors import TrtkitError
from trtkit.evaluation.folders import LabelledPhoto
from trtkit.identity import bytes_digest
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.models import bare_stages
from trtkit.runtime.pipeline import Pipeline
from trtkit.runtime.runner import HostRunner
from trtkit.tensors import TensorSpec
from trtkit.training.augment import PRESETS
from trtkit.training.batches import PhotoBatches, epoch_order, grouped, in_order

SIZE = Preprocessing(48, 40, 56)


def labelled(path: Path, label: int = 0) -> LabelledPhoto:
    return LabelledPhoto(path, label, bytes_digest(path.read_bytes()))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[LabelledPhoto]:
    """Photos that differ in size, format, colours and orientation."""
    folder = tmp_path_factory.mktemp("photos")
    turned = Image.Exif()
    turned[0x0112] = 6
    mirrored = Image.Exif()
    mirrored[0x0112] = 7
    grey = Image.fromarray(scaled("china", 70, 90)).convert("L")
    transparent = Image.fromarray(scaled("coffee", 80, 60)).convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize((80, 60)))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files = {
        "large.jpg": encoded(scaled("flower", 640, 427)),
        "turned.jpg": encoded(scaled("astronaut", 150, 90), exif=turned.tobytes()),
        "mirrored.png": encoded(scaled("rocket", 90, 61), "PNG", exif=mirrored.tobytes()),
        "progressive.jpeg": encoded(scaled("retina", 113, 113), progressive=True),
        "grey.jpg": encoded(grey),
        "cmyk.jpg": encoded(Image.fromarray(scaled("chelsea", 99, 77)).convert("CMYK")),
        "transparent.png": encoded(transparent, "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "palette.gif": encoded(Image.fromarray(scaled("motorcycle", 64, 64)), "GIF"),
        "lossy.webp": encoded(scaled("chelsea", 57, 201), "WEBP"),
        "small.bmp": encoded(scaled("coffee", 13, 9), "BMP"),
        "scan.tif": encoded(scaled("immunohistochemistry", 90, 100), "TIFF"),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [labelled(folder / name, number % 3) for number, name in enumerate(files)]


def all_inputs(source, order, epoch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    inputs, labels = zip(*source.batches(order, epoch), strict=True)
    return np.concatenate(inputs), np.concatenate(labels)


@given(st.integers(1, 400), st.integers(2, 70), st.integers(0, 2**70), st.integers(1, 99))
@settings(deadline=None)
def test_an_epoch_takes_every_photo_once_in_batches(count, batch, seed, epoch):
    order = epoch_order(count, batch, seed, epoch)
    sizes = [len(group) for group in order]
    assert sorted(index for group in order for index in group) == list(range(count))
    # One more only where a photo would be left over alone.
    assert max(sizes) <= batch + (batch == 2 and count % 2)
    assert min(sizes) >= min(2, count)
    assert max(sizes) - min(sizes) <= 1
    assert order == epoch_order(count, batch, seed, epoch)


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(1, 8, [1]), (2, 2, [2]), (3, 2, [3]), (5, 2, [3, 2]), (7, 2, [3, 2, 2]), (4, 3, [2, 2]),
     (9, 8, [5, 4]), (64, 32, [32, 32]), (65, 32, [22, 22, 21])],
)  # fmt: skip
def test_groups_are_of_nearly_one_size(count, batch, sizes):
    assert [len(group) for group in epoch_order(count, batch, 0, 1)] == sizes


def test_the_order_depends_on_seed_and_epoch_alone():
    flat = {
        (seed, epoch): [i for group in epoch_order(50, 8, seed, epoch) for i in group]
        for seed in range(4)
        for epoch in range(1, 4)
    }
    assert len({tuple(order) for order in flat.values()}) == len(flat)
    np.random.seed(3)
    assert epoch_order(50, 8, 0, 1) == epoch_order(50, 8, 0, 1)
    # The batch groups the photos and does not shuffle them.
    assert [i for group in epoch_order(50, 16, 2, 3) for i in group] == flat[2, 3]


@given(st.integers(1, 400), st.integers(1, 70))
@settings(deadline=None)
def test_in_order_takes_photos_as_they_come(count, batch):
    order = in_order(count, batch)
    assert [index for group in order for index in group] == list(range(count))
    assert max(map(len, order)) <= batch
    assert len(order) == -(-count // batch)


def test_training_sees_the_very_pixels_that_infer_gives_the_engine(photos):
    seen: list[np.ndarray] = []

    def run(feeds):
        seen.append(feeds["image"].copy())
        logits = np.zeros((len(feeds["image"]), 2), np.float32)
        return {"logits": SimpleNamespace(numpy=lambda: logits)}

    engine = SimpleNamespace(
        inputs=[TensorSpec("image", "uint8", (None, SIZE.height, SIZE.width, 3))],
        outputs=[TensorSpec("logits", "float32", (None, 2))],
        run=run,
    )
    manifest = SimpleNamespace(
        preprocessing=SIZE, batch=(1, 4, 8), weights={}, name="fake", cut_of=lambda tail: None
    )
    tail = replace(bare_stages([("head", engine)])[0], classes=("a", "b"))
    with Pipeline(manifest, [tail], HostRunner([tail], {tail.name: engine})) as pipeline:
        results = list(pipeline.infer([photo.path for photo in photos], batch=5, workers=2))
    assert [(result.path, result.error) for result in results] == [
        (str(photo.path), None) for photo in photos
    ]
    source = PhotoBatches(photos, SIZE, workers=2)
    inputs, labels = all_inputs(source, in_order(len(photos), 7))
    assert inputs.dtype == np.uint8
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(inputs, np.concatenate(seen))
    np.testing.assert_array_equal(labels, [photo.label for photo in photos])
    # Shuffled, in whatever epoch, a photo keeps its pixels and its label.
    order = epoch_order(len(photos), 5, 1, 3)
    shuffled, labels = all_inputs(source, order, epoch=3)
    flat = [index for group in order for index in group]
    np.testing.assert_array_equal(shuffled, inputs[flat])
    assert labels.tolist() == [photos[index].label for index in flat]
    assert len(source) == len(photos)


def test_views_change_with_the_epoch_and_the_seed_and_come_again(photos):
    def views(seed: int, epoch: int, workers: int = 2, batch: int = 4) -> bytes:
        source = PhotoBatches(
            photos, SIZE, augmentation=PRESETS["standard"], seed=seed, workers=workers
        )
        return all_inputs(source, in_order(len(photos), batch), epoch)[0].tobytes()

    seen = {(seed, epoch): views(seed, epoch) for seed in (0, 1) for epoch in (1, 2, 3)}
    assert len(set(seen.values())) == 6
    assert views(1, 2, workers=1, batch=12) == views(1, 2, workers=7, batch=1) == seen[1, 2]


def test_a_view_depends_on_the_bytes_and_not_on_the_name_or_its_place(photos, tmp_path):
    copy = tmp_path / "copy of it.jpg"
    shutil.copy(photos[0].path, copy)
    other = tmp_path / "other.jpg"
    # The same picture in other bytes.
    other.write_bytes(photos[0].path.read_bytes() + b"\0")
    how = {"augmentation": PRESETS["strong"], "seed": 5, "workers": 1}
    here = PhotoBatches(photos, SIZE, **how)
    there = PhotoBatches([labelled(other), labelled(copy)], SIZE, **how)
    np.testing.assert_array_equal(
        here.prepare(here.photos[0], 3), there.prepare(there.photos[1], 3)
    )
    assert not np.array_equal(there.prepare(there.photos[0], 3), there.prepare(there.photos[1], 3))


@pytest.mark.parametrize("preset", ["none", "light"])
@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_a_photo_lost_while_training_names_itself(photos, tmp_path, preset, damage):
    own = []
    for photo in photos[:6]:
        own.append(labelled(Path(shutil.copy(photo.path, tmp_path))))
    lost = own[3].path
    source = PhotoBatches(own, SIZE, augmentation=PRESETS[preset], workers=2)
    batches = source.batches([[0, 1], [2, 3], [4, 5]], 1)
    if damage == "gone":
        lost.unlink()
    else:
        lost.write_bytes(lost.read_bytes()[:200])
    next(batches)
    with pytest.raises(TrtkitError) as caught:
        next(batches)
    message = str(caught.value)
    assert message.startswith(f"{lost} could be read when the training began and cannot any more: ")
    assert ("There is no such file" in message) == (damage == "gone")


def test_photos_are_decoded_ahead_but_not_all_of_them():
    asked = []

    def prepare(index: int) -> np.ndarray:
        asked.append(index)
        return np.full(2, index)

    photos = [SimpleNamespace(label=index % 5) for index in range(100)]
    batches = grouped([range(n, n + 4) for n in range(0, 100, 4)], prepare, photos, 1)
    inputs, labels = next(batches)
    assert inputs.tolist() == [[n, n] for n in range(4)]
    assert labels.tolist() == [0, 1, 2, 3]
    batches.close()
    assert 4 <= len(asked) <= 16
    assert list(grouped([], prepare, photos, 1)) == []
