"""Ctrl-C and SIGTERM during a training: end it between two steps, where it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A training was asked to end before its time. The message says how to resume it."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A function that says whether the first Ctrl-C or SIGTERM has come; a second one acts as usual.

    In a thread other than the main one, where Python has no signals, it always says no.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = False
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python did not set and could not set again.
    before = {number: handler for number, handler in found.items() if handler is not None}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: asked
    finally:
        restore()
