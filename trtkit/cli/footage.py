"""Showing what became of footage: progress, summaries, answers."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TextIO

from trtkit.api.ingest import IngestReport
from trtkit.api.query import Answer
from trtkit.cli.output import note
from trtkit.sizes import human_bytes
from trtkit.video.ingest import IngestProgress
from trtkit.video.query import Explanation
from trtkit.video.times import clock

# Between two lines where there is no terminal.
LINE_SECONDS = 10.0
COLUMNS = ("camera", "start", "end", "confidence", "objects", "frames", "first box")
WIDTHS = (16, 24, 24, 10, 7, 6, 20)


class IngestDisplay:
    """How far an ingest is: one line that changes on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._told = time.monotonic()
        self._open = False

    def __enter__(self) -> IngestDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            sys.stderr.write("\n")

    def advance(self, progress: IngestProgress) -> None:
        now = time.monotonic()
        if now - self._told < (0.5 if self._live else LINE_SECONDS):
            return
        self._told = now
        if self._live:
            sys.stderr.write(f"\r\033[K{progress_line(progress)}")
            sys.stderr.flush()
            self._open = True
        else:
            note(progress_line(progress))


def progress_line(progress: IngestProgress) -> str:
    """Where an ingest is, how fast, what it found, how long it still takes."""
    parts = [f"{progress.camera} {clock(progress.at_us)[:-4]}"]
    if progress.duration_us:
        parts[0] += f" of {clock(progress.duration_us)[:-4]}"
    if progress.seconds:
        parts.append(f"{progress.frames / progress.seconds:.0f} frames/s")
        parts.append(f"{progress.times_real_time:.1f} times real time")
    parts.append(f"{progress.objects} objects")
    parts.append(f"{human_bytes(progress.map_bytes)} of feature maps")
    if progress.duration_us and progress.times_real_time:
        left = (progress.duration_us - progress.at_us) / 1e6 / progress.times_real_time
        parts.append(f"{left:.0f} s left")
    return ", ".join(parts)


def ingest_summary(report: IngestReport) -> Iterable[str]:
    """What became of each source, and which failed."""
    for each in report.sources:
        if each.up_to_date:
            yield f"{each.camera}: was ingested before."
            continue
        resumed = "" if each.resumed_us is None else f" from {clock(each.resumed_us)} on"
        gaps = f" {each.gaps} stretches could not be read." if each.gaps else ""
        found = f"{each.objects} objects" if each.objects else "no objects that move"
        yield (
            f"{each.camera}: {found} on {each.sightings} sightings in {each.frames} frames{resumed}, "
            f"{each.seconds:.1f} s, {each.times_real_time:.1f} times real time.{gaps}"
        )
    for location, why in report.failed.items():
        yield f"{location}: {why}"


def follow_answers(answers: Iterable[Answer], format: str, stream: TextIO | None) -> list[Answer]:
    """Write every appearance as it is confirmed, and give all of them back. `stream` None is stdout."""
    target = stream if stream is not None else sys.stdout
    write = _writer(format, target)
    shown = []
    for answer in answers:
        write(answer)
        target.flush()
        shown.append(answer)
    return shown


def _writer(format: str, target: TextIO) -> Callable[[Answer], object]:
    if format == "jsonl":
        return lambda answer: target.write(json.dumps(answer.to_json()) + "\n")
    if format == "csv":
        writer = csv.writer(target)
        writer.writerow(COLUMNS)
        return lambda answer: writer.writerow(_row(answer))
    target.write(_line(COLUMNS, target))
    return lambda answer: target.write(_line(_row(answer), target))


def _row(answer: Answer) -> tuple[str, ...]:
    start = answer.start_time or clock(round(answer.start * 1e6))
    end = answer.end_time or clock(round(answer.end * 1e6))
    box = " ".join(map(str, answer.boxes[0])) if answer.boxes else ""
    return (
        answer.camera, start, end, f"{answer.confidence:.3f}", str(len(answer.objects)),
        str(len(set(answer.frames))), box,
    )  # fmt: skip


def _line(cells: Iterable[str], target: TextIO) -> str:
    """Columns on a terminal, tabs when piped."""
    if not target.isatty():
        return "\t".join(cells) + "\n"
    pairs = zip(cells, WIDTHS, strict=True)
    return "  ".join(cell.ljust(width) for cell, width in pairs).rstrip() + "\n"


def summary(explanation: Explanation, label: str) -> str:
    """What came of a question, in one sentence."""
    found = explanation.appearances
    what = f"{found} appearance{'' if found == 1 else 's'} of {label}" if found else f"No {label}"
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
        f"{judged.remembered} verdicts remembered, {judged.hits} computed from feature maps, "
        f"{judged.recomputed} from pictures, since their feature maps were not there."
    )
    first = explanation.first_seconds
    steps = {
        "index": explanation.finding_seconds, "loading": judged.loading_seconds,
        "reading": judged.reading_seconds, "computing": judged.computing_seconds,
        "remembering": judged.remembering_seconds,
    }  # fmt: skip
    told = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in steps.items())
    yield (
        f"{told}; first answer after "
        + ("none" if first is None else f"{first * 1e3:.1f} ms")
        + "."
    )
