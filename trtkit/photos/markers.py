"""The markers of a JPEG file: its Exif data, the memory that its scans take, whether they are complete."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_EXIF: Final = b"Exif\0\0"
_FRAMES: Final = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_PROGRESSIVE: Final = frozenset((0xC2, 0xCA))
_SCAN: Final = 0xDA
_APP1: Final = 0xE1
_NO_LENGTH: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_END: Final = 0xD9
# Inside a scan FF is followed by 0, or by the number of a restart.
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_COEFFICIENTS: Final = (1 << 64) - 1


@dataclass(frozen=True)
class JpegHeader:
    """What stands before the first scan.

    `exif`: the Exif segment, empty without one. `coefficients`: bytes that a decoder keeps of all scans
    until the last one is read, 0 where it decodes row by row.
    """

    exif: bytes
    coefficients: int


def read_markers(data: bytes) -> JpegHeader:
    """The header of a JPEG file; what cannot be read is taken to be missing."""
    exif, components, several = b"", 0, False
    pixels = 0
    for marker, start, end in _segments(data, scans=False):
        segment = data[start:end]
        if marker == _APP1 and not exif and segment.startswith(_EXIF):
            exif = segment
        elif marker in _FRAMES and len(segment) >= 6:
            pixels = int.from_bytes(segment[1:3], "big") * int.from_bytes(segment[3:5], "big")
            components, several = segment[5], marker in _PROGRESSIVE
        elif marker == _SCAN and segment:
            several = several or segment[0] < components
    # Of two bytes each; fewer where colours are subsampled.
    return JpegHeader(exif, 2 * components * pixels if several else 0)


def scans_are_complete(data: bytes) -> bool:
    """Whether the scans that begin in `data` give every component all its bits.

    Of a file without its end this says that no scan is missing; whether the last one is whole is seen when
    it is decoded.
    """
    missing: dict[int, int] = {}
    progressive = False
    for marker, start, end in _segments(data, scans=True):
        segment = data[start:end]
        if marker in _FRAMES and len(segment) >= 6:
            progressive = marker in _PROGRESSIVE
            missing = dict.fromkeys(segment[6 : 6 + 3 * segment[5] : 3], _COEFFICIENTS)
        elif marker == _SCAN and segment and len(segment) >= 4 + 2 * segment[0]:
            count = segment[0]
            first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
            whole = _COEFFICIENTS
            if progressive:
                # The low half is the number of bits that later scans refine.
                whole = 0 if bits & 15 else (1 << (last + 1)) - (1 << first)
            for component in segment[1 : 1 + 2 * count : 2]:
                missing[component] = missing.get(component, 0) & ~whole
    return bool(missing) and not any(missing.values())


def _segments(data: bytes, *, scans: bool) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment, up to the first scan or through all `scans`."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _NO_LENGTH:  # a fill byte, or a marker alone
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _END:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at + 4, end
        if marker == _SCAN:
            following = _AFTER_SCAN.search(data, end) if scans else None
            if following is None:
                return
            end = following.start()
        at = end
