"""The processor as this process may use it."""

from __future__ import annotations

import os

_owned = False


def usable_cores() -> int:
    """The cores this process may run on; fewer than the machine has under taskset or a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_process() -> None:
    """Say that this process belongs to trtkit, as the command line's does.

    Backends may then set what holds for the whole process (ONNX Runtime's one thread pool for all
    engines), which a library must not do in somebody else's program.
    """
    global _owned
    _owned = True


def process_is_ours() -> bool:
    return _owned
