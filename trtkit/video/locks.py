"""One process at a time writes to a source of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trtkit.errors import TrtkitError, os_reason


@contextmanager
def source_lock(store: Path, source: int, location: str) -> Iterator[None]:
    """Hold a source. Raises TrtkitError when another process does."""
    lock = FileLock(store / f"source-{source}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise TrtkitError(
            f"{location} is being ingested into {store} by another process; wait for it, or give it "
            "another camera name."
        ) from error
    except OSError as error:
        raise TrtkitError(
            f"{lock.lock_file} cannot be locked ({os_reason(error)}); mend the permissions of the "
            "folder, or choose another --store."
        ) from error
    try:
        yield
    finally:
        lock.release()
