"""The digests of files, remembered so that a file that nobody touched is not read again.

What the system says of a file (size, times, number) stands for its content only when the file was last
changed well before its digest was recorded: a file can be changed twice within one tick of a clock, and
keep its size.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.sealing import read_json_file
from trtkit.serialization import from_plain, write_json

# Above the resolution of any file system's times, and the usual difference to a file server's clock.
SETTLED_NS = 10 * 10**9

State = tuple[int, int, int, int]


class ContentRecord:
    """Digests by path, kept in the file `path` when the block ends; None remembers nothing.

    A record that cannot be read or written only costs time.

        with ContentRecord(folder / ".contents.json") as record:
            record.digest(photo)
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, tuple[State, int, str]] = {}
        self._changed = False
        if path is not None:
            with suppress(OSError, ValueError):
                self._known = from_plain(read_json_file(path), dict[str, tuple[State, int, str]])

    def __enter__(self) -> ContentRecord:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is not None and self._changed:
            with suppress(TrtkitError):
                write_json(self._path, self._known)

    def digest(self, file: Path) -> str:
        """BLAKE3 (hex) of the file's content. Raises OSError when it cannot be read."""
        name = str(file.absolute())
        now = time.time_ns()
        state = _state(file)
        known = self._known.get(name)
        if (
            known is not None
            and known[0] == state
            and max(state[1], state[2]) + SETTLED_NS < known[1]
        ):
            return known[2]
        digest = file_digest(file)
        # It may have been changed while it was read: then its times are too late for the record.
        self._known[name] = (state, now, digest)
        self._changed = True
        return digest


def _state(file: Path) -> State:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
