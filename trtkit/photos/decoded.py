"""What every decoder gives, and the checks before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from trtkit.errors import ImageError
from trtkit.photos.memory import check_compression

# Pillow refuses more than this as well (twice its MAX_IMAGE_PIXELS), so all decoders agree.
MAX_PIXELS: Final = 178_956_970


@dataclass(frozen=True)
class DecodedPhoto:
    """A decoded photo, upright.

    `pixels` is uint8, H x W x 3, RGB, where H and W are `height` and `width` halved `halvings`
    times and rounded up. It may be a view that is not contiguous.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int
    halvings: int = 0


def check_size(height: int, width: int, max_pixels: int, data: bytes) -> None:
    """Raise ImageError for a photo of more than `max_pixels`, or of far more than `data` can hold."""
    if height * width > max_pixels:
        raise ImageError(
            f"The photo has {width} x {height} pixels, more than the {max_pixels} that are "
            f"decoded; make it smaller, or raise max_pixels if you trust the file."
        )
    check_compression(height, width, len(data))


def upright(
    pixels: npt.NDArray[np.uint8], height: int, width: int, halvings: int, orientation: int
) -> DecodedPhoto:
    """The photo turned by its Exif orientation, 1 to 8, as a view."""
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels, height, width = pixels.transpose(1, 0, 2), width, height
    return DecodedPhoto(pixels, height, width, halvings)
