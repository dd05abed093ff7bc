"""Resizing at twice the speed of the bilinear filter, and close to it.

The photo is halved while it stays at least as large as asked, which leaves less than a factor of two; a
three-tap blur with the variance that the triangle filter would still add is followed by one bilinear
interpolation at the exact sub-pixel positions. Only the part of the photo that the crop shows is touched.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from trtkit.photos.decoded import DecodedPhoto
from trtkit.photos.jpeg import halvings_above
from trtkit.preprocessing import Placement, Size

# Pixels kept around the crop: one for the blur, one for the interpolation, one for rounding.
_MARGIN: Final = 3


def resampled(photo: DecodedPhoto, place: Placement, size: Size) -> npt.NDArray[np.uint8]:
    """The image of `size` (height, width) at `place` of the resized photo, H x W x 3."""
    import cv2

    halvings = min(
        halvings_above(photo.height, place.height), halvings_above(photo.width, place.width)
    )
    height_step, width_step = photo.height / place.height, photo.width / place.width
    top, left = place.top * height_step, place.left * width_step

    unit = 1 << photo.halvings
    block = 1 << (halvings - photo.halvings)
    pixels, first_row, first_column = _window(
        photo.pixels,
        (top / unit, (top + size[0] * height_step) / unit),
        (left / unit, (left + size[1] * width_step) / unit),
        block,
    )
    if block > 1:
        pixels = _shrink(pixels, block)
        unit *= block

    row_step, column_step = height_step / unit, width_step / unit
    pixels = _soften(pixels, row_step * column_step, halvings)
    # Pixel centres lie at .5 on both sides of the mapping.
    row = top / unit - first_row / block + row_step / 2 - 0.5
    column = left / unit - first_column / block + column_step / 2 - 0.5
    mapping = np.array([[column_step, 0, column], [0, row_step, row]])
    image = cv2.warpAffine(
        pixels,
        mapping,
        (size[1], size[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(image, np.uint8)


def _window(
    pixels: npt.NDArray[np.uint8],
    rows: tuple[float, float],
    columns: tuple[float, float],
    block: int,
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The pixels that the crop needs, contiguous, and the row and column they start at.

    They start at a multiple of `block`, so that halving averages the same pixels as it would
    without the crop.
    """
    bounds = []
    for (start, stop), length in zip((rows, columns), pixels.shape[:2], strict=True):
        first = max(0, math.floor(start) - _MARGIN * block) // block * block
        last = min(length, math.ceil(stop) + _MARGIN * block)
        # Full blocks, except at the photo's own edge.
        bounds.append((first, min(length, first + -(-(last - first) // block) * block)))
    (top, bottom), (left, right) = bounds
    return np.ascontiguousarray(pixels[top:bottom, left:right]), top, left


def _shrink(pixels: npt.NDArray[np.uint8], block: int) -> npt.NDArray[np.uint8]:
    """The mean of every `block` x `block` pixels; an incomplete block repeats its last pixels."""
    import cv2

    rows, columns = pixels.shape[:2]
    padded = cv2.copyMakeBorder(pixels, 0, -rows % block, 0, -columns % block, cv2.BORDER_REPLICATE)
    size = (padded.shape[1] // block, padded.shape[0] // block)
    return np.asarray(cv2.resize(padded, size, interpolation=cv2.INTER_AREA), np.uint8)


def _soften(
    pixels: npt.NDArray[np.uint8], squared_step: float, halvings: int
) -> npt.NDArray[np.uint8]:
    """Blur `pixels` by what antialiasing still lacks before bilinear interpolation.

    A triangle filter of half-width s has the variance s * s / 6. Interpolation contributes 1/6,
    the halvings contribute that of a box of their width. Three taps add the rest.
    """
    import cv2

    missing = (squared_step - 1) / 6 - (1 - 0.25**halvings) / 12
    if missing <= 0.01:
        return pixels
    taps = np.array([missing / 2, 1 - missing, missing / 2])
    softened = cv2.sepFilter2D(pixels, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(softened, np.uint8)
