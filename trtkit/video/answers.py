"""The answers to a question, as people and programs read them: records, and a page of thumbnails."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trtkit.atomic import whole_file
from trtkit.contents import ContentRecord
from trtkit.serialization import to_plain
from trtkit.video.clips import ClipReport, ClipRequest, cut_clips
from trtkit.video.detections import Box
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import jpeg_of, pictures_of, sightings_of
from trtkit.video.footage.writing import SourceRow, source_rows
from trtkit.video.frames import MICROSECONDS
from trtkit.video.ingest import CONTENTS
from trtkit.video.judging import Judge
from trtkit.video.query import Appearance, Explanation, Question, Search, class_index
from trtkit.video.scenes import PathRequest, PathView, scenes_of
from trtkit.video.tails import ExpensiveTail
from trtkit.video.times import clock, moment

# Pictures of one answer that the page shows; it tells how many more objects there are.
MOST_THUMBNAILS = 6

_PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<title>{{ label }}</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; color: #111;
  margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.line { position: relative; height: 1.6rem; background: #eee; border: 1px solid #999; }
.line a { position: absolute; top: 0; bottom: 0; min-width: 3px; background: #111; }
.ends { display: flex; justify-content: space-between; color: #555; font-size: 12px; }
ol { list-style: none; padding: 0; }
li { display: flex; gap: 1rem; align-items: center; border-top: 1px solid #ccc; padding: .5rem 0; }
li:target { background: #ffd; }
li div:first-child { min-width: 15rem; }
img { height: 72px; border: 1px solid #999; }
svg { height: 160px; border: 1px solid #999; background: #eee; }
polyline { fill: none; stroke: #f30; stroke-width: 3; vector-effect: non-scaling-stroke; }
circle { fill: #f30; }
</style></head><body>
<h1>{{ label }}</h1>
<p>{{ summary }}</p>
{% for name, entries, low, high, note in lines %}
{% set line = loop.index0 %}
{% set length = [high - low, 1e-6] | max %}
<h2>{{ name }}</h2>
{% if note %}<p>Paths are drawn without frames: {{ note }}</p>{% endif %}
<div class="line">
{%- for entry in entries -%}
<a href="#a{{ line }}-{{ loop.index0 }}" title="{{ entry.times | join(" to ") }}" style="left:
{{- "%.3f" | format(100 * (entry.start - low) / length) }}%;width:
{{- "%.3f" | format(100 * (entry.end - entry.start) / length) }}%"></a>
{%- endfor -%}
</div><div class="ends"><span>{{ "%.1f" | format(low) }} s</span>
{{- "" }}<span>{{ "%.1f" | format(high) }} s</span></div>
<ol>
{% for entry in entries %}
<li id="a{{ line }}-{{ loop.index0 }}"><div>{{ entry.times | join(" to ") }}<br>confidence
{{- " %.3f" | format(entry.confidence) }}
{%- if entry.picture in clips %}<br><a class="clip" href="{{ clips[entry.picture] }}">clip</a>
{%- endif %}</div>
{%- for number, jpeg in thumbnails(entry) -%}
<img alt="object {{ number }}" src="data:image/jpeg;base64,{{ jpeg | encoded }}">
{%- endfor %}
{%- if entry.picture in scenes %}{% set scene = scenes[entry.picture] -%}
<svg viewBox="0 0 {{ scene.width }} {{ scene.height }}">
{%- if scene.frame -%}
<image width="{{ scene.width }}" height="{{ scene.height }}" href="data:image/jpeg;base64,
{{- scene.frame | encoded }}"></image>
{%- endif %}
{%- for path in scene.paths if path -%}
<polyline points="{% for x, y in path %}{{ x }},{{ y }} {% endfor %}"></polyline>
{{- "" }}<circle cx="{{ path[-1][0] }}" cy="{{ path[-1][1] }}" r="{{ scene.width // 60 + 1 }}"></circle>
{%- endfor -%}
</svg>{% endif %}
{%- set more = entry.objects | length - most %}
{%- if more > 0 %}<span>and {{ more }} more</span>{% endif %}</li>
{% endfor %}
</ol>
{% endfor %}
</body></html>
"""


@dataclass(frozen=True)
class Answer:
    """One object of the class, or several that `--gap` joined, as `query --format jsonl` writes it.

    `start` and `end`: seconds since the beginning of the footage; `start_time` and `end_time`: ISO dates
    and times with their offset, where known. `frames` and `boxes` ([x, y, width, height] in pixels): one
    entry per sighting, in order of time, so that two objects on one frame are two entries with the same
    frame. `confidence`: of the expensive tail, 0 to 1. `objects`: numbers in the store; `picture`: the
    number of the one whose picture shows the answer best.
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
    picture: int

    @property
    def path(self) -> str:
        """The centre of the first and of the last box, in pixels: `120,340 > 610,80`."""
        if not self.boxes:
            return ""
        return " > ".join("{},{}".format(*box.centre) for box in (self.boxes[0], self.boxes[-1]))

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
        scoring = tail.stage.scoring
        label = None
        if scoring == "sigmoid":
            label = class_index(tail.classes, question.label, tail.stage.name)
        self._judge = Judge(database, tail.stage.id, tail.load, label=label, remember=remember)
        self._search = Search(database, tail.owner, self._judge, tail.classes, question, scoring)
        self._label = question.label
        self._sources = {row.id: row for row in source_rows(database)}

    @property
    def explanation(self) -> Explanation:
        return self._search.explanation

    def gallery(
        self, answers: Sequence[Answer], path: Path, summary: str, clips: ClipReport | None = None
    ) -> None:
        """Write a page of thumbnails and paths on a time line.

        `clips`: what `clips` gave for the same answers, to be linked. Raises TrtkitError when the page
        cannot be written.
        """
        scenes, notes = self._scenes(answers)
        files = clips.files if clips is not None else ()
        folder = path.absolute().parent
        links = {
            answer.picture: quote(os.path.relpath(file.absolute(), folder))
            for answer, file in zip(answers, files, strict=clips is not None)
            if file is not None
        }
        page = gallery(self._label, answers, self._pictures, summary, scenes, links, notes)
        with whole_file(path) as part:
            part.write_text(page, encoding="utf-8")

    def clips(self, answers: Sequence[Answer], folder: Path) -> ClipReport:
        """Cut a clip of each answer into `folder`, a second longer on each side; see `cut_clips`.

        A source that moved or changed, or is a stream, leaves its clips out and is in the report. Raises
        TrtkitError when the folder cannot be made.
        """
        requests = [
            ClipRequest(
                self._row(answer),
                round(answer.start * MICROSECONDS),
                round(answer.end * MICROSECONDS),
                answer.picture,
            )
            for answer in answers
        ]
        with ContentRecord(self._database.folder / CONTENTS) as record:
            return cut_clips(requests, folder, record.digest)

    def __iter__(self) -> Iterator[Answer]:
        return map(self._answer, self._search.appearances())

    def _row(self, answer: Answer) -> SourceRow:
        return next(
            row
            for row in self._sources.values()
            if (row.camera, row.location) == (answer.camera, answer.source)
        )

    def _pictures(self, number: int) -> list[bytes]:
        places = range(len(pictures_of(self._database, [number])[number]))
        jpegs = (jpeg_of(self._database, number, place) for place in places)
        return [jpeg for jpeg in jpegs if jpeg is not None]

    def _scenes(self, answers: Sequence[Answer]) -> tuple[dict[int, PathView], dict[str, str]]:
        """Scenes by the number of the answer's picture, and why a source's frames cannot be read."""
        requests = []
        for answer in answers:
            sightings = sightings_of(self._database, answer.objects)
            best = pictures_of(self._database, [answer.picture])[answer.picture][0]
            paths = [sightings[number] for number in answer.objects]
            requests.append(PathRequest(self._row(answer), best.sighting.time_us, paths))
        with ContentRecord(self._database.folder / CONTENTS) as record:
            scenes, reasons = scenes_of(requests, record.digest)
        by_picture = {answer.picture: scene for answer, scene in zip(answers, scenes, strict=True)}
        return by_picture, {self._sources[source].location: why for source, why in reasons.items()}

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
            start_time=moment(row.start_us, appearance.start_us, row.zone),
            end_time=moment(row.start_us, appearance.end_us, row.zone),
            frames=tuple(sighting.frame for sighting in appearance.sightings),
            boxes=tuple(sighting.box for sighting in appearance.sightings),
            confidence=appearance.confidence,
            objects=appearance.objects,
            picture=appearance.picture,
        )


def gallery(
    label: str,
    answers: Sequence[Answer],
    crops_of: Callable[[int], Sequence[bytes]],
    summary: str,
    scenes: Mapping[int, PathView],
    clips: Mapping[int, str],
    notes: Mapping[str, str],
) -> str:
    """The page: a time line per camera with its answers, their thumbnails, paths and clips.

    Files of one camera begin at 0 each, so they have lines of their own. `crops_of` gives the pictures
    of an object, JPEG, best first. `scenes` and `clips`, which are relative links, are by the number of an
    answer's picture; `notes`: by location why frames are missing. Nothing but clips is loaded from
    elsewhere.
    """
    import jinja2

    sources = {(answer.camera, answer.source) for answer in answers}
    several = len(sources) > len({camera for camera, _ in sources})

    def line(answer: Answer) -> str:
        return f"{answer.camera}, {answer.source}" if several else answer.camera

    ordered = sorted(answers, key=lambda answer: (line(answer), answer.start))
    lines = []
    for name, group in groupby(ordered, key=line):
        on_line = list(group)
        end = max(answer.end for answer in on_line)
        lines.append((name, on_line, on_line[0].start, end, notes.get(on_line[0].source)))

    def thumbnails(answer: Answer) -> Iterator[tuple[int, bytes]]:
        most = MOST_THUMBNAILS if len(answer.objects) == 1 else 1
        for number in answer.objects[:MOST_THUMBNAILS]:
            for jpeg in crops_of(number)[:most]:
                yield number, jpeg

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["encoded"] = lambda jpeg: base64.b64encode(jpeg).decode()
    return environment.from_string(_PAGE).render(
        label=label,
        summary=summary,
        lines=lines,
        most=MOST_THUMBNAILS,
        thumbnails=thumbnails,
        scenes=scenes,
        clips=clips,
    )
