"""JPEG through libjpeg-turbo, whose pixels are those of Pillow's decoder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from trtkit.errors import ImageError
from trtkit.photos.decoded import DecodedPhoto, check_size, upright
from trtkit.photos.markers import JpegHeader, read_markers, scans_are_complete
from trtkit.photos.pillow import exif_orientation, one_line

# libjpeg warns about these although the picture is whole, and many photos found on the web carry
# them.
_HARMLESS: Final = re.compile(
    r"(\d+) extraneous bytes before marker 0x(..)|unknown JFIF revision|Adobe color transform"
)

# libjpeg-turbo decodes at 1/2, 1/4 and 1/8 faster than in full; other fractions are slower.
_MAX_DCT_HALVINGS: Final = 3

_END: Final = b"\xff\xd9"


@dataclass(frozen=True)
class JpegPlan:
    """How a JPEG will be decoded: at `height` x `width`, halved `halvings` times."""

    data: bytes
    height: int
    width: int
    halvings: int
    header: JpegHeader

    @classmethod
    def of(cls, data: bytes, shorter: int | None, max_pixels: int) -> JpegPlan | None:
        """None when only Pillow can say (CMYK, unusual sampling, a broken header). Raises ImageError."""
        import simplejpeg

        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        except (ValueError, KeyError):  # KeyError: a subsampling that it has no name for
            return None
        if colours not in ("Gray", "YCbCr", "RGB"):
            return None
        check_size(height, width, max_pixels, data)
        halvings = _dct_halvings(min(height, width), shorter)
        return cls(data, height, width, halvings, read_markers(data))

    @property
    def memory(self) -> int:
        """Bytes that decoding takes, the pixels included."""
        return 3 * self._side(self.height) * self._side(self.width) + self.header.coefficients

    def decode(self) -> DecodedPhoto | None:
        """The photo, or None when only Pillow can say. Raises ImageError."""
        import simplejpeg

        data = self.data
        reduced = {"min_height": self._side(self.height), "min_width": self._side(self.width)}
        try:
            pixels = simplejpeg.decode_jpeg(data, **reduced)
        except ValueError as error:
            reason = str(error)
            warning = _HARMLESS.search(reason)
            if "remature end" not in reason and warning is None:
                raise ImageError(f"The JPEG data are damaged ({one_line(error)}).") from error
            if warning is not None:
                try:
                    simplejpeg.decode_jpeg(data, strict=False, **reduced)
                except ValueError:
                    # The warning is about the header, where this decoder is always strict.
                    return None
            try:
                # The decoder reports the last of several warnings: without its cause there must be none.
                pixels = simplejpeg.decode_jpeg(_without_cause(data, warning), **reduced)
            except ValueError:
                raise ImageError(_damage(error)) from error
        orientation = exif_orientation(self.header.exif)
        return upright(pixels, self.height, self.width, self.halvings, orientation)

    def _side(self, side: int) -> int:
        return -(-side >> self.halvings)


def _without_cause(data: bytes, warning: re.Match[str] | None) -> bytes:
    """`data` without what the decoder warned of: extra bytes before the end, or an end that is missing.

    Small cameras write photos without their last two bytes, and all pixels are there.
    """
    if warning is None:
        return data + _END if scans_are_complete(data) else data
    if warning[2] != "d9":
        return data
    end = data.find(_END, data.rfind(b"\xff\xda"))
    return data[: end - int(warning[1])] + data[end:]


def _damage(error: ValueError) -> str:
    if "remature end" in str(error):
        return "The JPEG data end too early; the file is cut short."
    return f"The JPEG data are damaged ({one_line(error)})."


def _dct_halvings(side: int, shorter: int | None) -> int:
    # Below 16 pixels two fractions may round to the same size and the wrong one would be taken.
    if shorter is None or shorter < 16:
        return 0
    return min(_MAX_DCT_HALVINGS, halvings_above(side, shorter))


def halvings_above(side: int, shorter: int) -> int:
    """How often `side` can be halved without falling below `shorter`, both in pixels."""
    return max(0, (side // shorter).bit_length() - 1)
