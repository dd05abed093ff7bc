"""Finding what moves: background subtraction, and boxes around the foreground."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Box
from trtkit.video.frames import Frame
from trtkit.video.options import IngestOptions, Method

# OpenCV marks foreground with 255 and shadows with 127.
FOREGROUND = 200
# A larger share of the picture never moves at once: the light or the camera changed.
MOST_MOVING = 0.6
# Frames from which GMG learns before it reports anything; its default of 120 takes four seconds.
GMG_FRAMES = 60


class MotionDetector:
    """A background model of a fixed camera. Its boxes depend only on the frames it has seen."""

    def __init__(self, options: IngestOptions) -> None:
        self._options = options
        self._model = _model(options.motion)
        self._frames = 0

    def learn(self, frame: Frame) -> None:
        """Update the model by a frame without looking for objects."""
        self._mask(frame)

    def boxes(self, frame: Frame) -> list[Box]:
        """Boxes around what moves, from top to bottom, in pixels of the frame."""
        import cv2

        mask = self._mask(frame)
        if np.count_nonzero(mask) > MOST_MOVING * mask.size:
            return []
        # Remove specks, then join the parts of one object.
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        # With room around it, so that dilation adds as much at the border as is taken off below.
        mask = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        across = frame.picture.width / (mask.shape[1] - 2)
        down = frame.picture.height / (mask.shape[0] - 2)
        boxes = []
        for x, y, width, height, _ in stats[1:count]:
            left, top = round(x * across), round(y * down)
            # Without what dilation added.
            right, bottom = round((x + width - 2) * across), round((y + height - 2) * down)
            box = Box(left, top, right - left, bottom - top)
            if max(box.width, box.height) >= self._options.min_size:
                boxes.append(box)
        return sorted(boxes, key=lambda box: (box.y, box.x, box.width, box.height))

    def _mask(self, frame: Frame) -> Array:
        import cv2

        picture = frame.picture
        width = min(self._options.motion_width, picture.width)
        small = picture.shrunk(width, max(1, round(picture.height * width / picture.width)))
        # KNN uses OpenCV's random numbers, which all detectors of a thread share.
        cv2.setRNGSeed(self._frames)
        self._frames += 1
        mask = self._model.apply(small)
        return np.asarray(cv2.threshold(mask, FOREGROUND, 255, cv2.THRESH_BINARY)[1])


def _model(method: Method) -> Any:
    import cv2

    if method == "mog2":
        return cv2.createBackgroundSubtractorMOG2(history=500, varThreshold=25, detectShadows=True)
    if method == "knn":
        return cv2.createBackgroundSubtractorKNN(history=500, detectShadows=True)
    return cv2.bgsegm.createBackgroundSubtractorGMG(initializationFrames=GMG_FRAMES)
