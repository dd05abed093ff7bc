"""Writing predictions as they come: table, JSON lines or CSV, to a file or stdout."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from trtkit.cli.output import note
from trtkit.errors import TrtkitError, os_reason
from trtkit.runtime.pipeline import Result

SUFFIXES = {".jsonl": "jsonl", ".csv": "csv"}
SCORE_DIGITS = 6


def choose_format(asked: str | None, output: Path | None) -> str:
    """`asked`, else what the ending of `output` says, else `table`."""
    return asked or (SUFFIXES.get(output.suffix.lower()) if output else None) or "table"


@contextmanager
def destination(output: Path | None) -> Iterator[TextIO]:
    """stdout, or a new file that takes the place of `output` when all has been written.

    Raises TrtkitError when the file cannot be written; nothing half-written stays then.
    """
    if output is None:
        yield sys.stdout
        return
    if output.exists() and not output.is_file():
        # A device or a pipe, /dev/null for one, is written to: it must not be replaced by a file.
        try:
            with output.open("w", encoding="utf-8", newline="") as stream:
                yield stream
        except OSError as error:
            raise _unwritable(output, error) from error
        return
    output = output.resolve()  # a link is followed, not replaced
    partial = output.with_name(f".{output.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.replace(output)
    except OSError as error:
        raise _unwritable(output, error) from error
    finally:
        partial.unlink(missing_ok=True)


def write_stats(path: Path, text: str) -> None:
    with destination(path) as stream:
        stream.write(text)


def follow(results: Iterator[Result], format: str, stream: TextIO) -> None:
    """Write every result as it comes, name the failures on stderr, show progress on a terminal."""
    write = {"table": _table, "jsonl": _jsonl, "csv": _csv}[format](stream)
    progress = _progress() if sys.stderr.isatty() else nullcontext(lambda result: None)
    with progress as advance:
        for result in results:
            write(result)
            if result.error is not None:
                note(f"{result.path}: {result.error}")
            advance(result)


def summary(stats: dict[str, Any]) -> str:
    """One line of what a run did."""
    seconds = stats["seconds"]
    rate = f", {stats['images'] / seconds:.1f} photos/s" if seconds > 0 else ""
    text = f"{stats['images']} photos in {seconds:.2f} s{rate}, {stats['failed']} failed"
    cache = stats["cache"]
    if cache["mode"] == "off":
        return f"{text}; cache off."
    return f"{text}; cache: {cache['hits']} hits, {cache['misses']} misses."


def _jsonl(stream: TextIO) -> Callable[[Result], None]:
    def write(result: Result) -> None:
        # ASCII only, so that names that are not valid Unicode survive as escapes.
        stream.write(json.dumps(as_json(result)) + "\n")

    return write


def as_json(result: Result) -> dict[str, Any]:
    """The object of `infer --format jsonl`."""
    if result.error is not None:
        return {"path": result.path, "error": result.error}
    return {
        "path": result.path,
        "predictions": [
            {
                "index": prediction.index,
                "label": prediction.label,
                "score": round(prediction.score, SCORE_DIGITS),
            }
            for prediction in result.predictions
        ],
    }


def _csv(stream: TextIO) -> Callable[[Result], None]:
    rows = csv.writer(_Printable(stream), lineterminator="\n")
    rows.writerow(["path", "rank", "index", "label", "score", "error"])

    def write(result: Result) -> None:
        if result.error is not None:
            rows.writerow([result.path, "", "", "", "", result.error])
        for rank, prediction in enumerate(result.predictions, start=1):
            score = f"{prediction.score:.{SCORE_DIGITS}f}"
            rows.writerow([result.path, rank, prediction.index, prediction.label, score, ""])

    return write


def _table(stream: TextIO) -> Callable[[Result], None]:
    """A line a photo: columns would need all rows first, and there may be ten million."""
    printable = _Printable(stream)

    def write(result: Result) -> None:
        if result.error is not None:
            printable.write(f"{result.path}\terror: {result.error}\n")
            return
        best = "\t".join(f"{item.score:7.2%} {item.label}" for item in result.predictions)
        printable.write(f"{result.path}\t{best}\n")

    return write


class _Printable:
    """A stream that takes any file name: what is not valid Unicode is written as an escape."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))


@contextmanager
def _progress() -> Iterator[Callable[[Result], None]]:
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
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        task = progress.add_task("photos", total=None, rate="", counts="")

        def advance(result: Result) -> None:
            counts["cached"] += result.cached
            counts["failed"] += result.error is not None
            speed = progress.tasks[task].speed
            progress.update(
                task,
                advance=1,
                rate=f"{speed:.1f} photos/s" if speed else "",
                counts=f"{counts['cached']} from the cache, {counts['failed']} failed",
            )

        yield advance


def _unwritable(path: Path, error: OSError) -> TrtkitError:
    return TrtkitError(
        f"{path} cannot be written ({os_reason(error)}); mend that or choose another file."
    )
