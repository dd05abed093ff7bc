"""Cameras and network streams, with a camera, a clock and pauses of the test's own."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from trtkit.errors import TrtkitError
from trtkit.video import stream
from trtkit.video.frames import Frame, Gap, PixelPicture
from trtkit.video.stream import LiveStream

YEAR_2024 = 1_704_067_200.0


class Camera:
    """Cameras one after the other: each is how many frames it gives, None for one that is shut."""

    def __init__(self, *lives: int | None) -> None:
        self.lives = list(lives)
        self.opened: list[str] = []
        self.released = 0

    def open(self, location: str) -> Capture:
        self.opened.append(location)
        return Capture(self, self.lives.pop(0) if self.lives else None)


class Capture:
    def __init__(self, camera: Camera, frames: int | None) -> None:
        self.camera = camera
        self.frames = frames

    def isOpened(self) -> bool:
        return self.frames is not None

    def read(self) -> tuple[bool, np.ndarray | None]:
        assert self.frames is not None
        self.frames -= 1
        if self.frames < 0:
            return False, None
        return True, np.full((12, 16, 3), (10, 20, 200), np.uint8)

    def release(self) -> None:
        self.camera.released += 1


class Time:
    """A clock that goes on by `step` seconds whenever it is asked, and by what is slept."""

    def __init__(self, step: float = 0.1) -> None:
        self.now = YEAR_2024
        self.step = step
        self.pauses: list[float] = []

    def clock(self) -> float:
        now = self.now
        self.now += self.step
        return now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def opened(camera: Camera, time: Time, patience: float = 60.0, location: str = "0") -> LiveStream:
    return LiveStream(
        location, clock=time.clock, sleep=time.sleep, open_capture=camera.open, patience=patience
    )


def times(items) -> list[int | tuple[int, int, str]]:
    return [
        item.time_us if isinstance(item, Frame) else (item.start_us, item.end_us, item.reason)
        for item in items
    ]


def test_frames_have_the_times_at_which_they_arrive() -> None:
    footage = opened(Camera(5), Time())
    assert (footage.start_us, footage.duration_us, footage.seekable) == (None, None, False)
    items = list(islice(footage.read(), 5))
    assert times(items) == [0, 100_000, 200_000, 300_000, 400_000]
    assert footage.start_us == 1_704_067_200_000_000


def test_pictures_are_turned_from_bgr_to_rgb() -> None:
    item = next(opened(Camera(1), Time()).read())
    assert isinstance(item, Frame)
    assert (item.picture.width, item.picture.height) == (16, 12)
    for image, shape in ((item.picture.rgb(), (12, 16, 3)), (item.picture.shrunk(8, 6), (6, 8, 3))):
        assert (image.shape, image.dtype, image.flags.c_contiguous) == (shape, np.uint8, True)
        assert image[0, 0].tolist() == [200, 20, 10]
    grey = PixelPicture(np.full((2, 3), 7, np.uint8), bgr=True)
    assert grey.rgb().tolist() == [[[7, 7, 7]] * 3] * 2


def test_a_stream_that_drops_is_opened_again_after_growing_pauses() -> None:
    camera, time = Camera(2, None, None, 0, 2), Time()
    footage = opened(camera, time)
    items = times(islice(footage.read(), 5))
    # 0.5 + 1 + 2 + 4 seconds of pauses; the clock had gone on by 0.1.
    assert items == [0, 100_000, (100_000, 7_700_000, "the stream dropped"), 7_700_000, 7_800_000]
    assert time.pauses == [0.5, 1.0, 2.0, 4.0]
    assert camera.opened == ["0"] * 5
    assert camera.released == 4


def test_pauses_start_small_again_after_a_frame() -> None:
    time = Time()
    items = list(islice(opened(Camera(1, None, 1, None, 1), time).read(), 5))
    assert [type(item) for item in items] == [Frame, Gap, Frame, Gap, Frame]
    assert time.pauses == [0.5, 1.0, 0.5, 1.0]


def test_a_stream_that_does_not_come_back_is_given_up() -> None:
    time = Time()
    with pytest.raises(TrtkitError, match="camera 0 dropped and did not come back within 60 s"):
        list(opened(Camera(1), time).read())
    assert sum(time.pauses) == pytest.approx(60)
    assert time.pauses[:6] == [0.5, 1, 2, 4, 8, 10]
    assert max(time.pauses) == 10


def test_a_stream_that_never_comes() -> None:
    camera, time = Camera(), Time()
    footage = opened(camera, time, patience=3, location="rtsp://me:pw@gate/1")
    with pytest.raises(TrtkitError, match="stream rtsp://gate/1 gave no frame within 3 s"):
        next(footage.read())
    assert time.pauses == [0.5, 1.0, 1.5]
    assert camera.released == len(camera.opened) == 4


def test_the_first_opening_may_take_a_while_and_is_no_gap() -> None:
    assert times(islice(opened(Camera(None, None, 2), Time()).read(), 2)) == [0, 100_000]


def test_a_clock_that_goes_back() -> None:
    time = Time()
    footage = opened(Camera(9), time)
    reading = footage.read()
    items = [next(reading), next(reading)]
    time.now -= 3600
    items += islice(reading, 3)
    assert times(items) == [
        0, 100_000, (100_001, 100_001, "the clock went back by 3599.9 s"), 100_001, 200_001,
    ]  # fmt: skip


def test_two_frames_in_one_tick_of_the_clock() -> None:
    assert times(islice(opened(Camera(3), Time(step=0)).read(), 3)) == [0, 1, 2]


def test_a_second_reading_goes_on_and_since_leaves_out() -> None:
    footage = opened(Camera(9), Time())
    assert times(islice(footage.read(), 2)) == [0, 100_000]
    assert times(islice(footage.read(400_000), 2)) == [400_000, 500_000]


def test_close_lets_the_camera_go() -> None:
    camera = Camera(9)
    footage = opened(camera, Time())
    footage.close()
    next(footage.read())
    footage.close()
    footage.close()
    assert camera.released == 1


def test_the_fingerprint_is_of_the_location() -> None:
    assert LiveStream("0").fingerprint == LiveStream("0").fingerprint != LiveStream("1").fingerprint


def test_a_number_is_opened_as_a_camera_and_a_url_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    asked: list[int | str] = []
    monkeypatch.setattr(cv2, "VideoCapture", asked.append)
    stream.open_with_opencv("2")
    stream.open_with_opencv("rtsp://gate/1")
    assert asked == [2, "rtsp://gate/1"]
