"""Resizing as Pillow and torchvision do it, bilinear or bicubic, with a filter as wide as the reduction.

Pillow computes it, and the pixels are Pillow's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from trtkit.preprocessing import Placement, Size

if TYPE_CHECKING:
    from PIL import Image

# Pixels of a photo, before or after, that Pillow resizes as a whole: its pixels exactly. A bicubic filter
# overshoots, so that the order of the two steps counts.
_SMALL: Final = 1 << 17
_WHOLE: Final = 1 << 25
# Pixels that Pillow copies at a time.
_BAND: Final = 1 << 21


def resampled(
    pixels: npt.NDArray[np.uint8],
    place: Placement,
    size: Size,
    *,
    grey: bool = False,
    bicubic: bool = False,
) -> npt.NDArray[np.uint8]:
    """The image of `size` (height, width) at `place` of the resized photo, contiguous.

    `pixels`: the photo, H x W x 3, of any strides. `grey` converts it before it is resized.
    """
    height, width = pixels.shape[:2]
    if max(height, place.height) * max(width, place.width) > (_WHOLE if bicubic else _SMALL):
        return _windows(pixels, place, size, grey=grey, bicubic=bicubic)
    # Pillow chooses the order of its two steps by the sizes, so it gets all of the photo.
    image = _image(pixels, grey).resize((place.width, place.height), _kernel(bicubic))
    image = image.crop((place.left, place.top, place.left + size[1], place.top + size[0]))
    result = np.empty((*size, 3), np.uint8)
    result[:] = np.asarray(image).reshape(*size, -1)
    return result


def _windows(
    pixels: npt.NDArray[np.uint8], place: Placement, size: Size, *, grey: bool, bicubic: bool
) -> npt.NDArray[np.uint8]:
    """The same of a larger photo, or one so long that all of it resized would be large.

    Only what the crop needs is resized, in bands of its rows, in two thirds of the time. Pillow takes
    positions in single precision, so that now and then a level is rounded the other way.
    """
    rows = _Axis.of(pixels.shape[0], place.height, place.top, 2 if bicubic else 1)
    columns = _Axis.of(pixels.shape[1], place.width, place.left, 2 if bicubic else 1)
    image = np.empty((*size, 3), np.uint8)
    first, last, across = columns.window(0, size[1])
    for start, stop in _bands(size[0], rows.step * (last - first)):
        top, bottom, down = rows.window(start, stop)
        band = _image(pixels[top:bottom, first:last], grey)
        resized = _resized(band, (stop - start, size[1]), down, across, bicubic=bicubic)
        image[start:stop] = resized[:, :, None] if grey else resized
    return image


def reduced(pixels: npt.NDArray[np.uint8], shorter: int) -> npt.NDArray[np.uint8]:
    """The photo with its shorter side reduced to `shorter` pixels; as it is where that is no less."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    if side <= shorter:
        return np.ascontiguousarray(pixels)
    size = (shorter * height // side, shorter * width // side)
    return resampled(pixels, Placement(*size, 0, 0), size)


def luma(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """An image in grey, H x W x 3."""
    return np.repeat(np.asarray(_image(image, True))[:, :, None], 3, axis=2)


@dataclass(frozen=True)
class _Axis:
    """One side of the photo, of `side` pixels: `step` of them make one of the resized photo.

    `support`: half the filter's width, in pixels of the smaller of the two photos.
    """

    side: int
    step: float
    offset: float
    support: int

    @classmethod
    def of(cls, side: int, resized: int, offset: int, support: int) -> _Axis:
        step = side / resized
        return cls(side, step, offset * step, support)

    def window(self, start: int, stop: int) -> tuple[int, int, tuple[float, float]]:
        """The pixels that the image's pixels `start` to `stop` need, and where they lie among them."""
        begin, end = self.offset + start * self.step, self.offset + stop * self.step
        # Half the filter on each side, and one for rounding.
        reach = self.support * max(1.0, self.step) + 1
        first, last = max(0, math.floor(begin - reach)), min(self.side, math.ceil(end + reach))
        return first, last, (begin - first, min(end, self.side) - first)


def _bands(rows: int, pixels_per_row: float) -> list[tuple[int, int]]:
    count = max(1, min(rows, math.ceil(rows * pixels_per_row / _BAND)))
    edges = [rows * number // count for number in range(count + 1)]
    return list(pairwise(edges))


def _image(pixels: npt.NDArray[np.uint8], grey: bool) -> Image.Image:
    from PIL import Image

    image = Image.fromarray(pixels)
    return image.convert("L") if grey else image


def _resized(
    image: Image.Image,
    size: Size,
    rows: tuple[float, float],
    columns: tuple[float, float],
    *,
    bicubic: bool,
) -> npt.NDArray[np.uint8]:
    box = (columns[0], rows[0], columns[1], rows[1])
    resized = image.resize((size[1], size[0]), _kernel(bicubic), box)
    return np.asarray(resized)


def _kernel(bicubic: bool) -> Image.Resampling:
    from PIL import Image

    return Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR
