"""Boxes on frames: where something was detected, and which track each detection belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array

# In `Detections.tracks`: not part of a track.
UNTRACKED = -1


class Box(NamedTuple):
    """A rectangle in pixels of the frame."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height

    @property
    def centre(self) -> tuple[int, int]:
        """Across and down, in whole pixels."""
        return self.x + self.width // 2, self.y + self.height // 2

    def shared(self, other: Box) -> int:
        """The area that lies in both, in pixels."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0, across) * max(0, down)

    def overlap(self, other: Box) -> float:
        """Intersection over union, 0 to 1."""
        both = self.shared(other)
        return both / (self.area + other.area - both) if both else 0.0


@dataclass(frozen=True)
class Sighting:
    """An object on one frame: the frame's number, its time in microseconds, where the object is."""

    frame: int
    time_us: int
    box: Box


@dataclass(frozen=True, eq=False)
class Detections:
    """The N detections on one frame, as detector, tracker and evidence pass them on.

    `boxes`: float64 N x 4, x, y, width and height in pixels of the frame; `scores`: float32 N, the
    detector's confidence, 0 to 1; `tracks`: int64 N, the track of each, `UNTRACKED` before a tracker saw
    them; `merged`: bool N, whether other tracks share the same stretch of picture, so that the box is an
    estimate. `foreground`: uint8 h x w, not 0 where something moves, at any scale; None of detectors that
    do not have it. `picture`: the frame at that scale, uint8 h x w x 3, RGB. `size`: width and height of
    the frame, in pixels.
    `blind`: whether nothing could be detected, because the camera moved or the light changed.

    Raises TrtkitError for arrays of different lengths.

        detections = Detections.of([Box(10, 20, 30, 60)])
        assert len(detections) == 1 and detections.box(0).width == 30
    """

    boxes: Array
    scores: Array
    tracks: Array
    merged: Array
    foreground: Array | None = None
    size: tuple[int, int] = (0, 0)
    blind: bool = False
    picture: Array | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or any(
            of_each.shape != (count,) for of_each in (self.scores, self.tracks, self.merged)
        ):
            raise TrtkitError(
                f"Detections have {count} boxes of shape {self.boxes.shape[1:]}, {len(self.scores)} "
                f"scores, {len(self.tracks)} tracks and {len(self.merged)} flags; give N x 4 boxes and N "
                "of each."
            )

    @classmethod
    def of(
        cls,
        boxes: object,
        scores: object = None,
        tracks: object = None,
        merged: object = None,
        foreground: Array | None = None,
        size: tuple[int, int] = (0, 0),
        blind: bool = False,
        picture: Array | None = None,
    ) -> Detections:
        """Detections of any sequences; scores are 1, tracks `UNTRACKED` and nothing merged by default."""
        places = np.asarray(boxes, np.float64).reshape(-1, 4)
        count = len(places)
        return cls(
            places,
            np.ones(count, np.float32) if scores is None else np.asarray(scores, np.float32),
            np.full(count, UNTRACKED) if tracks is None else np.asarray(tracks, np.int64),
            np.zeros(count, np.bool_) if merged is None else np.asarray(merged, np.bool_),
            foreground,
            size,
            blind,
            picture,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def largest(self, limit: int) -> Detections:
        """The `limit` largest ones, in their order."""
        if len(self) <= limit:
            return self
        kept = np.sort(np.argsort(-self.boxes[:, 2] * self.boxes[:, 3], kind="stable")[:limit])
        return replace(
            self,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            tracks=self.tracks[kept],
            merged=self.merged[kept],
        )

    def window(self, box: Array) -> tuple[slice, slice]:
        """Where a box (x, y, width, height) is in `foreground` and `picture`: rows and columns."""
        if self.foreground is None:
            return slice(0, 0), slice(0, 0)
        scale = np.array(self.size, np.float64) / self.foreground.shape[1::-1]
        left, top = (max(0, int(value)) for value in box[:2] / scale)
        right, bottom = (int(np.ceil(value)) for value in (box[:2] + box[2:]) / scale)
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def box(self, place: int) -> Box:
        """One box in whole pixels."""
        x, y, width, height = (round(value) for value in self.boxes[place].tolist())
        return Box(x, y, max(1, width), max(1, height))
