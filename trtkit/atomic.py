"""Files that appear whole or not at all, and the folders in which they are made.

A file is written in a folder of its own beside its place and then moved there. Nobody else can put a link
into that folder, and two writers never share one. Whatever ends the process, the next one that works in
the same place removes what is left.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trtkit.errors import TrtkitError, os_reason

SCRATCH_PREFIX = ".trtkit-"
# Held while a scratch folder is in use; the system lets go of it when its process dies.
_LOCK = ".lock"
# Without a lock, a folder older than this is nobody's.
ABANDONED_SECONDS = 3600.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# For how long the main thread may take to end the process itself.
_GRACE_SECONDS = 1.0

# The scratch folders of this process.
_in_use: set[Path] = set()
_process = os.getpid()
_watching = False


@contextmanager
def whole_file(path: Path, *, make_folder: bool = True) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once the block has ended well.

    Until then, and after an error or a kill, `path` is what it was; a link is replaced, not followed.
    Of two writers the last one wins, and the file is always one of theirs. `make_folder` False: a
    missing folder is an error. Raises TrtkitError when the system refuses (a full disk, a missing
    permission).
    """
    try:
        if make_folder:
            path.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            # On disk before it has the name, or a power cut could leave the name with half a file.
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise not_written(path, os_reason(error)) from error


@contextmanager
def written_file(path: Path) -> Iterator[Path]:
    """As `whole_file`, for a path that a user named: a link there is followed, no folder is made.

    A device or a pipe is written to directly; a file must not take its place. Raises TrtkitError.
    """
    try:
        special = path.exists() and not path.is_file()
        target = path if special else path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that point to each other
        reason = os_reason(error) if isinstance(error, OSError) else str(error)
        raise not_written(path, reason) from error
    if not special:
        with whole_file(target, make_folder=False) as temporary:
            yield temporary
        return
    try:
        yield path
    except OSError as error:
        raise not_written(path, os_reason(error)) from error


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """A new hidden folder in `parent` (by default the system's place for temporary files).

    Only this user can look into it. It is removed at the end, whatever happens; after
    `remove_on_signals` also when SIGTERM or SIGHUP ends the process. Also removes those that dead
    processes left in `parent`. Raises OSError when it cannot be made.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    sweep(place)
    folder, lock = _new_folder(place)
    _in_use.add(folder)
    try:
        yield folder
    finally:
        _in_use.discard(folder)
        # What cannot be removed, on a disk that just became read-only for one, must not hide an error.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove the scratch folders that dead processes left in `folder`."""
    leftovers: list[Path] = []
    with suppress(OSError):
        leftovers = list(folder.glob(f"{SCRATCH_PREFIX}*"))
    for path in leftovers:
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                _remove_abandoned(path)


def remove_on_signals() -> None:
    """Have SIGTERM and SIGHUP remove this process's scratch folders before they end it.

    For a process that belongs to trtkit, from its main thread. A signal that is ignored or handled
    already stays so. The thread ends the process where the main one is busy in a library.
    """
    global _watching
    own = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    if _watching or not own or threading.current_thread() is not threading.main_thread():
        return
    _watching = True
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in own:
        signal.signal(number, _end)
    os.register_at_fork(after_in_child=_leave_signals)
    threading.Thread(target=_watch, args=(reading,), name="trtkit-signals", daemon=True).start()


def sync(path: Path) -> None:
    """Bring a file's or folder's content to the disk, so that a power cut cannot reorder the steps."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def not_written(path: Path, reason: str) -> TrtkitError:
    """The error of a file that cannot be written."""
    return TrtkitError(
        f"{path} cannot be written ({reason}); free space there, mend its permissions or choose "
        "another folder."
    )


def _new_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=parent))
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with suppress(OSError):  # a file system without locks: its age tells
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have taken it for abandoned before it was locked.
        if (folder / _LOCK).exists():
            return folder, lock
        os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _remove_all() -> None:
    """Remove this process's scratch folders."""
    if os.getpid() != _process:
        return
    for folder in tuple(_in_use):
        shutil.rmtree(folder, ignore_errors=True)
        # Another thread may have written to it meanwhile.
        shutil.rmtree(folder, ignore_errors=True)


def _end(number: int, frame: object) -> None:
    _remove_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _watch(reading: int) -> None:
    """End the process where the main thread does not."""
    while data := os.read(reading, 1):
        number = data[0]
        # Another handler, such as the one of a training, ends it in its own way.
        if number in _SIGNALS and signal.getsignal(number) is _end:
            _remove_all()
            time.sleep(_GRACE_SECONDS)
            _remove_all()
            os._exit(128 + number)


def _leave_signals() -> None:
    """In a forked process: signals act as usual, and its parent does not hear of them."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, signal.SIG_DFL)


atexit.register(_remove_all)
