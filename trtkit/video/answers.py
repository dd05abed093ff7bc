"""The answers to a question, as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.atomic import whole_file
from trtkit.serialization import to_plain
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import crop_of
from trtkit.video.footage.writing import source_rows
from trtkit.video.frames import MICROSECONDS
from trtkit.video.gallery import GalleryEntry, gallery
from trtkit.video.judging import Judge
from trtkit.video.motion import Box
from trtkit.video.query import Appearance, Explanation, Question, Search
from trtkit.video.tails import ExpensiveTail
from trtkit.video.times import clock, moment


@dataclass(frozen=True)
class Answer:
    """One appearance of the class, as `query --format jsonl` writes it.

    `start` and `end`: seconds since the beginning of the footage; `start_time` and `end_time`: the day
    and time where known. `frames` and `boxes` ([x, y, width, height] in pixels): one entry per sighting,
    so that two objects on one frame are two entries with the same frame. `confidence`: of the expensive
    tail, 0 to 1.
    """

    label: str
    camera: str
    source: str
    start: float
    end: float
    start_time: str | None
    end_time: str | None
    frames: tuple[int, ...]
    boxes: tuple[Box, ...]
    confidence: float
    objects: tuple[int, ...]

    @property
    def times(self) -> tuple[str, str]:
        """Start and end: day and time where known, else since the beginning of the footage."""
        return (
            self.start_time or clock(round(self.start * MICROSECONDS)),
            self.end_time or clock(round(self.end * MICROSECONDS)),
        )

    def to_json(self) -> dict[str, Any]:
        values = to_plain(self)
        return {"class": values.pop("label"), **values, "confidence": round(self.confidence, 6)}


class Query:
    """An open question: iterate over its answers once; `explanation` tells what they took."""

    def __init__(
        self, database: Database, tail: ExpensiveTail, question: Question, *, remember: bool = True
    ) -> None:
        self._database = database
        self._judge = Judge(database, tail.stage.id, tail.load, remember=remember)
        self._search = Search(database, tail.owner, self._judge, tail.classes, question)
        self._label = question.label
        self._sources = {row.id: row for row in source_rows(database)}

    @property
    def explanation(self) -> Explanation:
        return self._search.explanation

    def gallery(self, answers: Sequence[Answer], path: Path, summary: str) -> None:
        """Write a page of thumbnails on a time line. Raises TrtkitError when it cannot be written."""
        # Files of one camera begin at 0 each.
        several = len({item.source for item in answers}) > len({item.camera for item in answers})
        entries = [
            GalleryEntry(
                time_line=f"{item.camera}, {item.source}" if several else item.camera,
                start=item.start,
                end=item.end,
                when=" to ".join(item.times),
                confidence=item.confidence,
                objects=item.objects,
            )
            for item in answers
        ]
        page = gallery(
            self._label, entries, lambda number: crop_of(self._database, number), summary
        )
        with whole_file(path) as part:
            part.write_text(page, encoding="utf-8")

    def __iter__(self) -> Iterator[Answer]:
        return map(self._answer, self._search.appearances())

    def close(self) -> None:
        self._judge.close()
        self._database.close()

    def __enter__(self) -> Query:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, appearance: Appearance) -> Answer:
        row = self._sources[appearance.source]
        return Answer(
            label=self._label,
            camera=row.camera,
            source=row.location,
            start=appearance.start_us / MICROSECONDS,
            end=appearance.end_us / MICROSECONDS,
            start_time=moment(row.start_us, appearance.start_us),
            end_time=moment(row.start_us, appearance.end_us),
            frames=tuple(sighting.frame for sighting in appearance.sightings),
            boxes=tuple(sighting.box for sighting in appearance.sightings),
            confidence=appearance.confidence,
            objects=appearance.objects,
        )
