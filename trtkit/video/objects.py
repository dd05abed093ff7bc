"""Objects: what moves, cut out of the frames, each once however many frames show it unchanged.

A thing that enters or leaves the picture is one object too. Its most complete crop is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtkit.photos.antialias import reduced
from trtkit.tensors import Array
from trtkit.video.detections import Box, Sighting
from trtkit.video.frames import Frame
from trtkit.video.options import IngestOptions

# A box of the frame before that overlaps less belongs to another object.
LEAST_OVERLAP = 0.5
JPEG_QUALITY = 95

# Objects are compared as grey pictures of this side: noise and motion by a pixel average out.
COMPARED_SIDE = 32
# By how many of its pixels on each side such a picture may be shifted.
_MOST_SHIFT = 4
# Standard deviation of the blur, in such pixels. Without it an edge that moves by half a pixel counts.
_BLUR = 1.5

# At the border: the share of the smaller box that lies in the larger one, at least.
LEAST_INSIDE = 0.7
# The longer side of the larger picture, in pixels, when a part is compared with it.
PART_SIDE = 64
# Trimmed off each side of the part if anything remains: boxes are a pixel or two off, and the blur
# reaches as far.
_TRIMMED = 6
_PART_BLUR = 2.0


# Compared by identity: two may look the same at one place.
@dataclass(eq=False)
class MovingObject:
    """An object and its sightings in their order.

    `crop`: its first sighting, as JPEG; where that was at the border, the one that shows most of it.
    `crop_box`: where the crop was taken; `partial`: whether that was at the border; `leaving`: whether
    the object is at the border now.
    """

    crop: bytes
    sightings: list[Sighting]
    crop_box: Box
    partial: bool
    leaving: bool
    grey: Array = field(repr=False)

    @property
    def last_box(self) -> Box:
        return self.sightings[-1].box


class ObjectFinder:
    """Cuts objects out of successive frames and recognises those of the frame before.

    `side`: pixels that the classifier looks at; crops of larger objects are scaled down to it.
    """

    def __init__(self, options: IngestOptions, side: int) -> None:
        self._options = options
        self._side = side
        self._before: list[MovingObject] = []
        self._pixels: Array = np.empty((0, 0, 3), np.uint8)
        # At the border since their first sighting: a more complete one may follow.
        self._partial: list[MovingObject] = []

    def find(self, frame: Frame, number: int, boxes: Sequence[Box]) -> list[MovingObject]:
        """The objects whose crop is final, each returned once; `rest` has the others."""
        pixels = frame.picture.rgb() if boxes else np.empty((0, 0, 3), np.uint8)
        now = [self._object_at(pixels, Sighting(number, frame.time_us, box)) for box in boxes]
        self._before, self._pixels = now, pixels
        open_objects = [*self._partial, *(item for item in now if len(item.sightings) == 1)]
        self._partial = [item for item in open_objects if item.partial and item in now]
        return [item for item in open_objects if item not in self._partial]

    def rest(self) -> list[MovingObject]:
        """Objects that `find` still holds back, for the end of the footage or of a part of it."""
        return self._partial

    def _object_at(self, pixels: Array, sighting: Sighting) -> MovingObject:
        """The object of a sighting: one of the frame before, or a new one."""
        box, (height, width) = sighting.box, pixels.shape[:2]
        # A pixel of the small picture that the background model looks at.
        slack = width / min(self._options.motion_width, width)
        partial = at_border(box, width, height, slack)
        # Without the margin: what lies around a moving object changes.
        grey = _grey(cut_out(pixels, box, 0), (COMPARED_SIDE, COMPARED_SIDE), _BLUR)
        match = self._unchanged(box, grey) or self._crossing_border(box, pixels, partial)
        if match is None:
            return MovingObject(self._crop(pixels, box), [sighting], box, partial, partial, grey)
        match.sightings.append(sighting)
        match.leaving = partial
        if match.partial and (not partial or box.area > match.crop_box.area):
            match.crop = self._crop(pixels, box)
            match.crop_box, match.partial, match.grey = box, partial, grey
        return match

    def _unchanged(self, box: Box, grey: Array) -> MovingObject | None:
        """The object of the frame before at this place, if it looks the same."""
        overlaps = ((-item.last_box.overlap(box), item) for item in self._before)
        match = _first(pair for pair in overlaps if pair[0] <= -LEAST_OVERLAP)
        # Compared with its first sighting, so that a slow change adds up.
        if match is None or _difference(match.grey, grey) >= self._options.duplicate:
            return None
        self._before.remove(match)
        return match

    def _crossing_border(self, box: Box, pixels: Array, partial: bool) -> MovingObject | None:
        """The object of the frame before of which more, or less, is seen at the border now."""
        differences = []
        for item in self._before:
            before = item.last_box
            earlier, now = _view(self._pixels, before), _view(pixels, box)
            if item.leaving and grown(before, box):
                differences.append((part_difference(earlier, now), item))
            elif partial and shrunk(before, box):
                differences.append((part_difference(now, earlier), item))
        match = _first(pair for pair in differences if pair[0] < self._options.duplicate)
        if match is not None:
            self._before.remove(match)
        return match

    def _crop(self, pixels: Array, box: Box) -> bytes:
        return _jpeg(cut_out(pixels, box, self._options.margin), self._side)


def cut_out(pixels: Array, box: Box, margin: float) -> Array:
    """The square around a box with a margin on each side, moved and made smaller to fit the frame.

    `pixels`: uint8 height x width x 3; `margin` as a share of the box's longer side. A view.
    """
    height, width = pixels.shape[:2]
    side = round(max(box.width, box.height) * (1 + 2 * margin))
    across, down = min(side, width), min(side, height)
    left = min(max(0, round(box.x + box.width / 2 - across / 2)), width - across)
    top = min(max(0, round(box.y + box.height / 2 - down / 2)), height - down)
    return pixels[top : top + down, left : left + across]


def at_border(box: Box, width: int, height: int, slack: float) -> bool:
    """Whether a box is at most `slack` pixels from the border of a frame of that size."""
    return (
        min(box.x, box.y) <= slack
        or box.x + box.width >= width - slack
        or box.y + box.height >= height - slack
    )


def grown(before: Box, now: Box) -> bool:
    """Whether `now` is at least as large as `before` and holds most of it."""
    return now.area >= before.area and before.shared(now) >= LEAST_INSIDE * before.area


def shrunk(before: Box, now: Box) -> bool:
    """Whether `now` is smaller than `before`, which holds most of it."""
    return now.area < before.area and now.shared(before) >= LEAST_INSIDE * now.area


def part_difference(part: Array, whole: Array) -> float:
    """The root mean square difference of a picture and where it fits best in a larger one, 0 to 255.

    Both uint8 height x width x 3, at one scale; compared in grey.
    """
    scale = min(1.0, PART_SIDE / max(whole.shape[:2]))
    small, large = (
        _grey(pixels, [max(1, round(side * scale)) for side in pixels.shape[1::-1]], _PART_BLUR)
        for pixels in (part, whole)
    )
    down, across = (min(_TRIMMED, (side - 1) // 2) for side in small.shape)
    small = small[down : small.shape[0] - down, across : small.shape[1] - across]
    # A part by its area may still be a pixel wider.
    return _best_fit(small[: large.shape[0], : large.shape[1]], large)


def _difference(before: Array, now: Array) -> float:
    """The root mean square difference of two grey pictures where they fit best, 0 to 255.

    From frame to frame, a background model moves the box around an object by a pixel or two.
    """
    return _best_fit(before[_MOST_SHIFT:-_MOST_SHIFT, _MOST_SHIFT:-_MOST_SHIFT], now)


def _best_fit(small: Array, large: Array) -> float:
    import cv2

    squares = cv2.matchTemplate(large, np.ascontiguousarray(small), cv2.TM_SQDIFF)
    return float(np.sqrt(max(0.0, float(np.min(squares))) / small.size))


def _grey(pixels: Array, size: Sequence[int], blur: float) -> Array:
    """A blurred grey picture, float32, of that width and height."""
    import cv2

    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), blur))


def _view(pixels: Array, box: Box) -> Array:
    return pixels[box.y : box.y + box.height, box.x : box.x + box.width]


def _first(ranked: Iterable[tuple[float, MovingObject]]) -> MovingObject | None:
    """The object with the lowest number, the first of equal ones; None without any."""
    best = min(ranked, key=lambda pair: pair[0], default=None)
    return None if best is None else best[1]


def _jpeg(crop: Array, side: int) -> bytes:
    import simplejpeg

    encode: Any = simplejpeg.encode_jpeg
    return bytes(
        encode(reduced(crop, side), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
    )
