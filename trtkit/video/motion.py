"""Finding what moves: background subtraction, and boxes around the foreground."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Box, Detections
from trtkit.video.frames import MICROSECONDS, Frame
from trtkit.video.options import IngestOptions, Method

# OpenCV marks foreground with 255 and shadows with 127.
FOREGROUND = 200
# A larger share of the picture never moves at once: the light or the camera changed.
MOST_MOVING = 0.6
# Frames from which GMG learns before it reports anything; its default of 120 takes four seconds.
GMG_FRAMES = 60
# In this time the background takes in what came to rest, whatever the frame rate. MOG2 takes a thing for
# background after a tenth of it.
LEARNED_SECONDS = 50.0
# Squared distance from the background, in variances, from which a pixel is foreground. With half of that
# a wall is foreground when a cloud passes.
_THRESHOLD = 49.0
# Pictures of the empty scene, from which another detector can start: their number, and how far apart.
_EMPTY_PICTURES = 6
_EMPTY_STEP_US = 500_000
# The light is compared on every so many pixels across and down. A smaller change is left to the model, and
# with a larger one it is another scene.
_SPARSE = 4
_LEAST_GAIN = 0.01
_MOST_GAIN = 4.0
# From one frame to the next only a switch changes the light by more.
_SWITCHED = 1.25
# After that the background is learned anew for so long.
_SWITCHED_US = 1_000_000
# Width and height of what joins the parts of one thing, in pixels of the small picture: people stand.
_JOINED = (3, 7)


class MotionDetector:
    """A background model of a fixed camera. What it finds depends only on the frames that it has seen.

    `empty`: pictures of the scene without anything that moves, as `typical` or the `state` of another
    detector gives them; none where nothing is known.
    """

    def __init__(self, options: IngestOptions, empty: Sequence[Array] = ()) -> None:
        self._options = options
        self._model = _model(options.motion)
        self._frames = 0
        self._last_us: int | None = None
        self._step: int | None = None
        self._known = bool(empty)
        self._reference = empty[0] if empty else None
        self._gain: Array | None = None
        self._blind_until_us = 0
        self._empty = deque(empty, maxlen=_EMPTY_PICTURES)
        if empty:
            for number in range(GMG_FRAMES):
                self._apply(empty[number % len(empty)], 1 / (number + 1))

    def detect(self, frame: Frame) -> Detections:
        """What moves, from top to bottom, with foreground and picture; nothing where everything does."""
        import cv2

        mask, small = self._mask(frame)
        size = (frame.picture.width, frame.picture.height)
        learning = frame.time_us < self._blind_until_us
        if learning or np.count_nonzero(mask) > MOST_MOVING * mask.size:
            return Detections.of([], size=size, blind=True)
        # Remove specks, then join the parts of one object.
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        # With room around it, so that dilation adds as much at the border as is taken off below.
        room = max(_JOINED)
        joined = cv2.copyMakeBorder(mask, room, room, room, room, cv2.BORDER_CONSTANT)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, _JOINED)
        joined = cv2.dilate(
            cv2.morphologyEx(joined, cv2.MORPH_CLOSE, kernel), np.ones((3, 3), np.uint8)
        )
        count, _, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
        across, down = size[0] / mask.shape[1], size[1] / mask.shape[0]
        boxes = []
        for x, y, width, height, _ in stats[1:count]:
            # Without what dilation added.
            left, top = round((x + 1 - room) * across), round((y + 1 - room) * down)
            right = round((x + width - 1 - room) * across)
            bottom = round((y + height - 1 - room) * down)
            box = Box(left, top, right - left, bottom - top)
            if max(box.width, box.height) >= self._options.min_size:
                boxes.append(box)
        ordered = sorted(boxes, key=lambda box: (box.y, box.x, box.width, box.height))
        return Detections.of(ordered, foreground=np.asarray(mask), size=size, picture=small)

    def state(self) -> bytes:
        """What a detector of the next stretch of footage starts from: pictures of the empty scene."""
        import msgspec

        pictures = [(picture.shape, picture.tobytes()) for picture in self._empty]
        return zlib.compress(msgspec.msgpack.encode(pictures), 1)

    @staticmethod
    def empty_in(state: bytes) -> list[Array]:
        """The pictures in the `state` of a detector, uint8 height x width x 3."""
        import msgspec

        pictures = msgspec.msgpack.decode(zlib.decompress(state)) if state else []
        return [np.frombuffer(pixels, np.uint8).reshape(shape) for shape, pixels in pictures]

    def _mask(self, frame: Frame) -> tuple[Array, Array]:
        """Where something moves, and the picture in the light of the first one, of the same size."""
        import cv2

        small = self._lit(small_picture(frame, self._options.motion_width), frame.time_us)
        marked = self._apply(small, self._rate(frame.time_us))
        if frame.time_us // _EMPTY_STEP_US != self._step:
            self._step = frame.time_us // _EMPTY_STEP_US
            self._keep(small, marked)
        return np.asarray(cv2.threshold(marked, FOREGROUND, 255, cv2.THRESH_BINARY)[1]), small

    def _lit(self, small: Array, time_us: int) -> Array:
        """A picture in the light of the first one: clouds and dusk change all of it alike."""
        import cv2

        if self._reference is None:
            self._reference = small
        first = self._reference[::_SPARSE, ::_SPARSE].reshape(-1, 3).astype(np.float32) + 1
        now = small[::_SPARSE, ::_SPARSE].reshape(-1, 3).astype(np.float32) + 1
        gain = np.median(first / now, axis=0).clip(1 / _MOST_GAIN, _MOST_GAIN)
        before, self._gain = self._gain, gain
        if before is not None and np.abs(np.log(gain / before)).max() > np.log(_SWITCHED):
            # All that is known is how it looked before.
            self._model, self._known = _model(self._options.motion), False
            self._reference, self._gain, self._frames = small, np.ones(3), 0
            self._empty.clear()
            self._blind_until_us = time_us + _SWITCHED_US
            return small
        if np.abs(gain - 1).max() < _LEAST_GAIN:
            return small
        return np.asarray(cv2.multiply(small, np.array([*gain, 0.0])))

    def _keep(self, small: Array, marked: Array) -> None:
        """Keep a picture of the empty scene: where something moves, it is as it was before."""
        import cv2

        before = self._empty[-1] if self._empty else small
        moving = cv2.dilate(marked, np.ones((5, 5), np.uint8)) > 0
        self._empty.append(np.where(moving[:, :, None], before, small))

    def _apply(self, small: Array, rate: float) -> Any:
        import cv2

        # KNN uses OpenCV's random numbers, which all detectors of a thread share.
        cv2.setRNGSeed(self._frames)
        self._frames += 1
        if self._options.motion == "gmg":
            return self._model.apply(small)
        return self._model.apply(small, learningRate=rate)

    def _rate(self, time_us: int) -> float:
        """The share of a frame in the background, by the time since the one before."""
        since = 0 if self._last_us is None else time_us - self._last_us
        self._last_us = time_us
        rate = min(1.0, since / MICROSECONDS) / LEARNED_SECONDS
        return rate if self._known else max(rate, 1 / (2 * self._frames + 1))


def small_picture(frame: Frame, width: int) -> Array:
    """A frame as background models see it: at most so wide, uint8 height x width x 3, RGB."""
    if frame.small is not None:
        return frame.small
    picture = frame.picture
    across = min(width, picture.width)
    return picture.shrunk(across, max(1, round(picture.height * across / picture.width)))


def typical(pictures: Sequence[Array]) -> list[Array]:
    """What pictures of one size show most of the time: their median. Nothing without any."""
    return [np.median(np.stack(pictures), axis=0).astype(np.uint8)] if pictures else []


def _model(method: Method) -> Any:
    import cv2

    if method == "mog2":
        model = cv2.createBackgroundSubtractorMOG2(
            history=500, varThreshold=_THRESHOLD, detectShadows=True
        )
        # What a new pixel has: a codec may hold still what the next key frame moves.
        model.setVarMin(model.getVarInit())
        return model
    if method == "knn":
        return cv2.createBackgroundSubtractorKNN(history=500, detectShadows=True)
    return cv2.bgsegm.createBackgroundSubtractorGMG(initializationFrames=GMG_FRAMES)
