"""Reading a store: the candidates of a question, and what is known of an object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from trtkit.video.objects import Sighting
from trtkit.video.store.database import Database
from trtkit.video.store.packed import unpack_sightings


class Candidate(NamedTuple):
    """An object that may be of the class asked for.

    `asked`: the object that began its cluster, which is asked in its place; `score`: the cheap tail's
    for that one and the class, 0 to 1.
    """

    object: int
    source: int
    start_us: int
    end_us: int
    asked: int
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
    """Objects of a source in whose cluster's `top` best classes is `label`, with at least that score.

    In the order of their times.
    """
    low, high = _segments(database, span)
    # Of objects only what the index holds, so that no row of them is read.
    rows = database.rows(
        "SELECT o.id, r.source, o.start_us, o.end_us, c.representative, r.score "
        "FROM ranks r JOIN objects o ON o.cluster = r.cluster AND o.segment = r.segment "
        "JOIN clusters c ON c.id = r.cluster "
        "WHERE r.class = ? AND r.source = ? AND r.segment BETWEEN ? AND ? "
        "AND r.rank < ? AND r.score >= ?",
        (label, span.source, low, high, top, least),
    )
    found = [
        each
        for each in map(Candidate._make, rows)
        if (span.start_us is None or each.end_us >= span.start_us)
        and (span.end_us is None or each.start_us <= span.end_us)
    ]
    found.sort(key=attrgetter("start_us", "object"))
    return found


def _segments(database: Database, span: Span) -> tuple[int, int]:
    """The first and the last segment that a span can have frames in."""
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
    """An object's picture, JPEG; None where it is missing."""
    rows = database.rows("SELECT jpeg FROM crops WHERE object = ?", (number,))
    return bytes(rows[0][0]) if rows else None


def sightings_of(database: Database, objects: Sequence[int]) -> dict[int, list[Sighting]]:
    """The frames that each object was seen on."""
    rows = database.rows_among("SELECT object, packed FROM sightings WHERE object IN", objects)
    return {number: unpack_sightings(packed) for number, packed in rows}
