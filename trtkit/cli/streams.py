"""The streams of the command line: whatever becomes of them is a sentence, never a traceback."""

from __future__ import annotations

import os
import sys
from typing import Any

from trtkit.errors import TrtkitError, os_reason


class OutputError(TrtkitError):
    """Standard output cannot be written: its disk is full, or it was closed before the command began."""


class CheckedOutput:
    """A text stream that raises OutputError where the stream itself raises OSError.

    BrokenPipeError stays: a reader that has read enough is no failure.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            # Click would write to it, past this object, where the encoding is ASCII.
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._checked(self._stream.write, text))

    def writelines(self, lines: Any) -> None:
        self._checked(self._stream.writelines, lines)

    def flush(self) -> None:
        self._checked(self._stream.flush)

    def _checked(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise OutputError(
                f"The output cannot be written ({os_reason(error)}); give another place with > FILE."
            ) from error


def open_streams() -> None:
    """Make stdout and stderr ready: both exist, and write what their encoding lacks as an escape."""
    # A file that is opened later must not become the stdout of a process that has none.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
    # Nothing can be written to a file that is open for reading.
    stdout = open(os.devnull) if sys.stdout is None else sys.stdout  # noqa: PTH123, SIM115
    for stream in (stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = CheckedOutput(stdout)


def discard_output() -> None:
    """Drop what stdout still holds, which would fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
