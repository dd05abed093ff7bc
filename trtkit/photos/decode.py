"""Photos from bytes: JPEG through libjpeg-turbo, every other format through Pillow.

Both paths hold to the same rules. The pixel limit and the memory that decoding takes are checked against
the header, before anything is decoded. A file that is cut short, or damaged so that the decoder notices, is
an error and never a half-grey picture. The EXIF orientation is applied. Colour profiles are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trtkit.errors import ImageError
from trtkit.photos import pillow
from trtkit.photos.decoded import MAX_PIXELS, DecodedPhoto
from trtkit.photos.jpeg import JpegPlan
from trtkit.photos.memory import decoding_budget

# What resizing takes beside the photo, in bytes: copies of each pixel, but not of very large photos.
_BAND_BYTES = 256 << 20
_COPIED = 8


@contextmanager
def decoded(
    data: bytes, *, shorter: int | None = None, max_pixels: int = MAX_PIXELS
) -> Iterator[DecodedPhoto]:
    """The photo in `data` while its memory is reserved; of an animation or a file of pages the first one.

    Grey, palette, CMYK and 1-bit photos become RGB. Transparent pixels are laid on white. 16 bits
    a channel are scaled to 8; floats must lie in 0 to 1. With `shorter`, in pixels, JPEG photos
    whose shorter side is at least twice as long are decoded at 1/2, 1/4 or 1/8 of their size, never
    to a shorter side below it. Waits while other threads decode as much as memory allows.

    Raises ImageError when the bytes are empty, cut short, damaged or of no known format, and when
    the photo has more than `max_pixels` pixels or takes more memory than there is for decoding.
    """
    if not data:
        raise ImageError("The file is empty.")
    plan = JpegPlan.of(data, shorter, max_pixels) if data.startswith(b"\xff\xd8") else None
    if plan is not None:
        with decoding_budget().reserved(_with_resizing(plan.memory, plan.height * plan.width)):
            photo = plan.decode()
            if photo is not None:
                yield photo
                return
    with pillow.opened(data, max_pixels) as image:
        pixels = image.height * image.width
        memory = pillow.memory_of(image)
        if shorter is not None:
            # The fast way copies the photo, and copies it again to halve it.
            memory = max(memory, 9 * pixels)
        with decoding_budget().reserved(_with_resizing(memory, pixels)):
            yield pillow.decode_opened(image)


def decode(
    data: bytes, *, shorter: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedPhoto:
    """The photo in `data`, to keep: `decoded` says how, and what is raised."""
    with decoded(data, shorter=shorter, max_pixels=max_pixels) as photo:
        return photo


def _with_resizing(memory: int, pixels: int) -> int:
    return memory + min(_BAND_BYTES, _COPIED * pixels)
