"""How far a long step is, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def phases() -> Iterator[Callable[[str, float], None]]:
    """A function that is told a phase's name and the share done of it, and shows a bar for the last one.

    Shows nothing when stderr is piped.
    """
    if not sys.stderr.isatty():
        yield lambda phase, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, visible=False)

        def advance(phase: str, share: float) -> None:
            bar.update(task, description=phase, completed=share, visible=share < 1.0)

        yield advance
