"""A folder of images as footage."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trtkit.errors import TrtkitError
from trtkit.video.framefolder import FrameFolder
from trtkit.video.frames import Frame, Gap


def told(items) -> list[tuple[int, ...] | tuple[int, int, str]]:
    """Times and the brightness, which numbers the images; or start, end and reason."""
    return [
        (item.time_us, int(item.picture.rgb()[0, 0, 0]))
        if isinstance(item, Frame)
        else (item.start_us, item.end_us, item.reason)
        for item in items
    ]


def write(folder: Path, number: int, name: str | None = None) -> Path:
    path = folder / (name or f"frame{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 16, 3), number, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images; the first, 4, 5 and the last are damaged."""
    folder = tmp_path_factory.mktemp("frames") / "some"
    for number in range(12):
        path = write(folder, number)
        if number in (0, 4, 5, 11):
            path.write_bytes(path.read_bytes()[:40])
    return folder


def test_images_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 0, 2, 1):
        write(tmp_path, number)
    write(tmp_path, 77, "part2/a.png")
    write(tmp_path, 88, "part10/a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    footage = FrameFolder(tmp_path)
    assert told(footage.read()) == [
        (0, 0), (40_000, 1), (80_000, 2), (120_000, 9), (160_000, 10), (200_000, 77), (240_000, 88),
    ]  # fmt: skip
    assert (footage.duration_us, footage.start_us, footage.seekable) == (280_000, None, True)
    assert footage.location == str(tmp_path)


def test_any_frame_rate(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path, number)
    footage = FrameFolder(tmp_path, frame_rate=30000 / 1001)
    assert [time for time, _ in told(footage.read())] == [0, 33367, 66733, 100100]
    assert footage.duration_us == 133467
    assert told(FrameFolder(tmp_path, frame_rate=0.5).read(2_000_001)) == [
        (4_000_000, 2), (6_000_000, 3),
    ]  # fmt: skip


ALL = [
    (0, 100_000, "damaged"), (100_000, 1), (200_000, 2), (300_000, 3), (400_000, 600_000, "damaged"),
    (600_000, 6), (700_000, 7), (800_000, 8), (900_000, 9), (1_000_000, 10),
    (1_100_000, 1_200_000, "damaged"),
]  # fmt: skip


def test_damaged_images_are_gaps(folder: Path) -> None:
    assert told(FrameFolder(folder, 10).read()) == ALL


@given(since=st.integers(-10, 1_300_000) | st.integers(0, 13).map(lambda n: n * 100_000))
def test_reading_from_a_time_is_the_end_of_reading_all(folder: Path, since: int) -> None:
    expected = [item for item in ALL if (item[1] > since if len(item) == 3 else item[0] >= since)]
    assert told(FrameFolder(folder, 10).read(since)) == expected


def test_pictures(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = next(FrameFolder(tmp_path).read())
    assert isinstance(item, Frame)
    picture = item.picture
    assert (picture.width, picture.height) == (16, 12)
    np.testing.assert_array_equal(picture.rgb(), pixels)
    small = picture.shrunk(8, 6)
    assert (small.shape, small.dtype, small.flags.c_contiguous) == ((6, 8, 3), np.uint8, True)
    halved = pixels.astype(float).reshape(6, 2, 8, 2, 3).mean((1, 3))
    assert abs(small - halved).max() <= 1


def test_a_large_photo_keeps_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1500), "red").save(tmp_path / "a.jpg")
    item = next(FrameFolder(tmp_path).read())
    assert isinstance(item, Frame)
    assert item.picture.rgb().shape == (1500, 2000, 3)


def test_frames_of_the_same_size_are_other_footage(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    first, before = FrameFolder(tmp_path), path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = FrameFolder(tmp_path)
    assert first.fingerprint != second.fingerprint
    # Which earlier versions did not tell apart.
    assert first.former_fingerprint == second.former_fingerprint


def test_the_fingerprint_is_of_names_contents_and_rate(tmp_path: Path) -> None:
    write(tmp_path, 1)
    first = FrameFolder(tmp_path).fingerprint
    assert FrameFolder(tmp_path).fingerprint == first
    assert FrameFolder(tmp_path, 5).fingerprint != first
    path = write(tmp_path, 2)
    two = FrameFolder(tmp_path).fingerprint
    path.write_bytes(path.read_bytes() + b"more")
    larger = FrameFolder(tmp_path).fingerprint
    path.rename(tmp_path / "frame3.png")
    assert len({first, two, larger, FrameFolder(tmp_path).fingerprint}) == 4


def test_a_file_that_goes_away_is_a_gap(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path, number)
    footage = FrameFolder(tmp_path)
    (tmp_path / "frame1.png").unlink()
    assert list(footage.read())[1] == Gap(40_000, 80_000, "damaged")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrtkitError, match=r"missing does not exist; name a folder"):
        FrameFolder(tmp_path / "missing")
    path = write(tmp_path, 1, "file.png")
    with pytest.raises(TrtkitError, match=r"file.png is a file, not a folder"):
        FrameFolder(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrtkitError, match=r"hold no image;"):
        FrameFolder(tmp_path / "empty")
