"""Finding, checking and splitting labelled photos."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

from tests.pictures import encoded
from tests.reports import recorded
from trtkit import TrtkitError
from trtkit.evaluation.dataset import read_dataset, read_part, split_photos
from trtkit.evaluation.folders import LabelledPhoto


def picture(number: int) -> bytes:
    """A tiny PNG that differs from those of other numbers."""
    pixels = np.full((6, 8, 3), number % 256, np.uint8)
    pixels[0, 0] = (number // 256, 1, 2)
    return encoded(pixels, "PNG")


def fill(folder: Path, numbers, name: str = "{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / name.format(number)).write_bytes(picture(number))


@pytest.fixture
def data(tmp_path) -> Path:
    """Two classes without train/ and val/: 10 cats, 7 dogs."""
    root = tmp_path / "data"
    fill(root / "cat", range(10))
    fill(root / "dog", range(100, 107))
    return root


@pytest.fixture
def split_data(tmp_path) -> Path:
    root = tmp_path / "split"
    for part, first in (("train", 0), ("val", 50)):
        fill(root / part / "cat", range(first, first + 3))
        fill(root / part / "dog", range(first + 10, first + 12))
    return root


def names(photos) -> list[str]:
    return [photo.path.name for photo in photos]


def contents(photos) -> set[tuple[int, bytes]]:
    return {(photo.label, photo.path.read_bytes()) for photo in photos}


def test_class_folders_are_split_four_to_one_in_each_class(data):
    dataset = read_dataset(data)
    assert dataset.root == data
    assert dataset.classes == ("cat", "dog")
    assert [photo.label for photo in dataset.train] == [0] * 8 + [1] * 6
    assert [photo.label for photo in dataset.val] == [0] * 2 + [1]
    assert dataset.skipped == ()
    assert dataset.split == "4:1, seed 0"
    both = sorted((*dataset.train, *dataset.val), key=lambda photo: (photo.label, photo.path))
    assert [photo.path for photo in both] == [
        *sorted((data / "cat").iterdir()), *sorted((data / "dog").iterdir())
    ]  # fmt: skip
    for photo in both:
        assert photo.digest == blake3(photo.path.read_bytes()).digest()
    for part in (dataset.train, dataset.val):
        assert list(part) == sorted(part, key=lambda photo: (photo.label, photo.path))


def test_the_split_of_record():
    """Fixed for ever: a checkpoint's --part val must be found again by later versions."""
    photos = [LabelledPhoto(Path(str(n)), n % 2, bytes([n]) * 32) for n in range(20)]
    _, val = split_photos(photos, ("a", "b"), seed=0)
    assert names(val) == ["0", "2", "3", "9"]
    _, val = split_photos(photos, ("a", "b"), seed=1)
    assert names(val) != ["0", "2", "3", "9"]


def test_the_split_depends_on_content_alone(data, tmp_path):
    other = tmp_path / "elsewhere"
    for label in ("cat", "dog"):
        files = sorted((data / label).iterdir(), reverse=True)
        for number, path in enumerate(files):
            folder = other / label / f"camera {number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / f"IMG_{number:03}.PNG")
    here, there = read_dataset(data), read_dataset(other)
    assert contents(here.val) == contents(there.val)
    assert contents(here.train) == contents(there.train)
    assert here.fingerprint == there.fingerprint


def test_the_seed_and_the_class_name_change_the_split(data):
    first = read_dataset(data)
    seeded = [read_dataset(data, seed=seed) for seed in range(1, 6)]
    assert {frozenset(contents(dataset.val)) for dataset in seeded} != {
        frozenset(contents(first.val))
    }
    photos = [LabelledPhoto(Path(str(n)), 0, bytes([n]) * 32) for n in range(40)]
    assert split_photos(photos, ["cat"], 0)[1] != split_photos(photos, ["lynx"], 0)[1]


def test_a_new_photo_leaves_most_others_where_they_are():
    photos = [LabelledPhoto(Path(str(n)), 0, bytes([n]) * 32) for n in range(101)]
    before = set(split_photos(photos[:-1], ["cat"], 0)[1])
    after = set(split_photos(photos, ["cat"], 0)[1])
    assert len(before) == len(after) == 20
    assert len(before - after) <= 1


@pytest.mark.parametrize(("count", "held_out"), [(2, 1), (3, 1), (4, 1), (7, 1), (8, 2), (100, 20)])
def test_about_one_in_five_is_held_out(count, held_out):
    photos = [LabelledPhoto(Path(str(n)), 0, bytes([n]) * 32) for n in range(count)]
    train, val = split_photos(photos, ["cat"], 0)
    assert (len(train), len(val)) == (count - held_out, held_out)


def test_photos_with_the_same_bytes_stay_on_one_side(data):
    for path in list((data / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    dataset = read_dataset(data)
    assert dataset.repeated == 0
    cats = [photo for photo in dataset.val if photo.label == 0]
    assert len(cats) == 4
    assert len({photo.digest for photo in cats}) == 2


def test_photos_in_two_classes_are_counted(data):
    dataset = read_dataset(data)
    assert dataset.contradictory == 0
    shutil.copy(data / "cat" / "3.png", data / "dog" / "really a cat.png")
    assert read_dataset(data).contradictory == 2


def test_photos_of_val_that_are_in_train_are_counted(split_data):
    assert read_dataset(split_data).repeated == 0
    shutil.copy(split_data / "train/cat/0.png", split_data / "val/cat/again.png")
    shutil.copy(split_data / "train/cat/0.png", split_data / "val/cat/and again.png")
    assert read_dataset(split_data).repeated == 2


def test_train_and_val_folders_are_taken_as_they_are(split_data):
    (split_data / "test" / "giraffe").mkdir(parents=True)
    dataset = read_dataset(split_data, seed=7)
    assert dataset.split == "folders"
    assert dataset.classes == ("cat", "dog")
    assert names(dataset.train) == ["0.png", "1.png", "2.png", "10.png", "11.png"]
    assert names(dataset.val) == ["50.png", "51.png", "52.png", "60.png", "61.png"]
    assert [photo.label for photo in dataset.val] == [0, 0, 0, 1, 1]


def test_the_fingerprint_knows_part_class_and_content(split_data):
    seen = {read_dataset(split_data).fingerprint}
    (split_data / "train/cat/0.png").rename(split_data / "val/cat/0.png")
    seen.add(read_dataset(split_data).fingerprint)
    (split_data / "val/cat/0.png").rename(split_data / "val/dog/0.png")
    seen.add(read_dataset(split_data).fingerprint)
    (split_data / "val/dog/0.png").write_bytes(picture(7))
    seen.add(read_dataset(split_data).fingerprint)
    for part in ("train", "val"):
        (split_data / part / "cat").rename(split_data / part / "lynx")
    seen.add(read_dataset(split_data).fingerprint)
    assert len(seen) == 5


def test_a_photo_that_cannot_be_read_is_skipped(data):
    before = read_dataset(data)
    (data / "cat" / "torn.png").write_bytes(picture(0)[:40])
    (data / "dog" / "empty.jpg").write_bytes(b"")
    (data / "dog" / "gone.jpg").symlink_to(data / "nowhere.jpg")
    dataset = read_dataset(data)
    assert [(item.path.name, item.reason) for item in dataset.skipped] == [
        ("torn.png", dataset.skipped[0].reason),
        ("empty.jpg", "The file is empty."),
        ("gone.jpg", "There is no such file (any more)."),
    ]
    assert (dataset.train, dataset.val) == (before.train, before.val)
    assert dataset.fingerprint == before.fingerprint


def test_hidden_and_other_files_are_no_photos(data):
    fill(data / ".cache", range(3))
    fill(data / "cat", [200], name=".{}.png")
    for junk in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "#recycle"):
        fill(data / junk, range(4))
        fill(data / junk / "cat", range(4))
        fill(data / "cat" / junk, range(4))
    (data / "Thumbs.db").write_bytes(b"x")
    (data / "cat" / "desktop.ini").write_bytes(b"x")
    (data / "cat" / "notes.txt").write_text("nine lives")
    (data / "labels.csv").write_text("cat,dog")
    dataset = read_dataset(data)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.train) + len(dataset.val) == 17
    assert dataset.skipped == ()


def test_progress_is_reported_up_to_the_end(data):
    with recorded() as reports:
        read_dataset(data, workers=2)
    assert {phase for phase, _ in reports.phases} == {f"Reading {data}"}
    shares = [share for _, share in reports.phases]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 17


def test_of_many_photos_some_steps_and_the_end_are_reported(data, monkeypatch):
    monkeypatch.setattr("trtkit.evaluation.dataset._PROGRESS_STEPS", 2)
    with recorded() as reports:
        read_dataset(data)
    assert [share for _, share in reports.phases] == [8 / 17, 16 / 17, 1.0]


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "train", range(3))
    fill(tmp_path / "tram", range(10, 13))
    assert read_dataset(tmp_path).classes == ("train", "tram")


def test_what_stands_in_for_no_data_is_named(tmp_path, data):
    with pytest.raises(TrtkitError, match=r"^There is no folder .*/nowhere; give a folder"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(TrtkitError, match=r"0\.png is a file; give a folder"):
        read_dataset(data / "cat" / "0.png")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / ".hidden").mkdir()
    with pytest.raises(TrtkitError, match=r"bare has no class folders; .* train/ and val/"):
        read_dataset(tmp_path / "bare")
    with pytest.raises(
        TrtkitError, match=r"cat has 10 photos lying directly in it but no class folders; .* above"
    ):
        read_dataset(data / "cat")


def test_one_class_is_too_few(data, split_data):
    shutil.rmtree(data / "dog")
    with pytest.raises(TrtkitError, match=r"data has a single class folder, cat, and a classifier"):
        read_dataset(data)
    for part in ("train", "val"):
        shutil.rmtree(split_data / part / "dog")
    with pytest.raises(TrtkitError, match=r"split/train has a single class folder, cat, and"):
        read_dataset(split_data)


def test_a_class_without_a_readable_photo_is_named(data, split_data):
    (data / "bird").mkdir()
    with pytest.raises(
        TrtkitError, match=r"class folder .*/bird has no readable image \(.* hold no image;"
    ):
        read_dataset(data)
    (data / "bird" / "a.jpg").write_bytes(b"")
    (data / "bird" / "b.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(
        TrtkitError,
        match=r"bird has no readable image \(2 unreadable, such as .*a\.jpg: The file is empty\); put",
    ):
        read_dataset(data)
    for path in (split_data / "val" / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(TrtkitError, match=r"/val/dog has no readable image \(2 unreadable"):
        read_dataset(split_data)


def test_a_class_of_one_distinct_photo_cannot_be_split(data):
    fill(data / "bird", [30])
    shutil.copy(data / "bird" / "30.png", data / "bird" / "copy.png")
    with pytest.raises(TrtkitError, match=r"^The class bird has 2 photos that are all the same"):
        read_dataset(data)
    (data / "bird" / "copy.png").unlink()
    with pytest.raises(TrtkitError, match=r"^The class bird has a single photo, too few to be spl"):
        read_dataset(data)


@pytest.mark.parametrize(("there", "missing"), [("train", "val"), ("val", "train")])
def test_train_without_val_and_the_other_way_round(split_data, there, missing):
    shutil.rmtree(split_data / missing)
    for ask in (read_dataset, read_part):
        with pytest.raises(
            TrtkitError,
            match=rf"a folder {there} of class folders but no {missing} beside it; add {missing} .*"
            rf"or give .*/{there} itself",
        ):
            ask(split_data)


def test_train_and_val_without_class_folders(tmp_path):
    fill(tmp_path / "train", range(3))
    fill(tmp_path / "val", range(3))
    with pytest.raises(TrtkitError, match=r"train has 3 photos lying directly in it but no class"):
        read_dataset(tmp_path)


def test_other_classes_in_val_than_in_train_are_named(split_data):
    (split_data / "val" / "dog").rename(split_data / "val" / "dogs")
    with pytest.raises(
        TrtkitError,
        match=r"differ in their classes: only train has dog and only val has dogs; give",
    ):
        read_dataset(split_data)
    shutil.rmtree(split_data / "val" / "dogs")
    with pytest.raises(TrtkitError, match=r"differ in their classes: only train has dog; give"):
        read_dataset(split_data)


def test_a_folder_that_cannot_be_read(data, monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(TrtkitError, match=r"data cannot be read \(Permission denied\); fix"):
        read_dataset(data)


def test_a_folder_name_that_is_none():
    with pytest.raises(TrtkitError, match=r"cannot be read \(.*null"):
        read_dataset(Path("a\0b"))


def test_all_photos_of_class_folders_are_named_without_being_read(data, monkeypatch):
    (data / "dog" / "torn.jpg").write_bytes(b"")
    (data / "empty").mkdir()

    def refuse(*args, **options):
        raise AssertionError("a photo was read")

    monkeypatch.setattr("trtkit.evaluation.dataset.read_file", refuse)
    for asked in ("auto", "all"):
        part = read_part(data, asked)
        assert part.part == "all"
        assert part.classes == ("cat", "dog", "empty")
        assert len(part.photos) == 18
        assert (part.folders, part.dataset) == (False, None)
        assert [item.path for item in part.skipped] == [data / "empty"]


@pytest.mark.parametrize("seed", [0, 3])
def test_a_part_of_class_folders_is_that_of_training(data, seed):
    dataset = read_dataset(data, seed=seed)
    train, val = read_part(data, "train", seed=seed), read_part(data, "val", seed=seed)
    assert (train.photos, val.photos) == (dataset.train, dataset.val)
    assert train.part == "train"
    assert train.dataset == dataset


def test_parts_of_train_and_val_folders(split_data):
    dataset = read_dataset(split_data)
    for asked, expected in (
        ("auto", dataset.val),
        ("val", dataset.val),
        ("train", dataset.train),
        ("all", dataset.train + dataset.val),
    ):
        part = read_part(split_data, asked)
        assert [(p.path, p.label) for p in part.photos] == [(p.path, p.label) for p in expected]
        assert part.part == ("val" if asked == "auto" else asked)
        assert part.folders


def test_parts_that_are_none(data, tmp_path):
    with pytest.raises(
        TrtkitError, match=r"Unknown part 'test' of .*; available: auto, all, train, val"
    ):
        read_part(data, "test")
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    (tmp_path / "bare" / "dog").mkdir(parents=True)
    with pytest.raises(TrtkitError, match=r"^None of the class folders of .*bare \(cat, dog\) ho"):
        read_part(tmp_path / "bare")


@pytest.mark.parametrize("parts", [(), ("train", "val")])
def test_a_folder_in_decomposed_unicode_is_the_same_class(tmp_path, parts):
    for number, part in enumerate(parts or ("",)):
        spelling = ("cafe\u0301", "caf\u00e9")[number]
        fill(tmp_path / part / spelling, range(10 * number, 10 * number + 3))
        fill(tmp_path / part / "dog", range(100 + 10 * number, 103 + 10 * number))
    dataset = read_dataset(tmp_path)
    assert dataset.classes == ("caf\u00e9", "dog")
    assert {photo.label for photo in (*dataset.train, *dataset.val)} == {0, 1}
    part = read_part(tmp_path, "all")
    assert part.classes == ("caf\u00e9", "dog") and len(part.photos) == 6 * (len(parts) or 1)


def test_two_spellings_of_a_class_in_one_folder_are_refused(tmp_path):
    fill(tmp_path / "cafe\u0301", range(3))
    fill(tmp_path / "caf\u00e9", range(3))
    with pytest.raises(TrtkitError, match="two Unicode forms, which are one class"):
        read_dataset(tmp_path)
