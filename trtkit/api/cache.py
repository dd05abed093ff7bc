"""`trtkit cache`: look at the prefix cache, check it, empty it."""

from __future__ import annotations

from pathlib import Path

from trtkit.store import maintenance
from trtkit.store.cache import cache_folder


def cache_info(folder: str | Path | None = None) -> maintenance.StoreInfo:
    """What the cache holds: entries, bytes, segments. Raises TrtkitError when it cannot be read."""
    return maintenance.info(cache_folder(folder))


def cache_verify(
    folder: str | Path | None = None, *, repair: bool = False
) -> maintenance.VerifyReport:
    """Read every entry and compare its checksum; `repair` forgets the damaged ones."""
    return maintenance.verify(cache_folder(folder), repair=repair)


def cache_clear(folder: str | Path | None = None) -> maintenance.ClearReport:
    """Delete every entry. Raises TrtkitError while another process is writing."""
    return maintenance.clear(cache_folder(folder))
