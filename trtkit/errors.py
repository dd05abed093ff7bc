"""The one kind of error that trtkit raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TrtkitError(Exception):
    """A request that cannot be carried out.

    The message is one sentence that names what was asked, what exists and what to do. The command
    line prints it and exits with 2; Python callers may catch this class alone.
    """


class ImageError(TrtkitError):
    """One image that cannot be read; the others of the same run are not affected."""


def nearest(asked: str, known: Iterable[str], limit: int = 3) -> list[str]:
    """The `limit` names of `known` most like `asked`, best first; empty when none is alike."""
    by_lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(asked.lower(), by_lower, n=limit, cutoff=0.5)
    return [by_lower[name] for name in found]


def listed(names: Iterable[str], limit: int = 8) -> str:
    """`names` as one readable list, cut after `limit` with the number left out."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def os_reason(error: OSError) -> str:
    """What the system says went wrong; libraries raise OSErrors without the system's own words too."""
    return error.strerror or str(error) or type(error).__name__
