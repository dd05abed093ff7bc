"""Every format but common JPEG, through Pillow."""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from trtkit.errors import ImageError
from trtkit.photos.decoded import DecodedPhoto, check_size, upright

if TYPE_CHECKING:
    from PIL import Image

# Only these are tried: Pillow also opens formats that run other programs (EPS) or are no photos.
FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "MPO",
)  # fmt: skip

# What Pillow's plugins let through on damaged files; it documents no common class.
_PILLOW_ERRORS: Final = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
    ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_ORIENTATION_TAG: Final = 0x0112
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


# Bytes a pixel that Pillow holds an image in, where they are not 4.
_STORED: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# And that a format's decoder holds beside it: frames and planes of its own.
_DECODER: Final = {
    "WEBP": 12, "AVIF": 8, "JPEG2000": 20, "GIF": 3, "PPM": 4, "BMP": 3, "DIB": 3,
}  # fmt: skip
# Pixels that are converted at a time, and the bytes that each of them takes meanwhile.
_BAND: Final = 1 << 20
_BAND_BYTES: Final = 32

_TILE_TAGS: Final = (322, 323)
_ROWS_PER_STRIP: Final = 278
_BITS_PER_SAMPLE: Final = 258


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image in `data`, of which only the header is read. Raises ImageError."""
    from PIL import Image, UnidentifiedImageError

    _silence_pillow()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(f"The photo is refused as too large ({error}).") from error
    except UnidentifiedImageError as error:
        raise ImageError(_unknown(data)) from error
    except _PILLOW_ERRORS as error:
        raise ImageError(f"The header of the image is damaged ({one_line(error)}).") from error
    with image:
        check_size(image.height, image.width, max_pixels, data)
        yield image


def memory_of(image: Image.Image) -> int:
    """Bytes that decoding an opened image takes at most, its H x W x 3 pixels included."""
    pixels = image.height * image.width
    decoder = pixels * _DECODER.get(image.format or "", 0)
    if image.format == "TIFF":
        decoder = _strip_bytes(image)
    elif image.info.get("progressive"):
        # A JPEG's scans: two bytes a coefficient, of four colours at most.
        decoder = 8 * pixels
    stored = pixels * _STORED.get(image.mode, 4)
    return stored + max(decoder, 3 * pixels + min(pixels, _BAND) * _BAND_BYTES)


def _strip_bytes(image: Any) -> int:
    """The buffer that a TIFF's strips or tiles are decoded in, which may be larger than the image."""
    tags = image.tag_v2
    try:
        across, down = (int(tags.get(tag, 0)) for tag in _TILE_TAGS)
        if not (across and down):
            across, down = (
                image.width,
                min(image.height, int(tags.get(_ROWS_PER_STRIP, image.height))),
            )
        bits = tags.get(_BITS_PER_SAMPLE, 8)
        return across * down * -(-sum(bits if isinstance(bits, tuple) else (bits,)) // 8)
    except (TypeError, ValueError) as error:
        raise ImageError(f"The header of the image is damaged ({one_line(error)}).") from error


def decode_opened(image: Image.Image) -> DecodedPhoto:
    """The photo of an opened image. Raises ImageError."""
    from PIL import Image

    try:
        image.load()
        # Pillow turns TIFFs while it loads them.
        exif = b"" if image.format == "TIFF" else image.info.get("exif", b"")
        pixels = rgb(image)
        image.close()
    except Image.DecompressionBombError as error:
        raise ImageError(f"The photo is refused as too large ({error}).") from error
    except _PILLOW_ERRORS as error:
        raise ImageError(
            f"The {image.format} data are damaged or cut short ({one_line(error)})."
        ) from error
    height, width = pixels.shape[:2]
    return upright(pixels, height, width, 0, exif_orientation(exif))


def rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """The pixels of a loaded image as uint8, H x W x 3: in bands of rows, so that they alone are large.

    Raises ImageError for numbers whose brightness is not defined.
    """
    rows = max(1, _BAND // image.width)
    if rows >= image.height:
        return _band(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = _band(image.crop((0, top, image.width, bottom)))
    return pixels


def _band(image: Image.Image) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith("I;16"):
        return _grey_from_16_bits(np.asarray(image))
    if image.mode == "I":
        values = np.asarray(image)
        _check_range(values, 0, 65535, "whole numbers of 32 bits")
        return _grey_from_16_bits(values)
    if image.mode == "F":
        values = np.asarray(image)
        _check_range(values, 0, 1, "floating point numbers")
        return _three_channels(np.rint(values * 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _grey_from_16_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    # 65535 is 255 x 257: white stays white and black stays black.
    return _three_channels(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _three_channels(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _check_range(values: npt.NDArray[Any], low: int, high: int, kind: str) -> None:
    smallest, largest = values.min(), values.max()
    # Written so that NaN fails it.
    if not (smallest >= low and largest <= high):
        raise ImageError(
            f"The image holds {kind} from {smallest:g} to {largest:g}, whose brightness is not "
            f"defined; scale them to {low} to {high} or save the photo with 8 bits a channel."
        )


def exif_orientation(exif: object) -> int:
    """The orientation, 1 to 8, that Exif bytes ask for; 1 when they are missing or damaged."""
    if not isinstance(exif, bytes) or not exif:
        return 1
    from PIL import Image

    _silence_pillow()
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = tags.get(_ORIENTATION_TAG, 1)
    except _PILLOW_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _silence_pillow() -> None:
    """Keep what Pillow warns about or logs (odd metadata, large photos) off stderr.

    The filter is for Pillow's own modules. `warnings.catch_warnings` would be tidier, but threads
    that enter and leave it out of order leave the filters of the whole process wrong.
    """
    if _PILLOW_FILTER not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW_MODULES)
    _silence_logs_and_libtiff()


@functools.cache
def _silence_logs_and_libtiff() -> None:
    from PIL import _imaging

    # Python prints what nobody handles. A log that the application has set up still gets it.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    # libtiff prints about damaged files. Pillow raises errors for them, and has no switch.
    try:
        # Looked up through the module that links to it, so that it is the copy that Pillow uses.
        libtiff = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(libtiff, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)
    except (AttributeError, OSError):
        # Pillow was built without libtiff, or in a way that hides it: its messages are shown.
        return


_PILLOW_MODULES: Final = r"PIL(\..*)?$"
_PILLOW_FILTER: Final = ("ignore", None, Warning, re.compile(_PILLOW_MODULES), 0)


def _unknown(data: bytes) -> str:
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return "HEIC photos cannot be read; convert it to JPEG."
    formats = ", ".join(name for name in _formats() if name not in ("DIB", "MPO"))
    return f"The file is not an image, or its header is damaged; {formats} can be read."


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
