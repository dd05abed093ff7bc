"""What may be asked of int8, and what a build of it depends on."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pictures import encoded
from trtkit.errors import TrtkitError
from trtkit.quantization import photos as module
from trtkit.quantization.photos import Int8Options

NOWHERE = Path("/nowhere/photos")
USUAL = Int8Options(NOWHERE, NOWHERE)


def fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.png").write_bytes(picture(number))
    return folder


def picture(number: int) -> bytes:
    return encoded(np.full((2, 3, 3), number, np.uint8), "PNG")


def test_what_is_usual():
    assert (USUAL.images, USUAL.method, USUAL.min_agreement, USUAL.explicit) == (
        512,
        "auto",
        0.99,
        False,
    )


@given(st.floats(0, 1))
def test_a_share_may_be_asked_for(agreement):
    assert replace(USUAL, min_agreement=agreement).min_agreement == agreement


@pytest.mark.parametrize("agreement", [0, 1, 0.0, 1.0])
def test_none_and_all_may_be_asked_for(agreement):
    assert replace(USUAL, min_agreement=agreement).min_agreement == agreement


@pytest.mark.parametrize(
    "agreement",
    [
        math.nan, math.inf, -math.inf, 99, -1, math.nextafter(0, -1), math.nextafter(1, 2),
    ],
)  # fmt: skip
def test_an_agreement_that_is_no_share_is_refused(agreement):
    with pytest.raises(
        TrtkitError,
        match=rf"^An agreement of {agreement} is impossible; give a share from 0 to 1, such as 0\.99\.$",
    ):
        replace(USUAL, min_agreement=agreement)


@pytest.mark.parametrize("images", [0, -1])
def test_no_photos_cannot_be_asked_for(images):
    with pytest.raises(
        TrtkitError,
        match=rf"^Cannot calibrate on {images} photos; give 1 or more\.$",
    ):
        replace(USUAL, images=images)
    assert replace(USUAL, images=1).images == 1


@pytest.mark.parametrize("method", ["", "Max", "median"])
def test_an_unknown_method_is_refused(method):
    with pytest.raises(
        TrtkitError,
        match=rf"^Calibration method '{method}' not found; available: auto, entropy, max\.$",
    ):
        replace(USUAL, method=method)
    assert replace(USUAL, method="max").method == "max"


def test_the_digest_changes_with_what_is_asked_for(tmp_path):
    options = Int8Options(fill(tmp_path / "photos", 3), tmp_path)
    first = options.digest()
    assert Int8Options(tmp_path / "photos", tmp_path).digest() == first
    digests = [
        first,
        replace(options, images=511).digest(),
        replace(options, method="max").digest(),
        replace(options, min_agreement=0.989).digest(),
        replace(options, folder=fill(tmp_path / "others", 3)).digest(),
    ]
    assert len({json.dumps(digest) for digest in digests}) == len(digests)


def test_where_ranges_are_kept_is_not_what_a_build_depends_on(tmp_path):
    options = Int8Options(fill(tmp_path / "photos", 3), tmp_path)
    assert replace(options, home=tmp_path / "elsewhere").digest() == options.digest()
    assert replace(options, explicit=True).digest() == options.digest()


def test_the_digest_changes_with_the_photos_and_reads_none(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a photo was read")

    monkeypatch.setattr(module, "read_file", refuse)
    monkeypatch.setattr(module, "load_image", refuse)
    folder = tmp_path / "photos"
    options = Int8Options(folder, tmp_path)
    # There need be no folder yet.
    digests = [options.digest()]
    fill(folder, 3)
    digests.append(options.digest())
    (folder / "notes.txt").write_text("no photo")
    assert options.digest() == digests[-1]
    (folder / "cat").mkdir()
    (folder / "cat" / "9.png").write_bytes(picture(9))
    digests.append(options.digest())
    (folder / "1.png").write_bytes(picture(1) + b"\0")
    digests.append(options.digest())
    (folder / "2.png").rename(folder / "3.png")
    digests.append(options.digest())
    (folder / "0.png").unlink()
    digests.append(options.digest())
    assert len({json.dumps(digest) for digest in digests}) == len(digests) == 6
