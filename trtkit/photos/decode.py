"""Photos from bytes: JPEG through libjpeg-turbo, every other format through Pillow.

Both paths hold to the same rules. The pixel limit is checked against the header, before anything is
decoded. A file that is cut short, or damaged so that the decoder notices, is an error and never a
half-grey picture. The EXIF orientation is applied. Colour profiles are not.
"""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from trtkit.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

# Pillow refuses more than this as well (twice its MAX_IMAGE_PIXELS), so both paths agree.
MAX_PIXELS: Final = 178_956_970

# Only these are tried: Pillow also opens formats that run other programs (EPS) or are no photos.
FORMATS: Final = (
    "JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", "JPEG2000", "AVIF", "MPO",
)  # fmt: skip

# libjpeg warns about these although the picture is whole, and many photos found on the web carry
# them.
_HARMLESS: Final = re.compile(
    r"(\d+) extraneous bytes before marker 0x(..)|unknown JFIF revision|Adobe color transform"
)

# libjpeg-turbo decodes at 1/2, 1/4 and 1/8 faster than in full; other fractions are slower.
_MAX_DCT_HALVINGS: Final = 3

# What Pillow's plugins let through on damaged files; it documents no common class.
_PILLOW_ERRORS: Final = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
    ArithmeticError, MemoryError, RuntimeError, struct.error, zlib.error,
)  # fmt: skip

_ORIENTATION_TAG: Final = 0x0112
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


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


def decode(
    data: bytes, *, shorter: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedPhoto:
    """The photo in `data`; of an animation or a multi-page file the first picture.

    Grey, palette, CMYK and 1-bit photos become RGB. Transparent pixels are laid on white. 16 bits
    a channel are scaled to 8; floats must lie in 0 to 1. With `shorter`, in pixels, JPEG photos
    whose shorter side is at least twice as long are decoded at 1/2, 1/4 or 1/8 of their size, never
    to a shorter side below it.

    Raises ImageError when the bytes are empty, cut short, damaged or of no known format, and when
    the photo has more than `max_pixels` pixels.
    """
    if not data:
        raise ImageError("The file is empty.")
    if data.startswith(b"\xff\xd8"):
        photo = _decode_jpeg(data, shorter, max_pixels)
        if photo is not None:
            return photo
    return _decode_with_pillow(data, max_pixels)


def _decode_jpeg(data: bytes, shorter: int | None, max_pixels: int) -> DecodedPhoto | None:
    """The photo, or None when only Pillow can say (CMYK, unusual sampling, a broken header)."""
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
        return None
    if colours not in ("Gray", "YCbCr", "RGB"):
        return None
    _check_size(height, width, max_pixels)
    halvings = _dct_halvings(min(height, width), shorter)
    reduced = {
        "min_height": _halved(height, halvings),
        "min_width": _halved(width, halvings),
    }
    try:
        pixels = simplejpeg.decode_jpeg(data, **reduced)
    except ValueError as error:
        reason = str(error)
        if "remature end" in reason:
            raise ImageError("The JPEG data end too early; the file is cut short.") from error
        warning = _HARMLESS.search(reason)
        if warning is None:
            raise ImageError(f"The JPEG data are damaged ({_one_line(error)}).") from error
        try:
            simplejpeg.decode_jpeg(data, strict=False, **reduced)
        except ValueError:  # The warning is about the header, where this decoder is always strict.
            return None
        try:
            # The decoder reports the last of several warnings: without its cause there must be none.
            pixels = simplejpeg.decode_jpeg(_without_extra_bytes(data, warning), **reduced)
        except ValueError:
            raise ImageError(f"The JPEG data are damaged ({_one_line(error)}).") from error
    return _upright(pixels, height, width, halvings, _exif_orientation(_jpeg_exif(data)))


def _without_extra_bytes(data: bytes, warning: re.Match[str]) -> bytes:
    """`data` without the bytes between the picture and its end that `warning` counts."""
    if warning[2] != "d9":
        return data
    end = data.find(b"\xff\xd9", data.rfind(b"\xff\xda"))
    return data[: end - int(warning[1])] + data[end:]


def _dct_halvings(side: int, shorter: int | None) -> int:
    # Below 16 pixels two fractions may round to the same size and the wrong one would be taken.
    if shorter is None or shorter < 16:
        return 0
    return min(_MAX_DCT_HALVINGS, halvings_above(side, shorter))


def halvings_above(side: int, shorter: int) -> int:
    """How often `side` can be halved without falling below `shorter`, both in pixels."""
    return max(0, (side // shorter).bit_length() - 1)


def _halved(side: int, times: int) -> int:
    return -(-side >> times)


def _decode_with_pillow(data: bytes, max_pixels: int) -> DecodedPhoto:
    from PIL import Image, UnidentifiedImageError

    _silence_pillow()
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageError(f"The photo is refused as too large ({error}).") from error
    except UnidentifiedImageError as error:
        raise ImageError(_unknown(data)) from error
    except _PILLOW_ERRORS as error:
        raise ImageError(f"The header of the image is damaged ({_one_line(error)}).") from error
    with image:
        _check_size(image.height, image.width, max_pixels)
        try:
            image.load()
            # Pillow turns TIFFs while it loads them.
            exif = b"" if image.format == "TIFF" else image.info.get("exif", b"")
            pixels = _rgb(image)
        except Image.DecompressionBombError as error:
            raise ImageError(f"The photo is refused as too large ({error}).") from error
        except _PILLOW_ERRORS as error:
            raise ImageError(
                f"The {image.format} data are damaged or cut short ({_one_line(error)})."
            ) from error
    height, width = pixels.shape[:2]
    return _upright(pixels, height, width, 0, _exif_orientation(exif))


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
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


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(
            f"The photo has {width} x {height} pixels, more than the {max_pixels} that are "
            f"decoded; make it smaller, or raise max_pixels if you trust the file."
        )


def _upright(
    pixels: npt.NDArray[np.uint8], height: int, width: int, halvings: int, orientation: int
) -> DecodedPhoto:
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels, height, width = pixels.transpose(1, 0, 2), width, height
    return DecodedPhoto(pixels, height, width, halvings)


def _jpeg_exif(data: bytes) -> bytes:
    """The Exif segment of a JPEG, without its two-byte length; empty when there is none."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        # The tables and the frame follow the metadata; nothing behind them matters here.
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            break
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 4 : end]
        at = end
    return b""


def _exif_orientation(exif: object) -> int:
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
