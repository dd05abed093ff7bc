"""From a photo's file to the uint8 image that an engine takes.

The geometry is torchvision's `Resize(resize)` followed by `CenterCrop((height, width))`, and the
filter comes close to its antialiased bilinear one at a third of the cost: the photo is halved while
it stays at least as large as asked, which leaves less than a factor of two; a three-tap blur with
the variance that the triangle filter would still add is followed by one bilinear interpolation at
the exact sub-pixel positions. Only the part of the photo that the crop shows is touched.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from trtkit.errors import ImageError, os_reason
from trtkit.photos.decode import MAX_PIXELS, DecodedPhoto, decode, halvings_above
from trtkit.preprocessing import Preprocessing

MAX_BYTES: Final = 512 * 1024 * 1024

# Pixels kept around the crop: one for the blur, one for the interpolation, one for rounding.
_MARGIN: Final = 3

# Should a pipe take a file's place just now, opening it must not wait for a writer.
_READING: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: str | Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of the regular file at `path`, or of the one that it links to.

    Raises ImageError, without the path in its sentence, when there is no such file, it cannot be
    read, it is anything but a regular file (a folder, pipe, socket or device: those could hang or
    never end), it holds more than `max_bytes` bytes (default 512 MiB) or it changes meanwhile.
    """
    try:
        # Asked before opening, because opening a device can already act on it.
        _regular_size((path if isinstance(path, Path) else Path(path)).stat(), max_bytes)
        descriptor = os.open(path, _READING)
        try:
            size = _regular_size(os.fstat(descriptor), max_bytes)
            # One byte more than expected shows a file that is still growing.
            data = os.read(descriptor, size + 1)
            while 0 < len(data) < size and (more := os.read(descriptor, size + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ImageError("There is no such file (any more).") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"The file cannot be read: {os_reason(error)}.") from error
    if len(data) != size:
        raise ImageError("The file changed while it was read; try again once it is complete.")
    return data


def _regular_size(status: os.stat_result, max_bytes: int) -> int:
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("A folder cannot be read as one photo.")
        raise ImageError("Only regular files are read; this is a pipe, a socket or a device.")
    if status.st_size > max_bytes:
        raise ImageError(
            f"The file has {status.st_size} bytes, more than the {max_bytes} that are read."
        )
    return status.st_size


def load_image(
    data: bytes, preprocessing: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """The photo in `data` as uint8, height x width x 3, RGB, contiguous.

    Decodes, turns by the EXIF orientation, resizes the shorter side to `preprocessing.resize`
    pixels (enlarging bilinearly where needed) and takes the centre. `decode` says how transparency,
    16 bits and the like are treated.

    Raises ImageError, without a path in its sentence, when the bytes are no complete photo of a
    known format or the photo has more than `max_pixels` pixels (default 178,956,970).
    """
    photo = decode(data, shorter=preprocessing.resize, max_pixels=max_pixels)
    return resize_and_crop(photo, preprocessing)


def resize_and_crop(photo: DecodedPhoto, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The part of `photo` that `preprocessing` asks for, as `load_image` describes it."""
    import cv2

    shorter = min(photo.height, photo.width)
    halvings = halvings_above(shorter, preprocessing.resize)
    left, width_step = _axis(photo.width, shorter, preprocessing.resize, preprocessing.width)
    top, height_step = _axis(photo.height, shorter, preprocessing.resize, preprocessing.height)

    unit = 1 << photo.halvings
    block = 1 << (halvings - photo.halvings)
    pixels, first_row, first_column = _window(
        photo.pixels,
        (top / unit, (top + preprocessing.height * height_step) / unit),
        (left / unit, (left + preprocessing.width * width_step) / unit),
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
        (preprocessing.width, preprocessing.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(image, np.uint8)


def _axis(side: int, shorter: int, resize: int, crop: int) -> tuple[float, float]:
    """Where the crop starts along a side and how far apart its pixels are, in photo pixels."""
    resized = resize if side == shorter else resize * side // shorter
    step = side / resized
    return round((resized - crop) / 2) * step, step


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
