"""Ctrl-C and SIGTERM during a training: end it between two steps, where it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A training was interrupted. The message says how to resume it."""


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """A function that returns whether Ctrl-C or SIGTERM has come; a second one acts as usual.

    Outside of the main thread, where Python handles no signals, it always returns False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    interrupted = False
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python did not set and could not set again.
    before = {number: handler for number, handler in handlers.items() if handler is not None}
    # Whoever hears of signals by a descriptor must not end the process for one that is noted here.
    listener = signal.set_wakeup_fd(-1)

    def restore() -> None:
        signal.set_wakeup_fd(listener, warn_on_full_buffer=False)
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: interrupted
    finally:
        restore()
