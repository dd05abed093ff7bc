"""A camera or a network stream as footage, opened again when it drops."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final, Protocol

from blake3 import blake3

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.frames import MICROSECONDS, Clock, Frame, Gap, PixelPicture, went_back

DROPPED: Final = "the stream dropped"

# Seconds between two tries to open a stream: the first, the factor, and the longest.
_FIRST_PAUSE: Final = 0.5
_GROWTH: Final = 2.0
_LONGEST_PAUSE: Final = 10.0


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, Any]: ...

    def release(self) -> None: ...


class LiveStream:
    """A camera by its number, as "0", or a stream by its URL.

    A frame's time is that of its arrival by `clock`, which gives seconds since 1970 (`time.time` by
    default). `duration_us` and `frame_rate` are None, `zone` is empty, and `start_us` until the first frame
    arrives. `fingerprint`: BLAKE3, in hex, of the location alone. A stream that drops is opened again after
    pauses that grow from half a second to ten; it is given up after `patience` seconds of pauses (60 by
    default). For tests: `sleep` waits so many seconds, and `open_capture` opens the location as
    `cv2.VideoCapture` does.
    """

    seekable = False
    frame_rate: float | None = None
    zone = ""

    def __init__(
        self,
        location: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        open_capture: Callable[[str], Capture] | None = None,
        patience: float = 60.0,
    ) -> None:
        # Stored and printed, so without a password.
        self.location = without_password(location)
        self._address = location
        self.start_us: int | None = None
        self.duration_us: int | None = None
        self.fingerprint = blake3(self.location.encode(errors="surrogateescape")).hexdigest()
        self.former_fingerprint = self.fingerprint
        self._clock = clock
        self._sleep = sleep
        self._open_capture = open_capture or open_with_opencv
        self._patience = patience
        self._capture: Capture | None = None
        self._times: Clock | None = None

    def read(self, since_us: int = 0) -> Iterator[Frame | Gap]:
        """The frames as they arrive; those before `since_us` are left out.

        A second reading continues the times of the first. Where the stream dropped there is a Gap from
        the last frame to the next one, where the clock went back an empty one. Raises TrtkitError when
        the stream cannot be opened, or opened again, within `patience`.
        """
        while True:
            pixels, reopened = self._next_pixels()
            before_us = None if self._times is None else self._times.last_us
            time_us, back_us = self._time_us()
            if time_us < since_us:
                continue
            if reopened and before_us is not None and time_us > since_us:
                yield Gap(before_us, time_us, DROPPED)
            if back_us is not None and time_us > since_us:
                yield Gap(time_us, time_us, went_back(back_us))
            yield Frame(time_us, PixelPicture(pixels, bgr=True))

    def close(self) -> None:
        """Let the camera go."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _next_pixels(self) -> tuple[Array, bool]:
        """The next frame's pixels, and whether the stream had to be opened (again) for it."""
        reopened = False
        waited, pause = 0.0, _FIRST_PAUSE
        while True:
            if self._capture is None:
                self._capture = self._open_capture(self._address)
                reopened = True
            if self._capture.isOpened():
                arrived, pixels = self._capture.read()
                if arrived and pixels is not None:
                    return pixels, reopened
            self.close()
            if waited >= self._patience:
                raise TrtkitError(self._given_up(waited))
            pause = min(pause, self._patience - waited)
            self._sleep(pause)
            waited += pause
            pause = min(pause * _GROWTH, _LONGEST_PAUSE)

    def _time_us(self) -> tuple[int, int | None]:
        """The time of a frame that arrives now, and by how much the clock went back, if it did."""
        now_us = round(self._clock() * MICROSECONDS)
        if self._times is None:
            self.start_us = now_us
            self._times = Clock(zero=now_us, unit=Fraction(1, MICROSECONDS), step_us=1)
        time_us, back_us = self._times.time_us(now_us)
        # Two frames in one tick of the clock are no fault of it.
        return time_us, back_us or None

    def _given_up(self, waited: float) -> str:
        what = "camera" if self.location.isdecimal() else "stream"
        name = self.location
        if self._times is None:
            return (
                f"The {what} {name} gave no frame within {waited:g} s; check that it is "
                "switched on and reachable and that nothing else uses it."
            )
        return (
            f"The {what} {name} dropped and did not come back within {waited:g} s; check "
            "that it is switched on and reachable, then run the same command again."
        )


def without_password(location: str) -> str:
    """The location for messages: a URL without the user's name and password."""
    return re.sub(r"://[^/]*@", "://", location)


def open_with_opencv(location: str) -> Capture:
    """The camera of that number, or the stream at that URL, possibly not open."""
    import cv2

    if location.isdecimal():
        return cv2.VideoCapture(int(location))
    return cv2.VideoCapture(location)
