"""`trtkit query`: when and where a class of objects appears in ingested footage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from trtkit.api.ingest import DEFAULT_STORE
from trtkit.atomic import whole_file
from trtkit.bundle import read_manifest
from trtkit.errors import TrtkitError, listed, nearest
from trtkit.video.appearances import Appearance
from trtkit.video.frames import MICROSECONDS
from trtkit.video.gallery import Shown, gallery
from trtkit.video.judging import Judge
from trtkit.video.motion import Box
from trtkit.video.query import Explanation, Question, Search
from trtkit.video.settings import Settings
from trtkit.video.store.database import Database
from trtkit.video.store.identity import check_readable, identity
from trtkit.video.store.reading import Span, crop_of
from trtkit.video.store.writing import SourceRow, source_rows
from trtkit.video.tails import VideoTail, expensive_tail
from trtkit.video.times import clock, moment, parse_time, since_start
from trtkit.workspace import Workspace


@dataclass(frozen=True)
class Answer:
    """One appearance of the class, as `query --format jsonl` writes it.

    `start` and `end`: seconds since the beginning of the footage, `start_time` and `end_time` the day
    and time where that is known. `frames`: their numbers; `boxes`: [x, y, width, height] in pixels of
    each of them; an object on two frames has two, two objects on one frame as well. `confidence`: of
    the expensive tail, 0 to 1.
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

    def to_json(self) -> dict[str, Any]:
        return {
            "class": self.label,
            "camera": self.camera,
            "source": self.source,
            "start": self.start,
            "end": self.end,
            "start_time": self.start_time,
            "end_time": self.end_time,
            "frames": list(self.frames),
            "boxes": [list(box) for box in self.boxes],
            "confidence": round(self.confidence, 6),
            "objects": list(self.objects),
        }


class Query:
    """A question that was opened: iterate over its answers once; `explanation` says what it took."""

    def __init__(self, database: Database, judge: Judge, search: Search, label: str) -> None:
        self._database = database
        self._judge = judge
        self._search = search
        self._label = label
        self._sources = {row.id: row for row in source_rows(database)}

    @property
    def explanation(self) -> Explanation:
        return self._search.explanation

    def gallery(self, answers: Sequence[Answer], path: Path, summary: str) -> None:
        """Write a page of thumbnails on a time line. Raises TrtkitError when it cannot be written."""
        # Files of one camera begin at 0 each.
        several = len({each.source for each in answers}) > len({each.camera for each in answers})
        shown = [
            Shown(
                camera=f"{each.camera}, {each.source}" if several else each.camera,
                start=each.start,
                end=each.end,
                when=f"{_when(each, first=True)} to {_when(each)}",
                confidence=each.confidence,
                objects=each.objects,
            )
            for each in answers
        ]
        page = gallery(self._label, shown, lambda number: crop_of(self._database, number), summary)
        with whole_file(path) as part:
            part.write_text(page, encoding="utf-8")

    def __iter__(self) -> Iterator[Answer]:
        for found in self._search.appearances():
            yield self._answer(found)

    def close(self) -> None:
        self._judge.close()
        self._database.close()

    def __enter__(self) -> Query:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, found: Appearance) -> Answer:
        row = self._sources[found.source]
        return Answer(
            label=self._label,
            camera=row.camera,
            source=row.location,
            start=found.start_us / MICROSECONDS,
            end=found.end_us / MICROSECONDS,
            start_time=moment(row.start_us, found.start_us),
            end_time=moment(row.start_us, found.end_us),
            frames=tuple(each.frame for each in found.sightings),
            boxes=tuple(each.box for each in found.sightings),
            confidence=found.confidence,
            objects=found.objects,
        )


def query(
    label: str,
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    camera: Sequence[str] = (),
    since: str | None = None,
    until: str | None = None,
    limit: int | None = None,
    min_confidence: float = 0.0,
    top: int | None = None,
    gap: float = 1.0,
    seconds: float | None = None,
    remember: bool = True,
    workspace: str | Path | None = None,
) -> Query:
    """Ask when `label` can be seen in the footage of a store. Close what is returned.

    `bundle`: by default the one of the store; `tail`: the expensive one, by default the other one of
    two. `camera`: only these; `since` and `until`: only then, seconds or H:MM:SS from the beginning of
    the footage, or ISO dates and times. `limit`: of appearances. `min_confidence`: of the expensive
    tail, 0 to 1. `top`: how many best classes of the cheap tail count, by default what `tune` chose,
    else all that are stored. `gap`: seconds for which an appearance may be interrupted. `seconds`:
    after which no more objects are asked about. `remember` False forgets what was asked before and
    what is asked now. Raises TrtkitError.
    """
    database = Database.open(Path(store))
    try:
        known = identity(database)
        folder = Workspace.at(workspace).find_bundle(bundle if bundle is not None else known.bundle)
        manifest = read_manifest(folder)
        name = expensive_tail(manifest, known.tail, tail)
        stage = manifest.tail(name)
        check_readable(known, manifest, stage, folder)
        settings = Settings.of(database)
        asked = Question(
            label=label,
            spans=_spans(source_rows(database), camera, since, until),
            top=_positive("--top", top if top is not None else settings.top),
            least=settings.least if top is None else 0.0,
            confidence=min_confidence,
            limit=None if limit is None else _positive("--limit", limit),
            gap_us=round(gap * MICROSECONDS),
            seconds=seconds,
        )
        judge = Judge(database, stage.id, lambda: VideoTail.load(folder, name), remember=remember)
        search = Search(database, known, judge, stage.classes or (), asked)
        return Query(database, judge, search, label)
    except BaseException:
        database.close()
        raise


def _when(answer: Answer, *, first: bool = False) -> str:
    """The day and time where that is known, else the time since the beginning of the footage."""
    known = answer.start_time if first else answer.end_time
    return known or clock(round((answer.start if first else answer.end) * MICROSECONDS))


def _spans(
    rows: Sequence[SourceRow], cameras: Sequence[str], since: str | None, until: str | None
) -> tuple[Span, ...]:
    known = list(dict.fromkeys(row.camera for row in rows))
    for camera in cameras:
        if camera not in known:
            raise TrtkitError(
                f"The camera {camera!r} was asked for; the store has "
                f"{listed(nearest(camera, known) or known)}."
            )
    low, high = (None if text is None else parse_time(text) for text in (since, until))
    chosen = [row for row in rows if not cameras or row.camera in cameras]
    return tuple(Span(row.id, _at(low, row), _at(high, row)) for row in chosen)


def _at(when: int | datetime | None, row: SourceRow) -> int | None:
    return since_start(when, row.start_us, row.camera)


def _positive(option: str, given: int) -> int:
    if given < 1:
        raise TrtkitError(f"{option} {given} was asked for; choose 1 or more.")
    return given
