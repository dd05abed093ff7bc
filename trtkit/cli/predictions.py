"""Writing predictions as they come: table, JSON lines or CSV, to a file or stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from trtkit.atomic import written_file
from trtkit.cli.output import csv_cell, csv_line, note, printable
from trtkit.runtime.results import SCORE_DIGITS, Result

if TYPE_CHECKING:
    from rich.console import Console

SUFFIXES = {".jsonl": "jsonl", ".csv": "csv"}


def choose_format(format: str | None, output: Path | None) -> str:
    """`format`, else that of the ending of `output`, else `table`."""
    return format or (SUFFIXES.get(output.suffix.lower()) if output else None) or "table"


@contextmanager
def destination(output: Path | None) -> Iterator[TextIO | None]:
    """A new file that takes the place of `output` when all has been written; None for stdout.

    Raises TrtkitError when the file cannot be written; nothing half-written stays then.
    """
    if output is None:
        yield None
        return
    with written_file(output) as path, path.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def write_stats(path: Path, text: str) -> None:
    """Replace the file at `path` by `text`. Raises TrtkitError when it cannot be written."""
    with destination(path) as stream:
        if stream is not None:
            stream.write(text)


class Writable(Protocol):
    """All that writing predictions needs of a stream."""

    def write(self, text: str, /) -> object: ...

    def isatty(self) -> bool: ...


def follow(
    results: Iterator[Result], format: str, stream: TextIO | None, *, tails: int = 1
) -> None:
    """Write every result as it comes, name the failures on stderr, show progress on a terminal.

    A photo has as many results as there are `tails`, one after the other. `stream` None is stdout.
    """
    with _display() as display:
        write = FORMATS[format](stream if stream is not None else display.stdout, tails)
        for place, result in enumerate(results, start=1):
            write(result)
            if place % tails:
                continue
            if result.error is not None:
                display.note(f"{result.path}: {result.error}")
            display.advance(result)


def summary(stats: dict[str, Any]) -> str:
    """One line of what a run did."""
    seconds = stats["seconds"]
    rate = f", {stats['images'] / seconds:.1f} photos/s" if seconds > 0 else ""
    text = f"{stats['images']} photos in {seconds:.2f} s{rate}, {stats['failed']} failed"
    cache = stats["cache"]
    if cache["mode"] == "off":
        return f"{text}; cache off."
    on_card = f" ({cache['gpu_hits']} on the card)" if cache.get("gpu_hits") else ""
    return f"{text}; cache: {cache['hits']} hits{on_card}, {cache['misses']} misses."


def _jsonl(stream: Writable, tails: int) -> Callable[[Result], None]:
    def write(result: Result) -> None:
        # ASCII only, so that names that are not valid Unicode survive as escapes.
        stream.write(json.dumps(result.to_dict()) + "\n")

    return write


def _csv(stream: Writable, tails: int) -> Callable[[Result], None]:
    printed = _Printable(stream)

    def put(*cells: object) -> None:
        printed.write(csv_line(cells))

    put("path", "rank", "index", "label", "score", "error", "tail")

    # A file keeps names as they are; a terminal would act upon them.
    for_people = stream.isatty()

    def cell(text: str) -> str:
        return csv_cell(printable(text) if for_people else text)

    def write(result: Result) -> None:
        path, tail = cell(result.path), cell(result.tail)
        if result.error is not None:
            put(path, "", "", "", "", cell(result.error), tail)
        for rank, prediction in enumerate(result.predictions, start=1):
            score = f"{prediction.score:.{SCORE_DIGITS}f}"
            put(path, rank, prediction.index, cell(prediction.label), score, "", tail)

    return write


def _table(stream: Writable, tails: int) -> Callable[[Result], None]:
    """A line a result: columns would need all rows first, and there may be ten million."""

    def write(result: Result) -> None:
        names = [result.path, result.tail] if tails > 1 else [result.path]
        if result.error is not None:
            cells = [f"error: {result.error}"]
        else:
            cells = [f"{item.score:7.2%} {item.label}" for item in result.predictions]
        stream.write("\t".join(map(printable, [*names, *cells])) + "\n")

    return write


class _Printable:
    """A stream that takes any file name: what is not valid Unicode is written as an escape."""

    def __init__(self, stream: Writable) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


FORMATS = {"table": _table, "jsonl": _jsonl, "csv": _csv}


@dataclass(frozen=True)
class _Display:
    """Where results and messages go so that they do not run into the progress bar, if there is one."""

    stdout: Writable
    note: Callable[[str], None]
    advance: Callable[[Result], None]


@contextmanager
def _display() -> Iterator[_Display]:
    stdout = sys.stdout
    if not sys.stderr.isatty():
        yield _Display(stdout, note, lambda result: None)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed} photos"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
    )
    counts = {"cached": 0, "failed": 0}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("photos", total=None, rate="", counts="")

        def advance(result: Result) -> None:
            counts["cached"] += result.cached
            counts["failed"] += result.error is not None
            elapsed = progress.tasks[0].elapsed
            done = progress.tasks[0].completed + 1
            progress.update(
                task,
                advance=1,
                rate=f"{done / elapsed:.1f} photos/s" if elapsed else "",
                counts=f"{counts['cached']} from the cache, {counts['failed']} failed",
            )

        above = _AboveTheBar(progress.console)
        yield _Display(
            above if stdout.isatty() else stdout,
            lambda message: above.write(f"{printable(message)}\n"),
            advance,
        )


class _AboveTheBar:
    """Lines printed as they are, unwrapped and uncoloured, on the terminal that shows a bar."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self._console.print(text, end="", soft_wrap=True, markup=False, highlight=False)
