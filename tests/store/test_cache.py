"""The prefix cache finds a feature map only for what it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trtkit.preprocessing import Preprocessing
from trtkit.store.cache import CacheOptions, PrefixCache

PREFIX = "ab" * 32
PHOTO = b"the bytes of a photo"
FEATURE = np.arange(6, dtype=np.float16).reshape(2, 3)


def find(folder: Path, preprocessing: Preprocessing, prefix: str, photo: bytes) -> object:
    with PrefixCache.open(CacheOptions(folder=folder), preprocessing, prefix) as cache:
        return cache.get(cache.key(photo))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    with PrefixCache.open(CacheOptions(folder=tmp_path), Preprocessing(), PREFIX) as cache:
        cache.put(cache.key(PHOTO), FEATURE)
    return tmp_path


def test_the_same_photo_preprocessing_and_prefix_find_it(filled: Path) -> None:
    np.testing.assert_array_equal(find(filled, Preprocessing(), PREFIX, PHOTO), FEATURE)


@pytest.mark.parametrize(
    ("preprocessing", "prefix", "photo"),
    [
        (Preprocessing(resize=257), PREFIX, PHOTO),
        (Preprocessing(height=223), PREFIX, PHOTO),
        (Preprocessing(), "ac" * 32, PHOTO),
        (Preprocessing(), PREFIX, PHOTO + b"!"),
    ],
    ids=["resize", "crop", "prefix", "photo"],
)
def test_a_map_of_anything_else_is_not_found(
    filled: Path, preprocessing: Preprocessing, prefix: str, photo: bytes
) -> None:
    assert find(filled, preprocessing, prefix, photo) is None


def test_a_map_of_other_preprocessing_code_is_not_found(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtkit.preprocessing.REVISION", 2)
    assert find(filled, Preprocessing(), PREFIX, PHOTO) is None
