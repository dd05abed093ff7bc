"""Sizes in bytes, as people write them."""

from __future__ import annotations

from trtkit.errors import TrtkitError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(text: str, what: str = "the cache") -> int:
    """Bytes of a size such as `500M`, `10GB` or `1.5GiB` (powers of 1024).

    Raises TrtkitError for anything else. `what`: what the size is for, for the message.
    """
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in UNITS else ""
    try:
        size = int(float(number.removesuffix(unit)) * UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise TrtkitError(
            f"{text!r} is not a size for {what}; write a number with K, M, G or T, such as 10G."
        )
    return size


def human_bytes(count: int | None) -> str:
    """A number of bytes in the unit that reads best, in powers of 1024."""
    if count is None:
        return "unknown"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
