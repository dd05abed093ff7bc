"""The images that models are compared on."""

from __future__ import annotations

import numpy as np

from tests.photos import write_photos
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.samples import GENERATED, choose_samples, generate_images

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
    assert (samples.source, len(samples.images)) == (GENERATED, 4)
    assert samples.describe() == "4 generated images"


def test_photos_are_taken_from_all_over_the_folder(tmp_path):
    paths = write_photos(tmp_path, count=10, size=(90, 70))
    chosen = choose_samples(tmp_path, 5)
    assert [path.name for path in chosen.files] == [path.name for path in paths[::2]]
    samples = chosen.load(IMAGE)
    assert samples.source == str(tmp_path)
    assert samples.images.shape == (5, 64, 64, 3)
    assert len(choose_samples(tmp_path, 99).files) == 10


def test_damaged_photos_are_left_out(tmp_path):
    write_photos(tmp_path, count=2, size=(90, 70))
    (tmp_path / "zz.jpg").write_bytes(b"no photo")
    assert len(choose_samples(tmp_path, 3).load(IMAGE).images) == 2


def test_the_digest_changes_with_the_photos(tmp_path):
    write_photos(tmp_path, count=2, size=(90, 70))
    before = choose_samples(tmp_path, 2).digest
    assert choose_samples(tmp_path, 2).digest == before
    assert choose_samples(tmp_path, 1).digest != before
    (tmp_path / "0.jpg").write_bytes(b"one more")
    assert choose_samples(tmp_path, 3).digest != before
