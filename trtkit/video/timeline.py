"""From the times that a container or a clock gives to times that always grow."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from trtkit.video.frames import MICROSECONDS


@dataclass
class Clock:
    """From the container's times to those of the footage, which always grow.

    `zero`: the first frame's time, in `unit` of a second, as all that it is given; `step_us`: the
    usual time from frame to frame.
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
        """So many units in microseconds, rounded; without any, the usual time between frames."""
        if not ticks:
            return self.step_us if ticks is None else 0
        return round(ticks * self.unit * MICROSECONDS)

    def time_us(self, pts: int) -> tuple[int, int | None]:
        """The time of the next frame, and by how much the clock went back if it did not go on."""
        time = self.us(pts)
        back = None
        if self.last_us is not None and time <= self.last_us:
            back = self.last_us - time
            self.shift_us += self.last_us + self.step_us - time
            time = self.last_us + self.step_us
        self.last_us = time
        return time, back


def went_back(microseconds: int) -> str:
    """The reason of a gap where a clock did not go on."""
    if microseconds == 0:
        return "the clock stood still"
    return f"the clock went back by {microseconds / MICROSECONDS:g} s"
