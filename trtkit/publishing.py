"""Publishing a bundle: all its files appear at once, and a kill at any moment leaves the old or the new."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trtkit.atomic import scratch_folder, sync
from trtkit.bundle import MANIFEST, Manifest
from trtkit.errors import TrtkitError, os_reason
from trtkit.serialization import sealed_text

# Beside the bundles. The file stays; only its lock matters.
LOCK = ".publishing.lock"


@contextmanager
def staging(engines: Path) -> Iterator[Path]:
    """A new hidden folder beside the bundles to build in; removed at the end, whatever happens.

    Also removes those that killed builds have left. Raises TrtkitError when it cannot be made.
    """
    try:
        engines.mkdir(parents=True, exist_ok=True)
        with scratch_folder(engines) as folder:
            yield folder
    except OSError as error:
        raise _unwritable(engines, error) from error


def publish(folder: Path, staged: Path, manifest: Manifest) -> None:
    """Make `folder` the bundle of `manifest`, whose engine files lie in `staged`.

    A reader sees the old bundle or the new one; a kill at any moment leaves one of the two. Waits for
    another process that is in here: two builds of one bundle would otherwise each sweep away files that
    the other is putting there.
    """
    from filelock import FileLock

    # For all users of a shared folder, whoever made the file.
    lock = FileLock(folder.parent / LOCK, mode=0o666)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise _unwritable(folder.parent, OSError(str(error))) from error
    try:
        _publish(folder, staged, manifest)
    finally:
        lock.release()


def _publish(folder: Path, staged: Path, manifest: Manifest) -> None:
    created = not folder.exists()
    wanted = {name for stage in manifest.stages for name in stage.files()}
    try:
        folder.mkdir(exist_ok=True)
        (staged / MANIFEST).write_text(sealed_text(manifest.to_json()), encoding="utf-8")
        for name in sorted(wanted):
            sync(staged / name)
            (staged / name).replace(folder / name)
        sync(staged / MANIFEST)
        (staged / MANIFEST).replace(folder / MANIFEST)
        sync(folder)
    except OSError:
        if created:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    for path in folder.iterdir():
        if path.is_file() and path.name not in {*wanted, MANIFEST}:
            path.unlink(missing_ok=True)


def _unwritable(folder: Path, error: OSError) -> TrtkitError:
    return TrtkitError(
        f"{folder} cannot be written ({os_reason(error)}); free space there, mend its "
        "permissions or choose another --workspace."
    )
