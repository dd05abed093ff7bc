"""Reading a footage store: the candidates of a question, and the parts of an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from trtkit.video.footage.database import Database, unpack_sightings
from trtkit.video.objects import Sighting


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
        "SELECT o.id, r.source, o.start_us, o.end_us, c.representative, r.score "
        "FROM ranks r JOIN objects o ON o.cluster = r.cluster AND o.segment = r.segment "
        "JOIN clusters c ON c.id = r.cluster "
        "WHERE r.class = ? AND r.source = ? AND r.segment BETWEEN ? AND ? "
        "AND r.rank < ? AND r.score >= ?",
        (label, span.source, low, high, top, least),
    )
    inside = [
        candidate
        for candidate in map(Candidate._make, rows)
        if (span.start_us is None or candidate.end_us >= span.start_us)
        and (span.end_us is None or candidate.start_us <= span.end_us)
    ]
    return sorted(inside, key=attrgetter("start_us", "object"))


def _chunks(database: Database, span: Span) -> tuple[int, int]:
    """The first and the last chunk in which a span can have frames."""
    (bounds,) = database.rows(
        "SELECT min(number), max(number) FROM segments WHERE source = ? "
        "AND (? IS NULL OR end_us >= ?) AND (? IS NULL OR start_us <= ?)",
        (span.source, span.start_us, span.start_us, span.end_us, span.end_us),
    )
    low, high = bounds
    return (0, -1) if low is None else (low, high)


def keys_of(database: Database, objects: Sequence[int]) -> dict[int, tuple[int, bytes]]:
    """The source and the feature map's key of each object."""
    rows = database.rows_among("SELECT id, source, key FROM objects WHERE id IN", objects)
    return {number: (source, key) for number, source, key in rows}


def crop_of(database: Database, number: int) -> bytes | None:
    """An object's crop, JPEG; None where it is missing."""
    rows = database.rows("SELECT jpeg FROM crops WHERE object = ?", (number,))
    return bytes(rows[0][0]) if rows else None


def sightings_of(database: Database, objects: Sequence[int]) -> dict[int, list[Sighting]]:
    """The sightings of each object."""
    rows = database.rows_among("SELECT object, packed FROM sightings WHERE object IN", objects)
    return {number: unpack_sightings(packed) for number, packed in rows}
