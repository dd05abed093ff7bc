"""What a long step reports, on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trtkit.cli.output import note, printable
from trtkit.reporting import Reporter, Silent, reporting

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def terminal_reporter() -> Iterator[Reporter]:
    """Report to the terminal inside the block: messages to stderr, and a bar for the current phase.

    The bar disappears at the end of the block. None is drawn when stderr is piped.
    """
    if not sys.stderr.isatty():
        plain = Lines()
        with reporting(plain):
            yield plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = Bar(progress)
        with reporting(bar):
            yield bar


class Lines(Silent):
    """Messages on stderr, a line each."""

    def message(self, text: str) -> None:
        note(text)


class Bar(Lines):
    """Messages on stderr above a bar, which shows the phase reported last until it is complete."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1.0, visible=False)

    def advance(self, phase: str, share: float) -> None:
        self._progress.update(
            self._task, description=printable(phase), completed=share, visible=share < 1.0
        )
