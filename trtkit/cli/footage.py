"""Printing what became of footage: progress, summaries, answers."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TextIO

from trtkit.cli.output import csv_cell, note, printable
from trtkit.cli.progress import Lines
from trtkit.reporting import reporting
from trtkit.video.answers import Answer
from trtkit.video.ingest import IngestReport
from trtkit.video.query import Explanation
from trtkit.video.times import clock

# Seconds between two reports: on a terminal, where a line changes, and elsewhere, where lines add up.
LIVE_SECONDS, LINE_SECONDS = 0.5, 10.0
COLUMNS = ("camera", "start", "end", "confidence", "object", "frames", "path", "source")
# What a narrow terminal does without, first to last.
SPARED = ("source", "frames", "path", "object")


class IngestDisplay(Lines):
    """The phase of an ingest: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.open = False
        self._live = sys.stderr.isatty()
        self._shown_at = time.monotonic()

    def advance(self, phase: str, share: float) -> None:
        now = time.monotonic()
        if now - self._shown_at < (LIVE_SECONDS if self._live else LINE_SECONDS):
            return
        self._shown_at = now
        if self._live:
            sys.stderr.write(f"\r\033[K{printable(phase)}")
            sys.stderr.flush()
            self.open = True
        else:
            note(phase)


@contextmanager
def ingest_reporter() -> Iterator[None]:
    """Report an ingest on stderr inside the block."""
    display = IngestDisplay()
    try:
        with reporting(display):
            yield
    finally:
        if display.open:
            sys.stderr.write("\n")


def ingest_summary(report: IngestReport) -> Iterable[str]:
    """What became of each source, and which failed."""
    for source in report.sources:
        if source.up_to_date:
            yield f"{source.camera}: was ingested before."
            continue
        resumed = "" if source.resumed_us is None else f" from {clock(source.resumed_us)} on"
        gaps = f" {source.gaps} stretches could not be used." if source.gaps else ""
        objects = f"{source.objects} objects" if source.objects else "no objects"
        yield (
            f"{source.camera}: {objects} on {source.sightings} sightings in {source.frames} frames"
            f"{resumed}, {source.seconds:.1f} s, {source.times_real_time:.1f} times real time.{gaps}"
        )
    for location, why in report.failed.items():
        yield f"{location}: {why}"


def follow_answers(answers: Iterable[Answer], format: str, stream: TextIO | None) -> list[Answer]:
    """Write every answer as it is confirmed, and return all of them. `stream` None is stdout."""
    target = stream if stream is not None else sys.stdout
    write = _writer(format, target)
    written = []
    for answer in answers:
        write(answer)
        target.flush()
        written.append(answer)
    return written


def _writer(format: str, target: TextIO) -> Callable[[Answer], object]:
    if format == "jsonl":
        return lambda answer: target.write(json.dumps(answer.to_json()) + "\n")
    if format == "csv":
        writer = csv.writer(target)
        writer.writerow(COLUMNS)
        return lambda answer: writer.writerow(map(csv_cell, _row(answer)))
    if target.isatty():
        return _TerminalTable(target).write
    target.write("\t".join(COLUMNS) + "\n")
    return lambda answer: target.write("\t".join(map(printable, _row(answer))) + "\n")


class _TerminalTable:
    """Columns as wide as the first row needs, and as many as the terminal has room for."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._widths: dict[int, int] = {}

    def write(self, answer: Answer) -> None:
        cells = [*map(printable, _row(answer))]
        if not self._widths:
            self._widths = _fitting([*map(len, cells)], get_terminal_size().columns)
            self._line(COLUMNS)
        self._line(cells)

    def _line(self, cells: Sequence[str]) -> None:
        padded = (cells[place].ljust(width) for place, width in self._widths.items())
        self._target.write("  ".join(padded).rstrip() + "\n")


def _fitting(lengths: Sequence[int], columns: int) -> dict[int, int]:
    """The width of each column by its place, without those that a terminal has no room for."""
    widths = {place: max(length, len(COLUMNS[place])) for place, length in enumerate(lengths)}
    for name in SPARED:
        if sum(widths.values()) + 2 * (len(widths) - 1) <= columns:
            break
        del widths[COLUMNS.index(name)]
    return widths


def _row(answer: Answer) -> tuple[str, ...]:
    return (
        answer.camera, *answer.times, f"{answer.confidence:.3f}", " ".join(map(str, answer.objects)),
        str(len(set(answer.frames))), answer.path, answer.source,
    )  # fmt: skip


def summary(explanation: Explanation, label: str) -> str:
    """What came of a question, in one sentence."""
    count = explanation.appearances
    what = f"{count} appearance{'' if count == 1 else 's'} of {label}" if count else f"No {label}"
    late = ", and time was up" if explanation.out_of_time else ""
    return f"{what} among {explanation.candidates} candidate objects in {explanation.seconds:.2f} s{late}."


def explained(explanation: Explanation) -> Iterable[str]:
    """What a question took, step by step."""
    judged = explanation.judged
    yield (
        f"{explanation.candidates} candidates in {explanation.clusters} clusters, "
        f"{explanation.confirmed} objects confirmed."
    )
    yield (
        f"{judged.remembered} verdicts remembered; {judged.hits} pictures classified from their feature "
        f"maps, {judged.recomputed} without one."
    )
    first = explanation.first_seconds
    steps = {
        "index": explanation.finding_seconds, "loading": judged.loading_seconds,
        "reading": judged.reading_seconds, "computing": judged.computing_seconds,
        "remembering": judged.remembering_seconds,
    }  # fmt: skip
    times = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in steps.items())
    yield f"{times}; first answer after {'none' if first is None else f'{first * 1e3:.1f} ms'}."
