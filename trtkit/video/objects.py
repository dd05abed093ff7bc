"""Objects: what moves cut out of the frames, each once however many frames show it the same.

A thing that comes into the picture, or leaves it, is one object as well, of which the picture is kept on
which most of it is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtkit.tensors import Array
from trtkit.video.border import at_border, difference, grown, shrunk
from trtkit.video.frames import Frame
from trtkit.video.motion import Box
from trtkit.video.options import IngestOptions

# Of the frame before, what overlaps less is something else.
LEAST_OVERLAP = 0.5
# Objects are compared as grey pictures of this side: noise averages out, motion by a pixel as well.
COMPARED_SIDE = 32
JPEG_QUALITY = 95
# By how many of its pixels on each side such a picture may lie elsewhere.
_MOST_SHIFT = 4
# Of the blur, in such pixels, without which an edge that moves by half of one counts.
_BLUR = 1.5


@dataclass(frozen=True)
class Sighting:
    """An object on one frame: the frame's number, its time, where it is."""

    frame: int
    time_us: int
    box: Box


# Told apart by which it is: two may look the same at one place.
@dataclass(eq=False)
class Found:
    """An object and the frames it was seen on, in their order.

    `crop`: its first sight, as JPEG, or where that was at the border the one on which most is seen.
    `shown`: where that was, `partial`: and whether at the border; `leaving`: it is there now.
    """

    crop: bytes
    sightings: list[Sighting]
    shown: Box
    partial: bool
    leaving: bool
    grey: Array = field(repr=False)


class ObjectFinder:
    """Cuts objects out of successive frames and knows those of the frame before again.

    `side`: pixels that the classifier looks at; larger objects are kept in that size.
    """

    def __init__(self, options: IngestOptions, side: int) -> None:
        self._options = options
        self._side = side
        self._before: list[Found] = []
        self._pixels: Array = np.empty((0, 0, 3), np.uint8)
        # At the border since they were first seen: there may be a better sight of them.
        self._partial: list[Found] = []

    def find(self, frame: Frame, number: int, boxes: Sequence[Box]) -> list[Found]:
        """The objects of which no better picture will come, each once; see `rest`.

        What is at these places and was not on the frame before is new; the others are seen again.
        """
        pixels = frame.picture.rgb() if boxes else np.empty((0, 0, 3), np.uint8)
        now = [self._seen(pixels, Sighting(number, frame.time_us, box)) for box in boxes]
        self._before, self._pixels = now, pixels
        known = [*self._partial, *(found for found in now if len(found.sightings) == 1)]
        self._partial = [found for found in known if found.partial and found in now]
        return [found for found in known if found not in self._partial]

    def rest(self) -> list[Found]:
        """Those that `find` still waits with, for the end of the footage or of a part of it."""
        return self._partial

    def _seen(self, pixels: Array, sighting: Sighting) -> Found:
        """The object of a sighting: one of the frame before, or a new one."""
        box, (height, width) = sighting.box, pixels.shape[:2]
        # A pixel of the small picture that the background model looks at.
        slack = width / min(self._options.motion_width, width)
        partial = at_border(box, width, height, slack)
        # Without the margin: what lies around a moving object changes.
        grey = _grey(cut_out(pixels, box, 0))
        found = self._known(box, grey) or self._passing(box, pixels, partial)
        if found is None:
            crop = _jpeg(cut_out(pixels, box, self._options.margin), self._side)
            return Found(crop, [sighting], box, partial, partial, grey)
        found.sightings.append(sighting)
        found.leaving = partial
        if found.partial and (not partial or box.area > found.shown.area):
            found.crop = _jpeg(cut_out(pixels, box, self._options.margin), self._side)
            found.shown, found.partial, found.grey = box, partial, grey
        return found

    def _passing(self, box: Box, pixels: Array, partial: bool) -> Found | None:
        """The object that was there before, where more or less of it is seen at the border than was."""
        best = None
        for found in self._before:
            before = found.sightings[-1].box
            earlier, now = _view(self._pixels, before), _view(pixels, box)
            if found.leaving and grown(before, box):
                apart = difference(earlier, now)
            elif partial and shrunk(before, box):
                apart = difference(now, earlier)
            else:
                continue
            if apart < self._options.duplicate and (best is None or apart < best[0]):
                best = (apart, found)
        if best is None:
            return None
        self._before.remove(best[1])
        return best[1]

    def _known(self, box: Box, grey: Array) -> Found | None:
        """The object that was there before, when it looks the same; no two find the same one."""
        best = None
        for found in self._before:
            overlap = found.sightings[-1].box.overlap(box)
            if overlap >= LEAST_OVERLAP and (best is None or overlap > best[0]):
                best = (overlap, found)
        # Compared with its first sight, so that a slow change does not pass for none.
        if best is None or _difference(best[1].grey, grey) >= self._options.duplicate:
            return None
        self._before.remove(best[1])
        return best[1]


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


def _view(pixels: Array, box: Box) -> Array:
    return pixels[box.y : box.y + box.height, box.x : box.x + box.width]


def _difference(before: Array, now: Array) -> float:
    """The root mean square difference of two grey pictures where they fit best, 0 to 255.

    A background model puts a box around the same object a pixel or two to the side from frame to frame.
    """
    import cv2

    inner = before[_MOST_SHIFT:-_MOST_SHIFT, _MOST_SHIFT:-_MOST_SHIFT]
    squares = cv2.matchTemplate(now, inner, cv2.TM_SQDIFF)
    return float(np.sqrt(max(0.0, float(np.min(squares))) / inner.size))


def _grey(crop: Array) -> Array:
    """A small grey picture of it, float32."""
    import cv2

    side = (COMPARED_SIDE, COMPARED_SIDE)
    small = cv2.resize(np.ascontiguousarray(crop), side, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), _BLUR))


def _jpeg(crop: Array, side: int) -> bytes:
    import cv2
    import simplejpeg

    height, width = crop.shape[:2]
    if min(height, width) > side:
        scale = side / min(height, width)
        size = (round(width * scale), round(height * scale))
        crop = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    encode: Any = simplejpeg.encode_jpeg
    pixels = np.ascontiguousarray(crop)
    return bytes(encode(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444"))
