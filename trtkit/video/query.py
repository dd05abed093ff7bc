"""Answering a question: candidates from the index, verdicts of the expensive tail, appearances."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import itemgetter

from trtkit.errors import TrtkitError, available, listed
from trtkit.labels import clean_label
from trtkit.reporting import message
from trtkit.scores import HOLDS, Scoring
from trtkit.video.detections import Sighting
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import Candidate, Span, candidates, sightings_of
from trtkit.video.footage.settings import Identity
from trtkit.video.footage.writing import SourceRow
from trtkit.video.frames import MICROSECONDS
from trtkit.video.judging import Judge, Judged, Verdict
from trtkit.video.times import parse_time, since_start

# How many verdicts are looked up at once, and how many objects the first batch has, which is small so
# that the first answer comes soon.
LOOKED_UP = 500
FIRST_BATCH = 4


@dataclass(frozen=True)
class Question:
    """`label`: the class; `spans`: where to look; `limit`: of appearances.

    `top` and `least`: an object is a candidate if its cluster's representative has the class among its
    `top` best ones with at least that score of the cheap tail. `confidence`: the least score of the
    expensive tail. `gap_us`: objects of one source that are at most so far apart in time are one
    appearance; None: each object is one. `seconds`: after which no more objects are classified.
    """

    label: str
    spans: tuple[Span, ...]
    top: int
    least: float = 0.0
    confidence: float = 0.0
    limit: int | None = None
    gap_us: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for option, value in (("--top", self.top), ("--limit", self.limit)):
            if value is not None and value < 1:
                raise TrtkitError(f"{option} {value} is too small; choose 1 or more.")


@dataclass(frozen=True)
class Appearance:
    """A confirmed object, or several of one source whose times a question joins (`Question.gap_us`).

    `start_us` and `end_us`: microseconds since the source's first frame; `sightings`: every object on
    every frame, by time; `confidence`: the expensive tail's highest score, 0 to 1; `objects`: their
    numbers in the store; `picture`: the number of the one with that score.
    """

    source: int
    start_us: int
    end_us: int
    confidence: float
    objects: tuple[int, ...]
    picture: int
    sightings: tuple[Sighting, ...]


@dataclass
class Explanation:
    """What the answer took: counts of objects, seconds of each step."""

    candidates: int = 0
    clusters: int = 0
    confirmed: int = 0
    appearances: int = 0
    finding_seconds: float = 0.0
    first_seconds: float | None = None
    seconds: float = 0.0
    out_of_time: bool = False
    judged: Judged = field(default_factory=Judged)


class Search:
    """One question to one store.

    `judge` gives verdicts; `classes` are the expensive tail's, whose outputs become scores by `scoring`:
    independent labels hold from 0.5 on unless the question gives a confidence.
    """

    def __init__(
        self,
        database: Database,
        owner: Identity,
        judge: Judge,
        classes: Sequence[str],
        question: Question,
        scoring: Scoring = "softmax",
    ) -> None:
        self._database = database
        self._judge = judge
        self._least = question.confidence or (HOLDS if scoring == "sigmoid" else 0.0)
        self._question = question
        self._cheap_label = class_index(owner.classes, question.label, owner.tail)
        self._label = class_index(classes, question.label, "the tail that answers")
        self.explanation = Explanation(judged=judge.judged)

    def appearances(self) -> Iterator[Appearance]:
        """The appearances as they are confirmed, the most likely ones first."""
        begun = time.perf_counter()
        explanation, question = self.explanation, self._question
        groups = self._groups()
        explanation.finding_seconds = time.perf_counter() - begun
        order = list(
            dict.fromkeys(candidate.representative for group in groups for candidate in group)
        )
        explanation.clusters = len(order)
        deadline = None if question.seconds is None else begun + question.seconds
        verdicts = _VerdictQueue(self._judge, order, deadline)
        try:
            for group in groups:
                for confirmed in merged(self._confirmed(group, verdicts), question.gap_us or 0):
                    if explanation.first_seconds is None:
                        explanation.first_seconds = time.perf_counter() - begun
                    explanation.appearances += 1
                    explanation.seconds = time.perf_counter() - begun
                    yield self._appearance(confirmed)
                    if explanation.appearances == question.limit:
                        return
                if verdicts.out_of_time:
                    return
        finally:
            explanation.out_of_time = verdicts.out_of_time
            explanation.seconds = time.perf_counter() - begun

    def _groups(self) -> list[list[Candidate]]:
        """Candidates in groups that cannot share an appearance, the best first.

        Of groups with equal scores the smaller come first: a group shows nothing before all of its
        objects are classified. Without a gap each candidate is a group and needs only its own verdict.
        """
        question = self._question
        groups: list[list[Candidate]] = []
        for span in question.spans:
            in_span = candidates(
                self._database, self._cheap_label, span, question.top, question.least
            )
            self.explanation.candidates += len(in_span)
            groups += (
                [[candidate] for candidate in in_span]
                if question.gap_us is None
                else grouped(in_span, question.gap_us)
            )
        groups.sort(key=lambda group: (-round(max(item.score for item in group), 2), len(group)))
        return groups

    def _confirmed(
        self, group: Sequence[Candidate], verdicts: _VerdictQueue
    ) -> Iterator[tuple[Candidate, float]]:
        for candidate in group:
            verdict = verdicts.of(candidate.representative)
            if verdict is None:
                return
            if verdict.label == self._label and verdict.score >= self._least:
                self.explanation.confirmed += 1
                yield candidate, verdict.score

    def _appearance(self, confirmed: Sequence[tuple[Candidate, float]]) -> Appearance:
        members = [candidate for candidate, _ in confirmed]
        objects = tuple(member.object for member in members)
        by_object = sightings_of(self._database, objects)
        sightings = sorted(
            (sighting for number in objects for sighting in by_object.get(number, ())),
            key=lambda sighting: (sighting.time_us, sighting.box),
        )
        best, confidence = max(confirmed, key=itemgetter(1))
        return Appearance(
            source=members[0].source,
            start_us=min(member.start_us for member in members),
            end_us=max(member.end_us for member in members),
            confidence=confidence,
            objects=objects,
            picture=best.object,
            sightings=tuple(sightings),
        )


class _VerdictQueue:
    """Verdicts in the order in which they are needed, computed in batches a little ahead."""

    def __init__(self, judge: Judge, order: Sequence[int], deadline: float | None) -> None:
        self._judge = judge
        self._order = order
        self._deadline = deadline
        self._looked_up = 0
        self._unknown: list[int] = []
        self._verdicts: dict[int, Verdict] = {}
        self._batch = FIRST_BATCH
        self.out_of_time = False

    def of(self, number: int) -> Verdict | None:
        """The verdict on an object, None when time ran out before."""
        while number not in self._verdicts:
            if self._unknown and (number in self._unknown or self._looked_up == len(self._order)):
                if self._deadline is not None and time.perf_counter() >= self._deadline:
                    self.out_of_time = True
                    return None
                self._compute()
            elif self._looked_up < len(self._order):
                self._look_up()
            else:
                raise TrtkitError(
                    f"Object {number} has no verdict; `trtkit store verify` checks whether the footage "
                    "store is whole."
                )
        return self._verdicts[number]

    def _look_up(self) -> None:
        part = self._order[self._looked_up : self._looked_up + LOOKED_UP]
        self._looked_up += len(part)
        known = self._judge.known(part)
        self._judge.judged.remembered += len(known)
        self._verdicts.update(known)
        self._unknown += [number for number in part if number not in known]

    def _compute(self) -> None:
        part, self._unknown = self._unknown[: self._batch], self._unknown[self._batch :]
        self._verdicts.update(self._judge.compute(part))
        self._batch = min(2 * self._batch, self._judge.batch)


def grouped(candidates: Sequence[Candidate], gap_us: int) -> list[list[Candidate]]:
    """Candidates of one source in order of time, split wherever there is none for longer than the gap.

    Whichever are confirmed, objects of two groups are never in one appearance.
    """
    groups: list[list[Candidate]] = []
    end = 0
    for candidate in candidates:
        if groups and candidate.start_us - end <= gap_us:
            groups[-1].append(candidate)
            end = max(end, candidate.end_us)
        else:
            groups.append([candidate])
            end = candidate.end_us
    return groups


def merged(
    confirmed: Iterable[tuple[Candidate, float]], gap_us: int
) -> Iterator[list[tuple[Candidate, float]]]:
    """Confirmed objects with their scores, in order of time, one list per appearance."""
    running: list[tuple[Candidate, float]] = []
    end = 0
    for candidate, score in confirmed:
        if running and candidate.start_us - end > gap_us:
            yield running
            running = []
        end = max(end, candidate.end_us) if running else candidate.end_us
        running.append((candidate, score))
    if running:
        yield running


def gap_of(seconds: float | None) -> int | None:
    """`--gap` in microseconds. Raises TrtkitError unless it is a length of time."""
    if seconds is None:
        return None
    if not (math.isfinite(seconds) and seconds >= 0):
        raise TrtkitError(f"--gap {seconds:g} is not a length of time; choose seconds from 0 on.")
    return round(seconds * MICROSECONDS)


def class_index(classes: Sequence[str], label: str, of: str) -> int:
    """The place of a class among those `of` a tail. Raises TrtkitError where it is not among them."""
    if clean_label(label) in classes:
        return list(classes).index(clean_label(label))
    raise TrtkitError(f"Class {label!r} not found in {of}; {available(label, classes)}.")


def spans_of(
    rows: Sequence[SourceRow], cameras: Sequence[str], since: str | None, until: str | None
) -> tuple[Span, ...]:
    """Where to look for a class: the sources of these cameras, all without any, between two times.

    Raises TrtkitError for an unknown camera, and for a time that is none or cannot be located.
    """
    names = list(dict.fromkeys(row.camera for row in rows))
    for camera in cameras:
        if camera not in names:
            raise TrtkitError(f"Camera {camera!r} not found; {available(camera, names)}.")
    low, high = (None if text is None else parse_time(text) for text in (since, until))
    selected = [row for row in rows if not cameras or row.camera in cameras]
    for text, when in ((since, low), (until, high)):
        _report_zone(text, when, selected)
    spans = tuple(
        Span(
            row.id,
            *(since_start(when, row.start_us, row.camera, row.zone) for when in (low, high)),
        )
        for row in selected
    )
    for span in spans:
        if span.start_us is not None and span.end_us is not None and span.start_us > span.end_us:
            raise TrtkitError(
                f"The time from {since} to {until} ends before it begins; give the earlier time first."
            )
    return spans


def _report_zone(text: str | None, when: int | datetime | None, rows: Sequence[SourceRow]) -> None:
    """Say that a date without a zone is in this machine's, for the cameras whose zone is unknown."""
    if not isinstance(when, datetime) or when.tzinfo is not None:
        return
    cameras = list(dict.fromkeys(row.camera for row in rows if not row.zone))
    if cameras:
        message(
            f"{text} has no time zone and is taken as this machine's, {when.astimezone():%Z (UTC%z)}, for "
            f"{listed(cameras)}; write Z or +01:00 behind it for another one, or set that of the cameras "
            "with `trtkit ingest --zone`."
        )
