"""A Kalman filter with constant velocity for the centre of a box, and a slower one for its size.

Both axes have the same noise, so that they share one covariance. Noise grows with the box: near things move
more pixels a second (Bewley et al., Simple Online and Realtime Tracking, 2016, use the same model).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, sqrt

from trtkit.video.detections import Box

# All in lengths of the box, the geometric mean of its sides. A walking person changes its speed by about
# its own length a second in each second.
_ACCELERATION = 1.0
_SPEED = 1.5
_CENTRE = 0.08
# Arms and legs change the box of a walking person by a quarter.
_SIZE = 0.25
# How fast the size of a thing changes, as it comes near.
_GROWTH = 0.12


@dataclass
class BoxFilter:
    """The estimate of a moving box: centre, width and height in pixels.

    `across` and `down`: its speed in pixels a second. `place`, `cross` and `speed`: the covariance of
    centre and speed on each axis; `size`: the variance of the sides, as a share of them.
    """

    x: float
    y: float
    width: float
    height: float
    across: float = 0.0
    down: float = 0.0
    place: float = 0.0
    cross: float = 0.0
    speed: float = 0.0
    size: float = _SIZE**2

    @classmethod
    def at(cls, x: float, y: float, width: float, height: float) -> BoxFilter:
        """The filter of a box that was seen once, with its centre at `x`, `y`."""
        length = sqrt(width * height)
        return cls(x, y, width, height, place=(_CENTRE * length) ** 2, speed=(_SPEED * length) ** 2)

    @property
    def length(self) -> float:
        return sqrt(self.width * self.height)

    @property
    def area(self) -> float:
        return self.width * self.height

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """Left, top, width and height."""
        return self.x - self.width / 2, self.y - self.height / 2, self.width, self.height

    @property
    def box(self) -> Box:
        left, top, width, height = self.corners
        return Box(round(left), round(top), max(1, round(width)), max(1, round(height)))

    @property
    def uncertainty(self) -> float:
        """The standard deviation of the centre, in pixels."""
        return sqrt(self.place)

    def distance(self, x: float, y: float) -> float:
        """From the centre, in pixels."""
        return hypot(x - self.x, y - self.y)

    def predict(self, seconds: float) -> None:
        """Move the estimate on by that time."""
        noise = (_ACCELERATION * self.length) ** 2
        self.x += self.across * seconds
        self.y += self.down * seconds
        self.place += 2 * seconds * self.cross + seconds**2 * self.speed + noise * seconds**3 / 3
        self.cross += seconds * self.speed + noise * seconds**2 / 2
        self.speed += noise * seconds
        self.size += _GROWTH**2 * seconds

    def correct(self, x: float, y: float, doubt: float = 1.0) -> None:
        """Take in a measured centre, whose error is `doubt` times the usual one."""
        total = self.place + (doubt * _CENTRE * self.length) ** 2
        gain, speed_gain = self.place / total, self.cross / total
        right, below = x - self.x, y - self.y
        self.x += gain * right
        self.y += gain * below
        self.across += speed_gain * right
        self.down += speed_gain * below
        self.speed -= speed_gain * self.cross
        self.cross *= 1 - gain
        self.place *= 1 - gain

    def resize(self, width: float, height: float, doubt: float = 1.0) -> None:
        """Take in a measured size."""
        gain = self.size / (self.size + (doubt * _SIZE) ** 2)
        self.width += gain * (width - self.width)
        self.height += gain * (height - self.height)
        self.size *= 1 - gain

    def place_at(self, x: float, y: float, width: float, height: float) -> None:
        """Take a box as it is, and keep the speed."""
        self.x, self.y, self.width, self.height = x, y, width, height

    def slow(self, share: float) -> None:
        """Keep only a share of the speed: what is not seen may have stopped."""
        self.across *= share
        self.down *= share
