"""Finding what moves: background subtraction, and boxes around what is not background."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from trtkit.tensors import Array
from trtkit.video.frames import Frame
from trtkit.video.options import IngestOptions, Method

# OpenCV marks foreground with 255 and what it holds for a shadow with 127.
FOREGROUND = 200
# More of the picture than this does not move at once: the light or the camera changed.
MOST_MOVING = 0.6
# Frames from which GMG learns before it says anything; its own default of 120 are four seconds.
GMG_FRAMES = 60


class Box(NamedTuple):
    """A rectangle in pixels of the frame."""

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        return self.width * self.height

    def shared(self, other: Box) -> int:
        """The area of both."""
        across = min(self.x + self.width, other.x + other.width) - max(self.x, other.x)
        down = min(self.y + self.height, other.y + other.height) - max(self.y, other.y)
        return max(0, across) * max(0, down)

    def overlap(self, other: Box) -> float:
        """The area of both over the area of either, 0 to 1."""
        both = self.shared(other)
        return both / (self.area + other.area - both) if both else 0.0


class MotionDetector:
    """A background model of a fixed camera. What it finds depends on the frames it saw alone."""

    def __init__(self, options: IngestOptions) -> None:
        self._options = options
        self._model = _model(options.motion)
        self._seen = 0

    def learn(self, frame: Frame) -> None:
        """See a frame without looking for objects in it."""
        self._mask(frame)

    def boxes(self, frame: Frame) -> list[Box]:
        """Boxes around what moves, from top to bottom, in pixels of the frame."""
        import cv2

        mask = self._mask(frame)
        if np.count_nonzero(mask) > MOST_MOVING * mask.size:
            return []
        # Specks go, and the parts of one object grow together.
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        # With room around it, so that at the border as well as much is added as is taken off below.
        mask = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        across = frame.picture.width / (mask.shape[1] - 2)
        down = frame.picture.height / (mask.shape[0] - 2)
        found = []
        for x, y, width, height, _ in stats[1:count]:
            left, top = round(x * across), round(y * down)
            # Without what dilating added around it.
            right, bottom = round((x + width - 2) * across), round((y + height - 2) * down)
            box = Box(left, top, right - left, bottom - top)
            if max(box.width, box.height) >= self._options.min_size:
                found.append(box)
        return sorted(found, key=lambda box: (box.y, box.x, box.width, box.height))

    def _mask(self, frame: Frame) -> Array:
        import cv2

        picture = frame.picture
        width = min(self._options.motion_width, picture.width)
        small = picture.shrunk(width, max(1, round(picture.height * width / picture.width)))
        # KNN draws from OpenCV's random numbers, which all detectors of a thread share.
        cv2.setRNGSeed(self._seen)
        self._seen += 1
        mask = self._model.apply(small)
        return np.asarray(cv2.threshold(mask, FOREGROUND, 255, cv2.THRESH_BINARY)[1])


def _model(method: Method) -> Any:
    import cv2

    if method == "mog2":
        return cv2.createBackgroundSubtractorMOG2(history=500, varThreshold=25, detectShadows=True)
    if method == "knn":
        return cv2.createBackgroundSubtractorKNN(history=500, detectShadows=True)
    return cv2.bgsegm.createBackgroundSubtractorGMG(initializationFrames=GMG_FRAMES)
