"""Ids: each part of the content changes them, and nothing else does. Bundles and caches hold them."""

from __future__ import annotations

import pytest

from trtkit.identity import bytes_digest, derived_seed, feature_key, file_digest, stage_id
from trtkit.preprocessing import Preprocessing

PHOTO = bytes_digest(b"photo")
PREPARED, PREFIX = "12" * 32, "34" * 32


def test_the_key_of_a_feature_map_stays_what_it_is() -> None:
    assert feature_key(PHOTO, PREPARED, PREFIX).hex() == (
        "e5d18ab6ca087aede183b89fa1bd9c8580ba77db4c12875f9b44fa7cbc4a84a7"
    )


@pytest.mark.parametrize(
    "content",
    [
        (bytes_digest(b"another photo"), PREPARED, PREFIX),
        (PHOTO, "13" * 32, PREFIX),
        (PHOTO, Preprocessing().digest, PREFIX),
        (PHOTO, PREPARED, "35" * 32),
        # The parts do not stand for each other.
        (PHOTO, PREFIX, PREPARED),
    ],
    ids=["photo", "preprocessing", "default preprocessing", "prefix", "exchanged"],
)
def test_the_key_depends_on_photo_preprocessing_and_prefix(
    content: tuple[bytes, str, str],
) -> None:
    assert feature_key(*content) != feature_key(PHOTO, PREPARED, PREFIX)


def test_preprocessing_is_told_apart_by_each_parameter_and_its_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = {
        Preprocessing().digest,
        Preprocessing(height=223).digest,
        Preprocessing(width=223).digest,
        Preprocessing(resize=257).digest,
    }
    monkeypatch.setattr("trtkit.preprocessing.REVISION", 2)
    digests.add(Preprocessing().digest)
    assert len(digests) == 5


def test_the_id_of_a_stage_stays_what_it_is() -> None:
    assert stage_id("ab" * 32, "fp16", None) == (
        "ee62381887137c69ec332e11d346861cabf46e5eb6d51926994f9e27ebb37f31"
    )
    assert stage_id("ab" * 32, "int8", "cd" * 32) == (
        "420a745d565ba3ca837dd8c3db861764ddb1407f4582ccee946563eda6dc84f4"
    )


def test_the_id_of_a_stage_depends_on_graph_precision_and_parent() -> None:
    ids = {
        stage_id("ab" * 32, "fp16", None),
        stage_id("ac" * 32, "fp16", None),
        stage_id("ab" * 32, "fp32", None),
        stage_id("ab" * 32, "fp16", "cd" * 32),
    }
    assert len(ids) == 4


def test_a_file_has_the_digest_of_its_bytes(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"photo")
    assert file_digest(path) == PHOTO.hex()


def test_a_seed_depends_on_its_content_alone() -> None:
    assert derived_seed("split", 1) == derived_seed("split", 1) != derived_seed("split", 2)
