"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtkit.errors import TrtkitError, os_reason

ABANDONED_SECONDS = 3600.0


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place once the block has ended well.

    Until then, and after an error or a kill, `path` is what it was. The folder is made. Raises
    TrtkitError when the system refuses (a full disk, a missing permission).
    """
    temporary = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        # On disk before it has the name, or a power cut could leave the name with half a file.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, os_reason(error)) from error
    finally:
        # If it could not be made it cannot be removed either; the error above says why.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file's or folder's content to the disk, so that a power cut cannot reorder the steps."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, prefix: str) -> None:
    """Remove the folders in `folder` that begin with `prefix` and that killed processes left there.

    Those are over an hour old: no work in such a folder takes as long.
    """
    for path in folder.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def not_written(path: Path, reason: str) -> TrtkitError:
    """The error of a file that cannot be written."""
    return TrtkitError(
        f"{path} cannot be written ({reason}); free space there, mend its permissions or choose "
        "another folder."
    )
