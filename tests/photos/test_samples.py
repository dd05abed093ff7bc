"""The images that models are compared on."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.pictures import write_photos
from trtkit.photos.samples import GENERATED, choose_samples, generate_images
from trtkit.preprocessing import Preprocessing

IMAGE = Preprocessing.for_image_size(64)


def test_generated_images_are_like_photos_and_the_same_every_time():
    images = generate_images(3, IMAGE)
    assert (images.shape, images.dtype) == ((3, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(images, generate_images(3, IMAGE))
    assert not np.array_equal(images[0], images[1])
    assert images.std() > 40
    # Neighbouring pixels of a photo are alike; those of white noise are not.
    values = images.astype(float)
    correlation = np.corrcoef(values[:, :, :-1].ravel(), values[:, :, 1:].ravel())[0, 1]
    assert correlation > 0.6


def test_without_photos_images_are_generated(tmp_path):
    samples = choose_samples(tmp_path / "calibration", 4).load(IMAGE)
    assert (samples.source, len(samples.images), samples.files) == (GENERATED, 4, ())
    assert samples.describe() == "4 generated images"
    # Where files are wanted, they are written: larger, as photos are.
    paths = samples.photos(tmp_path)
    assert len({path.read_bytes() for path in paths}) == 4
    for path, image in zip(paths, samples.images, strict=True):
        photo = Image.open(path)
        assert (photo.format, photo.size) == ("JPEG", (128, 128))
        again = np.asarray(photo.resize((64, 64))).astype(float)
        assert abs(again - image).mean() < 20


def test_photos_are_taken_from_all_over_the_folder(tmp_path):
    paths = write_photos(tmp_path, count=10, size=(90, 70))
    chosen = choose_samples(tmp_path, 5)
    assert [path.name for path in chosen.files] == [path.name for path in paths[::2]]
    samples = chosen.load(IMAGE)
    assert samples.source == str(tmp_path)
    assert samples.images.shape == (5, 64, 64, 3)
    assert samples.photos(tmp_path / "unused") == samples.files == chosen.files
    few = samples.some(2)
    assert (few.source, few.files) == (samples.source, (paths[0], paths[4]))
    np.testing.assert_array_equal(few.images, samples.images[[0, 2]])
    every = samples.some(99)
    assert every.files == samples.files
    np.testing.assert_array_equal(every.images, samples.images)
    assert len(choose_samples(tmp_path, 99).files) == 10


def test_damaged_photos_are_left_out(tmp_path):
    written = write_photos(tmp_path, count=2, size=(90, 70))
    (tmp_path / "zz.jpg").write_bytes(b"no photo")
    samples = choose_samples(tmp_path, 3).load(IMAGE)
    assert (len(samples.images), [path.name for path in samples.files]) == (
        2,
        [path.name for path in written],
    )


def test_the_digest_changes_with_the_photos(tmp_path):
    write_photos(tmp_path, count=2, size=(90, 70))
    before = choose_samples(tmp_path, 2).digest
    assert choose_samples(tmp_path, 2).digest == before
    assert choose_samples(tmp_path, 1).digest != before
    (tmp_path / "0.jpg").write_bytes(b"one more")
    assert choose_samples(tmp_path, 3).digest != before
