"""Reading a footage store: the candidates of a question, and the parts of an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.database import Database, unpack_sightings
from trtkit.video.footage.schema import SEGMENTS

# Above the number of any chunk.
_LAST_CHUNK = 2**40


class Candidate(NamedTuple):
    """An object that may be of the class in question.

    `representative`: the object that the expensive tail classifies for the whole cluster; `score`: what
    the cheap tail gives that one for the class, 0 to 1.
    """

    object: int
    source: int
    start_us: int
    end_us: int
    representative: int
    score: float


@dataclass(frozen=True)
class Span:
    """A stretch of one source, in microseconds since its first frame; None is open."""

    source: int
    start_us: int | None = None
    end_us: int | None = None


def candidates(
    database: Database, label: int, span: Span, top: int, least: float
) -> list[Candidate]:
    """Objects of a source whose cluster ranks `label` in its `top` best classes, in order of time.

    `least`: the score that the class has at least.
    """
    low, high = _chunks(database, span)
    # Only columns of objects that an index holds, so that none of their rows is read.
    rows = database.rows(
        "SELECT r.segment, r.cluster, r.rank, r.score, r.place, r.objects, "
        f"{database.sound('ranks', 'r')}, o.id, o.start_us, o.end_us, c.representative, "
        f"{database.sound('span', 'o')} AND {database.sound('clusters', 'c')} "
        "FROM ranks r LEFT JOIN objects o ON o.cluster = r.cluster AND o.segment = r.segment "
        "LEFT JOIN clusters c ON c.id = r.cluster "
        "WHERE r.class = ? AND r.source = ? AND r.segment BETWEEN ? AND ? "
        "ORDER BY r.segment, r.cluster",
        (label, span.source, low, high),
    )
    _check_whole(database, label, span.source, (low, high), rows)
    inside = [
        Candidate(number, span.source, start_us, end_us, representative, score)
        for _, _, rank, score, _, _, _, number, start_us, end_us, representative, _ in rows
        if rank < top
        and score >= least
        and (span.start_us is None or end_us >= span.start_us)
        and (span.end_us is None or start_us <= span.end_us)
    ]
    return sorted(inside, key=attrgetter("start_us", "object"))


def _check_whole(
    database: Database, label: int, source: int, bounds: tuple[int, int], rows: Sequence[Any]
) -> None:
    """Raise TrtkitError unless the rows of a question are as they were written, and all there are.

    They are in the order of the ranks, whose places have no gap; a rank has a row for each of its objects.
    """
    if not all(row[6] and row[11] for row in rows):
        raise database.damage("a row of the index is not as it was written")
    count = database.count_of(label, source)
    before, behind = (
        database.sound_rows(
            f"SELECT r.place, {database.sound('ranks', 'r')} FROM ranks r WHERE class = ? AND source = ? "
            f"AND segment {side} ? ORDER BY segment {order}, cluster {order} LIMIT 1",
            (label, source, bound),
        )
        for side, order, bound in (("<", "DESC", bounds[0]), (">", "ASC", bounds[1]))
    )
    place = before[0][0] if before else 0
    for _, group in groupby(rows, key=itemgetter(0, 1)):
        of_rank = list(group)
        place += 1
        if of_rank[0][4] != place or len(of_rank) != of_rank[0][5]:
            raise database.damage("rows of the index are missing")
    if (behind[0][0] != place + 1) if behind else (count != place):
        raise database.damage("rows of the index are missing")


def _chunks(database: Database, span: Span) -> tuple[int, int]:
    """The first and the last chunk with objects that can be in a span."""
    if span.start_us is None and span.end_us is None:
        return 0, _LAST_CHUNK
    rows = database.sound_rows(
        f"SELECT number, since_us, end_us, {database.sound('segments', 's')} FROM segments s "
        "WHERE source = ? ORDER BY number",
        (span.source,),
    )
    database.check_count(rows, SEGMENTS, span.source)
    numbers = [
        number
        for number, since_us, end_us in rows
        if (span.start_us is None or end_us >= span.start_us)
        and (span.end_us is None or since_us <= span.end_us)
    ]
    return (numbers[0], numbers[-1]) if numbers else (0, -1)


class StoredPicture(NamedTuple):
    """A picture of an object: the source and the key of its feature map, and where it was taken."""

    object: int
    place: int
    source: int
    key: bytes
    sighting: Sighting


def pictures_of(database: Database, objects: Sequence[int]) -> dict[int, list[StoredPicture]]:
    """The pictures of each object, the best first. Raises TrtkitError where one has none."""
    rows = database.sound_rows_of(
        "SELECT o.id, p.place, o.source, p.key, p.frame, p.time_us, p.x, p.y, p.width, p.height, "
        f"{database.sound('pictures', 'p')} AND {database.sound('objects', 'o')} FROM objects o "
        "JOIN pictures p ON p.object = o.id WHERE o.id IN",
        objects,
        all_there=False,
    )
    pictures: dict[int, list[StoredPicture]] = {}
    for number, place, source, key, frame, time_us, *box in sorted(rows):
        sighting = Sighting(frame, time_us, Box(*box))
        picture = StoredPicture(number, place, source, key, sighting)
        pictures.setdefault(number, []).append(picture)
    for number in objects:
        places = [picture.place for picture in pictures.get(number, [])]
        if not places or places != list(range(len(places))):
            raise database.damage(f"a picture of object {number} is missing")
    return pictures


def jpeg_of(database: Database, number: int, place: int = 0) -> bytes | None:
    """A picture of an object, by default the best; None where it is missing."""
    rows = database.sound_rows(
        f"SELECT jpeg, {database.sound('pictures', 'p')} FROM pictures p WHERE object = ? AND place = ?",
        (number, place),
    )
    return bytes(rows[0][0]) if rows else None


def sightings_of(database: Database, objects: Sequence[int]) -> dict[int, list[Sighting]]:
    """The sightings of each object."""
    rows = database.sound_rows_of(
        f"SELECT object, packed, {database.sound('sightings', 's')} FROM sightings s WHERE object IN",
        objects,
    )
    return {number: unpack_sightings(packed) for number, packed in rows}
