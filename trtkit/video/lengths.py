"""How long a video file should be by what it states at its start."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = b"\x18\x53\x80\x67"
# The EBML header has a few dozen bytes.
_HEAD: Final = 4096


def is_cut_short(path: Path) -> bool:
    """Whether a Matroska, WebM or AVI file has fewer bytes than its header states.

    False for other containers, and where a recorder never filled the length in. Sources: RFC 8794 (EBML,
    sizes of elements), Microsoft's AVI RIFF File Reference.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    stated = _matroska(head) if head.startswith(_EBML) else _riff(head)
    return stated is not None and path.stat().st_size < stated


def _riff(head: bytes) -> int | None:
    if head[:4] != b"RIFF" or head[8:12] != b"AVI ":
        return None
    return 8 + int.from_bytes(head[4:8], "little")


def _matroska(head: bytes) -> int | None:
    header = _size(head, len(_EBML))
    if header is None:
        return None
    segment = header[0] + header[1]
    if head[segment : segment + 4] != _SEGMENT:
        return None
    content = _size(head, segment + 4)
    return None if content is None else sum(content)


def _size(head: bytes, at: int) -> tuple[int, int] | None:
    """Where an element's content begins, and its length; None if unknown."""
    first = head[at] if at < len(head) else 0
    if not first:
        return None
    # The leading zero bits of the first byte count the bytes that follow it.
    length = 9 - first.bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else (at + length, value)
