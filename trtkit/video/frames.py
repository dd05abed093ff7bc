"""What a source of video gives: frames with times that always grow, and the gaps between them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, repeat
from typing import Protocol, TypeVar

import numpy as np

from trtkit.photos.prefetch import ordered_map
from trtkit.tensors import Array

Item = TypeVar("Item")

MICROSECONDS = 1_000_000
# The reason of a gap that cannot be decoded.
DAMAGED = "damaged"


class Picture(Protocol):
    """A decoded frame in the decoder's own form, converted only on request."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rgb(self) -> Array:
        """The frame as uint8 height x width x 3, RGB, contiguous."""
        ...

    def shrunk(self, width: int, height: int) -> Array:
        """The frame in that size, averaged over areas; uint8 height x width x 3, RGB, contiguous."""
        ...


class PixelPicture:
    """A frame whose pixels are in memory: uint8 height x width x 3, or height x width for grey.

    `bgr`: blue comes first, as OpenCV reads it.
    """

    def __init__(self, pixels: Array, *, bgr: bool = False) -> None:
        self._pixels = pixels
        self._bgr = bgr
        self.height, self.width = (int(side) for side in pixels.shape[:2])

    def rgb(self) -> Array:
        return self._converted(self._pixels)

    def shrunk(self, width: int, height: int) -> Array:
        import cv2

        # Fewer pixels to convert.
        small = cv2.resize(self._pixels, (width, height), interpolation=cv2.INTER_AREA)
        return self._converted(small)

    def _converted(self, pixels: Array) -> Array:
        import cv2

        if pixels.ndim == 2:
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB))
        if self._bgr:
            return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
        return np.ascontiguousarray(pixels)


@dataclass(frozen=True)
class Frame:
    """One frame. `time_us`: microseconds since the source's first frame, always growing.

    `small`: the picture as background models see it (`small_picture`), where it was made ahead.
    """

    time_us: int
    picture: Picture
    small: Array | None = None


@dataclass(frozen=True)
class Gap:
    """A stretch of a source without usable frames, in microseconds since its first frame.

    `reason`: a few words for messages, such as "damaged" or "the stream dropped".
    """

    start_us: int
    end_us: int
    reason: str


class Footage(Protocol):
    """An opened source.

    `seekable`: whether it can be read again from any time: files can, cameras cannot. `start_us`: when the
    first frame was taken, in microseconds since 1970 in UTC, None if unknown. `duration_us`: its length,
    None for a stream. `frame_rate`: frames a second, as stated, or as set or assumed for footage without
    times; None if unknown. `zone`: the camera's time zone, a name or an offset, empty if the source states
    none. `fingerprint`: equal for the same footage in a later run; `former_fingerprint`: what earlier
    versions had for it, which told less footage apart.
    """

    location: str
    seekable: bool
    start_us: int | None
    duration_us: int | None
    frame_rate: float | None
    zone: str
    fingerprint: str
    former_fingerprint: str

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        """The frames from that time on and the gaps between them, in the order of their times.

        A frame has the same time and the same pixels from wherever the reading begins.
        """
        ...

    def close(self) -> None: ...


@dataclass
class Clock:
    """From the container's times to those of the footage, which always grow.

    `zero`: the first frame's time. It and all other container times are in `unit` of a second.
    `step_us`: the usual time from frame to frame.
    """

    zero: int
    unit: Fraction
    step_us: int
    shift_us: int = 0
    last_us: int | None = None

    def us(self, pts: int) -> int:
        """A time of the container in microseconds of the footage, as the clock now goes."""
        return self.length_us(pts - self.zero) + self.shift_us

    def length_us(self, ticks: int | None) -> int:
        """`ticks` units in microseconds, rounded; the usual time between frames for None."""
        if not ticks:
            return self.step_us if ticks is None else 0
        return round(ticks * self.unit * MICROSECONDS)

    def time_us(self, pts: int) -> tuple[int, int | None]:
        """The time of the next frame, and by how much the clock went back, None where it went on."""
        time = self.us(pts)
        back = None
        if self.last_us is not None and time <= self.last_us:
            back = self.last_us - time
            self.shift_us += self.last_us + self.step_us - time
            time = self.last_us + self.step_us
        self.last_us = time
        return time, back


def went_back(microseconds: int) -> str:
    """The reason of a gap where a clock stood still or went back."""
    if microseconds == 0:
        return "the clock stood still"
    return f"the clock went back by {microseconds / MICROSECONDS:g} s"


def read_ahead(
    items: Iterator[Item], limit: int, prepare: Callable[[Item], Item] | None = None
) -> Generator[Item]:
    """The same items in the same order, read and prepared in a thread before they are needed.

    Up to `limit` of them wait, and one more is being read. An error of `items` is raised where it
    comes in the order. `items` is closed at the end, also when this is closed early.
    """
    prepared = items if prepare is None else map(prepare, items)
    try:
        # One thread reads them in their order; an empty list is the end.
        parts = ordered_map(
            lambda _: list(islice(prepared, 1)), repeat(None), workers=1, ahead=limit + 2
        )
        with closing(parts):
            for part in parts:
                if not part:
                    return
                yield part[0]
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
