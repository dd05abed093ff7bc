"""The one kind of error that trtkit raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TrtkitError(Exception):
    """A request that cannot be carried out.

    The message is one sentence: the problem, what is available, the fix. The command
    line prints it and exits with 2; Python callers may catch this class alone.
    """


class ImageError(TrtkitError):
    """One image that cannot be read; the others of the same run are not affected."""


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The three of `names` most like `name`, best first; empty when none is alike."""
    by_lower = {other.lower(): other for other in names}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    return [by_lower[match] for match in matches]


def available(name: str, names: Sequence[str]) -> str:
    """The end of a sentence about an unknown name: the names like it, else all of them."""
    return f"available: {listed(nearest(name, names) or names)}"


def listed(names: Iterable[str], limit: int = 8) -> str:
    """`names` as one readable list, cut after `limit` with the number left out."""
    names = list(names)
    if not names:
        return "none"
    first = ", ".join(names[:limit])
    return f"{first} and {len(names) - limit} more" if len(names) > limit else first


def os_reason(error: OSError | ValueError) -> str:
    """What the system says went wrong; libraries raise OSErrors without the system's own words too.

    A path with a null byte is a ValueError.
    """
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".: ") if lines else type(error).__name__
