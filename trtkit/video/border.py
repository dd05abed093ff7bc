"""Things at the border of the picture: part of one is seen, more of it from frame to frame, or less."""

from __future__ import annotations

import numpy as np

from trtkit.tensors import Array
from trtkit.video.motion import Box

# How much of the smaller box lies in the larger one.
LEAST_INSIDE = 0.7
# The longer side of the larger picture, in pixels, when two are compared.
COMPARED_SIDE = 64
# What is left out on each side of the smaller one, where that leaves anything: boxes are a pixel or two
# off, and so far the blur comes.
TRIMMED = 6
# Of the blur, in such pixels, without which an edge that moves by half of one counts.
BLUR = 2.0


def at_border(box: Box, width: int, height: int, slack: float) -> bool:
    """Whether a box is no further than `slack` pixels from the border of a frame of that size."""
    return (
        min(box.x, box.y) <= slack
        or box.x + box.width >= width - slack
        or box.y + box.height >= height - slack
    )


def grown(before: Box, now: Box) -> bool:
    """Whether all that was in `before` is in `now`, which is as large or larger."""
    return now.area >= before.area and before.shared(now) >= LEAST_INSIDE * before.area


def shrunk(before: Box, now: Box) -> bool:
    """Whether `now` is a part of `before`."""
    return now.area < before.area and now.shared(before) >= LEAST_INSIDE * now.area


def difference(part: Array, whole: Array) -> float:
    """The root mean square difference of a picture and where it fits best in a larger one, 0 to 255.

    Both uint8 height x width x 3, at one scale; compared in grey.
    """
    import cv2

    scale = min(1.0, COMPARED_SIDE / max(whole.shape[:2]))
    small, large = _grey(part, scale), _grey(whole, scale)
    down, across = (min(TRIMMED, (side - 1) // 2) for side in small.shape)
    small = small[down : small.shape[0] - down, across : small.shape[1] - across]
    # What is a part by its area may still be a pixel wider.
    small = small[: large.shape[0], : large.shape[1]]
    squares = cv2.matchTemplate(large, np.ascontiguousarray(small), cv2.TM_SQDIFF)
    return float(np.sqrt(max(0.0, float(np.min(squares))) / small.size))


def _grey(pixels: Array, scale: float) -> Array:
    import cv2

    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), BLUR))
