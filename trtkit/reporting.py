"""One reporter for everything that takes time: what a step does, and how far it is.

A command sets its reporter once, and code at any depth reports to it, so that no function passes
callbacks along. The reporter belongs to the current context (`contextvars`): two threads that run two
commands report apart. A thread that a command starts itself reports nothing unless `current()` is
handed to it.

    with reporting(Terminal()):
        message("Building prefix (fp16)")
        advance("Building prefix", 0.5)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Reporter(Protocol):
    """Where a long step reports to."""

    def message(self, text: str) -> None:
        """A step that begins, or a finding, as a sentence or its start."""
        ...

    def advance(self, phase: str, share: float) -> None:
        """How far a phase is, 0 to 1."""
        ...


class Silent:
    """Reports nothing: the default of Python callers."""

    def message(self, text: str) -> None:
        return None

    def advance(self, phase: str, share: float) -> None:
        return None


_current: ContextVar[Reporter] = ContextVar("trtkit_reporter", default=Silent())  # noqa: B039


def current() -> Reporter:
    """The reporter of this context; `Silent` where none was set."""
    return _current.get()


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Report to `reporter` inside the block."""
    token = _current.set(reporter)
    try:
        yield
    finally:
        _current.reset(token)


def message(text: str) -> None:
    """Report a step of the current context."""
    _current.get().message(text)


def advance(phase: str, share: float) -> None:
    """Report how far a phase of the current context is, 0 to 1."""
    _current.get().advance(phase, share)
