"""Choosing the photos to calibrate on, and those to judge by."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.pictures import encoded
from trtkit.errors import TrtkitError
from trtkit.photos.images import read_file
from trtkit.preprocessing import Preprocessing
from trtkit.quantization import photos as module
from trtkit.quantization.photos import (
    CalibrationPhotos,
    Int8Options,
    calibration_photos,
    listing_digest,
    prepared,
)

MANY = 512


def picture(number: int) -> bytes:
    """A tiny PNG that differs from those of other numbers; its first pixel is the number."""
    pixels = np.full((6, 8, 3), number % 256, np.uint8)
    pixels[0, 0] = (number // 256, 1, 2)
    return encoded(pixels, "PNG")


def fill(folder: Path, numbers, name: str = "{:04}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).write_bytes(picture(number))
    return folder


def names(photos) -> list[str]:
    return [photo.path.name for photo in photos]


def everything(found: CalibrationPhotos) -> set[Path]:
    return {photo.path for photo in (*found.chosen, *found.held_out)}


@pytest.fixture
def few_held_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_HELD_OUT", 2)


@given(st.integers(2, 20_000), st.integers(1, 20_000))
def test_how_many_are_held_out(total, count):
    held_out = module.held_out_count(total, count, 0)
    assert 1 <= held_out < total
    assert held_out <= 500
    if held_out < 500:
        # One in five, rounded up, and all that are not asked for.
        assert held_out == max(-(-total // 5), total - count)
    assert total - held_out <= count or held_out == 500


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_what_is_taken_is_spread_evenly(total, wanted):
    places = [
        int(path.name) for path in module._spread([Path(str(n)) for n in range(total)], wanted)
    ]
    assert len(places) == min(total, wanted)
    assert places[0] == 0
    steps = np.diff([*places, total])
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(
    ("there", "count", "chosen", "held_out"),
    [
        (30, MANY, 24, 6),
        (31, 30, 24, 7),
        (40, 8, 8, 32),
        (6, 5, 4, 2),
        (3, MANY, 2, 1),
        (2, 1, 1, 1),
    ],
)
def test_one_in_five_is_held_out_and_what_is_more_than_asked_for(
    tmp_path, there, count, chosen, held_out
):
    fill(tmp_path / "photos", range(there))
    found = calibration_photos(tmp_path / "photos", count)
    assert (len(found.chosen), len(found.held_out)) == (chosen, held_out)
    # Where all are wanted none is left out.
    assert everything(found) == set((tmp_path / "photos").iterdir())
    assert found.skipped == ()
    for photo in (*found.chosen, *found.held_out):
        assert photo.digest == blake3(photo.path.read_bytes()).digest()
        assert photo.label is None
    assert not found.labelled


def test_the_choice_is_even_and_no_more_are_read_than_needed(tmp_path, few_held_out, monkeypatch):
    folder = fill(tmp_path / "photos", range(40))
    read = []

    def reading(path, **options):
        read.append(path.name)
        return read_file(path, **options)

    monkeypatch.setattr(module, "read_file", reading)
    found = calibration_photos(folder, 8)
    assert names(found.held_out) == ["0000.png", "0020.png"]
    assert names(found.chosen) == [f"{n:04}.png" for n in (4, 8, 12, 16, 24, 28, 32, 36)]
    assert sorted(read) == [f"{n:04}.png" for n in range(0, 40, 4)]
    assert calibration_photos(folder, 8) == found


def test_at_most_five_hundred_are_held_out(tmp_path, few_held_out):
    found = calibration_photos(fill(tmp_path, range(40)), MANY)
    assert (len(found.chosen), len(found.held_out)) == (38, 2)


def test_held_out_photos_come_from_all_classes(tmp_path):
    for number, label in enumerate(("ant", "bee", "cat", "dog")):
        fill(tmp_path / "photos" / label, range(100 * number, 100 * number + 10))
    found = calibration_photos(tmp_path / "photos", MANY)
    assert [photo.label for photo in found.held_out] == [
        label for label in ("ant", "bee", "cat", "dog") for _ in range(2)
    ]
    assert [photo.label for photo in found.chosen] == [
        label for label in ("ant", "bee", "cat", "dog") for _ in range(8)
    ]


def test_the_same_photo_is_never_on_both_sides(tmp_path):
    folder = fill(tmp_path / "photos" / "a", range(12)).parent
    fill(folder / "b", range(12), name="copy {:04}.png")
    shutil.copy(folder / "a" / "0003.png", folder / "again.png")
    found = calibration_photos(folder, MANY)
    chosen, held_out = ({photo.path.read_bytes() for photo in side}
                        for side in (found.chosen, found.held_out))  # fmt: skip
    assert not chosen & held_out
    assert (len(found.chosen), len(found.held_out)) == (9, 3)
    assert chosen | held_out == {picture(n) for n in range(12)}


def test_what_cannot_be_read_is_skipped_counted_and_told(tmp_path):
    folder = fill(tmp_path / "photos", range(10))
    before = calibration_photos(folder, MANY)
    (folder / "0002-torn.png").write_bytes(picture(2)[:40])
    (folder / "0005-empty.jpg").write_bytes(b"")
    (folder / "0007-gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_bytes(picture(77))
    found = calibration_photos(folder, MANY)
    assert (found.chosen, found.held_out) == (before.chosen, before.held_out)
    assert [item.path.name for item in found.skipped] == [
        "0002-torn.png", "0005-empty.jpg", "0007-gone.jpg"
    ]  # fmt: skip
    told = next(found.warnings())
    assert told.startswith(f"3 photos of {folder} cannot be read and are left out, such as ")
    assert f"{folder / '0002-torn.png'}: {found.skipped[0].reason}" in told
    assert not any("cannot be read" in text for text in before.warnings())


# Of those that an even choice of ten would take: all, or two.
@pytest.mark.parametrize("unreadable", [range(0, 40, 4), (8, 20)])
def test_others_stand_in_for_those_that_cannot_be_read(tmp_path, few_held_out, unreadable):
    folder = fill(tmp_path / "photos", range(40))
    for number in unreadable:
        (folder / f"{number:04}.png").write_bytes(b"")
    found = calibration_photos(folder, 8)
    assert (len(found.chosen), len(found.held_out)) == (8, 2)
    assert len(found.skipped) == len(unreadable)
    assert names(found.chosen) == sorted(names(found.chosen))
    places = sorted(int(photo.path.stem) for photo in (*found.chosen, *found.held_out))
    assert max(np.diff([0, *places, 40])) <= 8
    assert calibration_photos(folder, 8) == found


def test_others_stand_in_for_copies(tmp_path, few_held_out):
    folder = fill(tmp_path / "photos", range(40))
    for number in range(0, 40, 4):
        shutil.copy(folder / "0039.png", folder / f"{number:04}.png")
    found = calibration_photos(folder, 8)
    assert (len(found.chosen), len(found.held_out)) == (8, 2)
    assert len({photo.digest for photo in (*found.chosen, *found.held_out)}) == 10


@pytest.mark.parametrize("there", [True, False])
def test_without_photos_it_says_where_to_put_some(tmp_path, there):
    folder = tmp_path / "calibration"
    if there:
        folder.mkdir()
        (folder / "README.md").write_text("photos belong here")
    with pytest.raises(
        TrtkitError,
        match=r"^int8 needs photos .* but .*/calibration holds none; put some hundred .* "
        r"--calibration\.$",
    ):
        calibration_photos(folder, MANY)


def test_where_no_photo_can_be_read_it_says_so(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        TrtkitError,
        match=r"but the 3 photos tried of .* cannot be read, such as .*/a\.jpg: The file is empty; put "
        r"others there\.$",
    ):
        calibration_photos(tmp_path, MANY)


@pytest.mark.parametrize("count", [0, -1])
def test_no_photos_cannot_be_asked_for(tmp_path, count):
    with pytest.raises(
        TrtkitError, match=rf"^Cannot calibrate on {count} photos; give 1 or more\.$"
    ):
        calibration_photos(fill(tmp_path, range(3)), count)


def test_few_photos_are_warned_about(tmp_path):
    photos = calibration_photos(fill(tmp_path / "few", range(110)), MANY, needed=59)
    assert (len(photos.chosen), len(photos.held_out)) == (55, 55)
    assert list(photos.warnings()) == [
        f"Photos of {tmp_path / 'few'} to calibrate on: 55; ranges measured on fewer "
        "than 100 may not hold for others.",
        f"Photos of {tmp_path / 'few'} to judge int8 by: 55, which prove an agreement of 94.7% at most, "
        "with a confidence of 95%; 59 prove 95%.",
    ]
    photos = calibration_photos(fill(tmp_path / "enough", range(160)), MANY, needed=59)
    assert (len(photos.chosen), len(photos.held_out)) == (101, 59)
    assert list(photos.warnings()) == []


def test_photos_of_one_class_are_warned_about(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW", 0)
    folder = fill(tmp_path / "photos" / "cat", range(10)).parent
    assert list(calibration_photos(folder, MANY).warnings()) == [
        f"All photos of {folder} are of one class, cat; ranges measured on them may not hold for the "
        "others."
    ]
    fill(folder / "dog", [50])
    assert list(calibration_photos(folder, MANY).warnings()) == []


def test_a_folder_without_photos_is_no_class(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEW", 0)
    fill(tmp_path / "photos", range(10))
    (tmp_path / "photos" / "notes").mkdir()
    found = calibration_photos(tmp_path / "photos", MANY)
    assert list(found.warnings()) == []
    assert not found.labelled


def test_labels_come_from_class_folders(tmp_path):
    fill(tmp_path / "photos" / "cat", range(5))
    fill(tmp_path / "photos" / "dog" / "camera 1", range(10, 15))
    found = calibration_photos(tmp_path / "photos", MANY)
    assert found.labelled
    assert {(p.path.name, p.label) for p in (*found.chosen, *found.held_out)} == {
        *((f"{n:04}.png", "cat") for n in range(5)),
        *((f"{n:04}.png", "dog") for n in range(10, 15)),
    }


def test_labels_come_from_class_folders_in_train_and_val(tmp_path):
    for part, first in (("train", 0), ("val", 50)):
        fill(tmp_path / "photos" / part / "cat", range(first, first + 3))
        fill(tmp_path / "photos" / part / "dog", range(first + 10, first + 12))
    found = calibration_photos(tmp_path / "photos", MANY)
    assert found.labelled
    both = (*found.chosen, *found.held_out)
    assert len(both) == 10
    assert {(photo.path.parent.name, photo.label) for photo in both} == {
        ("cat", "cat"), ("dog", "dog")
    }  # fmt: skip


@pytest.mark.parametrize("parts", [("train/cat", "train/dog"), ("train", "val")])
def test_where_class_folders_cannot_be_told_there_are_no_labels(tmp_path, parts):
    for number, part in enumerate(parts):
        fill(tmp_path / "photos" / part, range(10 * number, 10 * number + 5))
    found = calibration_photos(tmp_path / "photos", MANY)
    assert len(everything(found)) == 10
    assert not found.labelled
    assert {photo.label for photo in (*found.chosen, *found.held_out)} == {None}


def test_photos_beside_class_folders_have_no_label(tmp_path):
    fill(tmp_path / "photos" / "cat", range(3))
    fill(tmp_path / "photos", range(10, 12))
    found = calibration_photos(tmp_path / "photos", MANY)
    assert found.labelled
    assert {photo.path.name: photo.label for photo in (*found.chosen, *found.held_out)} == {
        "0000.png": "cat", "0001.png": "cat", "0002.png": "cat", "0010.png": None, "0011.png": None
    }  # fmt: skip


@pytest.mark.parametrize("copies", [0, 11])
def test_a_single_photo_judges_nothing(tmp_path, copies):
    folder = fill(tmp_path / "photos", [3])
    for number in range(copies):
        shutil.copy(folder / "0003.png", folder / f"copy-{number}.png")
    photos = calibration_photos(folder, MANY)
    assert (names(photos.chosen), photos.held_out) == (["0003.png"], ())
    for proved in (False, True):
        options = Int8Options(folder, folder, min_agreement=0.9, proved=proved)
        with pytest.raises(TrtkitError, match="has a single photo, copies aside; add others"):
            options.check_provable(photos)


def test_copies_that_differ_in_their_metadata_are_one_photo(tmp_path):
    folder = fill(tmp_path / "photos", range(4))
    for number in range(4):
        image = Image.open(folder / f"{number:04}.png")
        notes = PngInfo()
        notes.add_text("camera", f"{number}")
        image.save(folder / f"noted-{number}.png", pnginfo=notes)
    photos = calibration_photos(folder, MANY, needed=4)
    assert len(everything(photos)) == 4
    assert (len(photos.chosen), len(photos.held_out)) == (2, 2)


@given(st.integers(2, 5000), st.integers(1, 600), st.integers(0, 400))
def test_half_at_most_is_held_out_for_a_proof(total, count, needed):
    plain, more = (
        module.held_out_count(total, count, 0),
        module.held_out_count(total, count, needed),
    )
    assert 0 < plain <= more <= max(plain, total // 2) and more <= 500
    assert more >= min(needed, total // 2)


def test_what_is_stated_is_proved_or_refused(tmp_path):
    photos = calibration_photos(fill(tmp_path, range(20)), MANY, needed=10)
    assert len(photos.held_out) == 10

    def options(share: float, *, proved: bool = True) -> Int8Options:
        return Int8Options(tmp_path, tmp_path, min_agreement=share, proved=proved)

    assert options(0.99, proved=False).needed == 59 and options(0.99).needed == 299
    options(0.99, proved=False).check_provable(photos)
    options(0.0).check_provable(photos)
    options(0.74).check_provable(photos)
    with pytest.raises(
        TrtkitError,
        match=r"0\.75 needs 11 held-out photos .* of 95%.* the 20 distinct photos of .* 10 are held out; "
        r"have 22 photos there, or give a --min-agreement of 0\.741 or less",
    ):
        options(0.75).check_provable(photos)
    with pytest.raises(TrtkitError, match=r"No number of photos proves .* 299 .* prove 0\.99\."):
        options(1.0).check_provable(photos)


def test_the_id_is_of_the_bytes_of_those_measured_on(tmp_path):
    folder = fill(tmp_path / "photos", range(10))
    found = calibration_photos(folder, MANY)
    digests = sorted(blake3(photo.path.read_bytes()).digest() for photo in found.chosen)
    assert found.id == blake3(b"".join(digests)).hexdigest()
    renamed = fill(tmp_path / "elsewhere" / "cat", range(10), name="IMG {:04}.PNG").parent
    assert calibration_photos(renamed, MANY).id == found.id
    # Those to judge by are not measured on.
    held_out = found.held_out[1].path
    held_out.write_bytes(picture(200))
    assert calibration_photos(folder, MANY).id == found.id
    found.chosen[0].path.write_bytes(picture(201))
    assert calibration_photos(folder, MANY).id != found.id


def test_a_listing_knows_what_is_added_changed_renamed_and_removed(tmp_path):
    folder = fill(tmp_path / "photos" / "cat", range(4)).parent
    first = listing_digest(folder)
    assert listing_digest(folder) == first
    (folder / "notes.txt").write_text("no photo")
    assert listing_digest(folder) == first
    seen = [first]
    (folder / "cat" / "0009.png").write_bytes(picture(9))
    seen.append(listing_digest(folder))
    (folder / "cat" / "0009.png").write_bytes(picture(9) + b"\0")
    seen.append(listing_digest(folder))
    status = (folder / "cat" / "0001.png").stat()
    content = bytearray((folder / "cat" / "0001.png").read_bytes())
    content[-1] ^= 1
    (folder / "cat" / "0001.png").write_bytes(content)
    os.utime(folder / "cat" / "0001.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    seen.append(listing_digest(folder))
    # Another time is no other photo.
    os.utime(folder / "cat" / "0001.png", ns=(0, 0))
    assert listing_digest(folder) == seen[-1]
    (folder / "cat" / "0002.png").rename(folder / "cat" / "0002b.png")
    seen.append(listing_digest(folder))
    (folder / "cat" / "0003.png").unlink()
    seen.append(listing_digest(folder))
    (folder / "cat" / "0003.png").symlink_to(tmp_path / "nowhere")
    seen.append(listing_digest(folder))
    assert len(set(seen)) == len(seen) == 7


def test_a_listing_of_nothing_is_one_too(tmp_path):
    (tmp_path / "empty").mkdir()
    assert listing_digest(tmp_path / "empty") == listing_digest(tmp_path / "nowhere")


def test_images_come_in_batches_and_in_order(tmp_path):
    found = calibration_photos(fill(tmp_path, range(10)), MANY)
    batches = list(prepared(found.chosen, Preprocessing(4, 6, 6), 3))
    assert [images.shape for _, images in batches] == [(3, 4, 6, 3), (3, 4, 6, 3), (2, 4, 6, 3)]
    assert [photo for photos, _ in batches for photo in photos] == list(found.chosen)
    for photos, images in batches:
        assert images.dtype == np.uint8
        for photo, image in zip(photos, images, strict=True):
            assert image[2, 3].tolist() == [int(photo.path.stem)] * 3


def test_a_photo_that_has_gone_is_left_out_of_the_images(tmp_path):
    found = calibration_photos(fill(tmp_path, range(10)), MANY)
    found.chosen[1].path.unlink()
    batches = list(prepared(found.chosen, Preprocessing(4, 6, 6), 4))
    assert [len(photos) for photos, _ in batches] == [4, 3]
    assert [photo for photos, _ in batches for photo in photos] == [
        found.chosen[0], *found.chosen[2:]
    ]  # fmt: skip
