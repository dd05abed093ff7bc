"""What a source of video gives: frames with their times, and the stretches where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from trtkit.tensors import Array

MICROSECONDS = 1_000_000


class Picture(Protocol):
    """A decoded frame, in whatever form the decoder left it; converting takes what is asked for alone."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def rgb(self) -> Array:
        """The frame as uint8 height x width x 3, RGB, contiguous."""
        ...

    def shrunk(self, width: int, height: int) -> Array:
        """The frame in that size, uint8 height x width x 3, RGB, contiguous."""
        ...


@dataclass(frozen=True)
class Frame:
    """One frame. `time_us`: microseconds since the source's first frame, always growing."""

    time_us: int
    picture: Picture


@dataclass(frozen=True)
class Gap:
    """A stretch of a source without frames that can be used, in microseconds since its first frame.

    `reason`: what a message says of it, as "damaged" or "the stream dropped".
    """

    start_us: int
    end_us: int
    reason: str


class Footage(Protocol):
    """An opened source.

    `seekable`: whether it can be read again from any time, as files can and cameras cannot.
    `start_us`: when the first frame was taken, in microseconds since 1970 in UTC, None if nothing says.
    `duration_us`: how long it is, None for a stream. `fingerprint`: tells whether this is the same
    footage as that of an earlier run.
    """

    location: str
    seekable: bool
    start_us: int | None
    duration_us: int | None
    fingerprint: str

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        """The frames from that time on, in the order of their times, and gaps where they are.

        A frame has the same time and the same pixels whatever it is read from.
        """
        ...

    def close(self) -> None: ...
