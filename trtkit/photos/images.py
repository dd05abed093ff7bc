"""From a photo's file to the uint8 image that an engine takes."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from trtkit.errors import ImageError, os_reason
from trtkit.photos import antialias, fast
from trtkit.photos.decode import decoded
from trtkit.photos.decoded import MAX_PIXELS, DecodedPhoto
from trtkit.preprocessing import Preprocessing

MAX_BYTES: Final = 512 * 1024 * 1024

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
    """The photo in `data` as uint8, height x width x 3, contiguous, its channels as asked for.

    Decodes, turns by the EXIF orientation, resizes (enlarging bilinearly where needed) and takes the
    centre, as `preprocessing` says. `decode` says how transparency, 16 bits and the like are treated.

    Raises ImageError, without a path in its sentence, when the bytes are no complete photo of a
    known format, the photo has more than `max_pixels` pixels (default 178,956,970) or takes more memory
    than there is for decoding, or it has not the size that it must have where photos are not resized.
    """
    reduced = preprocessing.resampling == "fast" and preprocessing.resize is not None
    shorter = preprocessing.side if reduced else None
    with decoded(data, shorter=shorter, max_pixels=max_pixels) as photo:
        return resize_and_crop(photo, preprocessing)


def resize_and_crop(photo: DecodedPhoto, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The part of `photo` that `preprocessing` asks for, as `load_image` describes it."""
    placement = preprocessing.place(photo.height, photo.width)
    size = (preprocessing.height, preprocessing.width)
    grey = preprocessing.channels == "gray"
    # A squashed photo may need far more on one side than on the other; it was decoded fast at least.
    if preprocessing.resampling == "fast" and isinstance(preprocessing.resize, int):
        image = fast.resampled(photo, placement, size)
        image = antialias.luma(image) if grey else image
    else:
        bicubic = preprocessing.resampling == "bicubic"
        image = antialias.resampled(photo.pixels, placement, size, grey=grey, bicubic=bicubic)
    if preprocessing.channels == "bgr":
        return np.ascontiguousarray(image[:, :, ::-1])
    return image
