"""A track that has not ended: where it is expected, where it was, and whether it is worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import hypot

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Box, Sighting
from trtkit.video.frames import MICROSECONDS
from trtkit.video.tracking.colours import Colours
from trtkit.video.tracking.kalman import BoxFilter
from trtkit.video.tracking.matching import areas, centres
from trtkit.video.tracking.options import TrackingOptions

# A track with fewer sightings is tentative: it ends when it is not seen once.
CONFIRMED = 3
# In lengths a second: people walk more than one.
_RESTING = 0.3
# How far a track went is measured between parts of it.
_PARTS = 5


@dataclass(eq=False)
class RunningTrack:
    """`measured`: how many of its sightings count; those behind are guesses among other tracks.

    `merged`: whether others shared its detection on the last frame. `colours`: of pictures of it alone.
    `apart_us`: since when it is detected as several things side by side.
    """

    id: int
    filter: BoxFilter
    sightings: list[Sighting] = field(default_factory=list)
    measured: int = 0
    merged: bool = False
    colours: Colours = field(default_factory=Colours)
    apart_us: int | None = None

    @property
    def confirmed(self) -> bool:
        return len(self.sightings) >= CONFIRMED

    @property
    def rests(self) -> bool:
        """Whether it stands still; a track that is not confirmed never does."""
        speed = hypot(self.filter.across, self.filter.down)
        return self.confirmed and speed < _RESTING * self.filter.length

    @property
    def last_us(self) -> int:
        """When it was on a frame last, surely or by a guess."""
        return self.sightings[-1].time_us

    @property
    def measured_us(self) -> int:
        """When it was surely seen last."""
        return self.sightings[self.measured - 1].time_us if self.measured else -1

    @property
    def expected(self) -> Array:
        """Its box where it is expected, float64: x, y, width, height."""
        return np.array(self.filter.corners)

    def see(
        self, frame: int, time_us: int, box: Box, between: Sequence[tuple[int, int]], *, sure: bool
    ) -> None:
        """Add a sighting, and those on the frames `between` (number, time) on which it was not seen."""
        if self.sightings:
            last = self.sightings[-1]
            for number, moment in between:
                if last.time_us < moment < time_us:
                    share = (moment - last.time_us) / (time_us - last.time_us)
                    sides = (round(a + share * (b - a)) for a, b in zip(last.box, box, strict=True))
                    self.sightings.append(Sighting(number, moment, Box(*sides)))
        self.sightings.append(Sighting(frame, time_us, box))
        if sure:
            self.measured = len(self.sightings)

    def take_over(self, later: RunningTrack, between: Sequence[tuple[int, int]]) -> None:
        """Continue as `later`, which turned out to be the same thing."""
        first, *rest = later.sightings
        del self.sightings[self.measured :]
        while self.sightings[-1].frame >= first.frame:
            self.sightings.pop()
        self.see(first.frame, first.time_us, first.box, between, sure=True)
        self.sightings += rest
        self.measured = len(self.sightings) - len(later.sightings) + later.measured
        self.filter, self.merged = later.filter, later.merged

    def complete(self, options: TrackingOptions) -> tuple[Sighting, ...]:
        """Its sightings when it ends, none where it is too short or went nowhere."""
        sightings = self.sightings[: self.measured]
        if len(sightings) < CONFIRMED:
            return ()
        seconds = (sightings[-1].time_us - sightings[0].time_us) / MICROSECONDS
        boxes = np.array([sighting.box for sighting in sightings], np.float64)
        length = float(np.median(np.sqrt(areas(boxes))))
        # Between the means of parts: a box that trembles stays where it is.
        parts = np.array_split(centres(boxes), min(_PARTS, len(boxes)))
        places = np.stack([part.mean(axis=0) for part in parts])
        travel = float(np.linalg.norm(places.max(axis=0) - places.min(axis=0)))
        if seconds < options.least_seconds or travel < options.least_travel * length:
            return ()
        return tuple(sightings)
