"""Writing a footage store: sources, and the objects of one chunk at a time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.clusters import Cluster
from trtkit.video.detections import Sighting
from trtkit.video.footage.database import (
    Database,
    pack_sightings,
    pack_top,
    pack_vector,
    unpack_top,
    unpack_vector,
)
from trtkit.video.footage.schema import SOURCES
from trtkit.video.frames import Gap


@dataclass(frozen=True)
class SourceRow:
    """A source as the store knows it.

    `next_segment`: the first chunk that is not committed; `frames`: how many come before it; `end_us`:
    the time of the last one; `start_us`: when the first one was taken, microseconds since 1970, None if
    unknown. `width` and `height` of frames in pixels, and `frame_rate`: see `Footage`; None if unknown.
    `zone`: the camera's time zone, a name or an offset, empty if unknown.
    """

    id: int
    camera: str
    location: str
    fingerprint: str
    options: str
    start_us: int | None
    next_segment: int
    frames: int
    end_us: int
    complete: bool
    width: int | None = None
    height: int | None = None
    frame_rate: float | None = None
    zone: str = ""


@dataclass(frozen=True)
class IndexedPicture:
    """A picture of an object, as JPEG, and where it was taken; `key`: of its feature map.

    `labels` and `scores`: its best classes, best first. `vector`: its features, None where the bundle gives
    none.
    """

    key: bytes
    jpeg: bytes
    sighting: Sighting
    labels: Array
    scores: Array
    vector: Array | None


@dataclass(frozen=True)
class IndexedObject:
    """An object to commit, with its whole track and its pictures, the best first.

    `labels`, `scores` and `vector` are those of all its pictures together. The first object of a cluster
    without an id is the cluster's representative.
    """

    sightings: Sequence[Sighting]
    pictures: Sequence[IndexedPicture]
    labels: Array
    scores: Array
    vector: Array | None
    cluster: Cluster


@dataclass(frozen=True)
class ChunkRecord:
    """The frames of a chunk, the times of the first and the last one, its gaps, the objects that end in it.

    `handover`: what the next chunk continues from; nothing where the source ends.
    """

    number: int
    frames: int
    start_us: int
    end_us: int
    objects: Sequence[IndexedObject]
    gaps: Sequence[Gap]
    handover: bytes = b""

    @property
    def since_us(self) -> int:
        """When the first of its objects appeared, which may be before the chunk."""
        return min([self.start_us, *(item.sightings[0].time_us for item in self.objects)])


def _source_query(database: Database) -> str:
    return (
        "SELECT id, camera, location, fingerprint, options, start_us, next_segment, frames, end_us, "
        f"complete, width, height, frame_rate, zone, {database.sound('sources', 's')} FROM sources s"
    )


def source_rows(database: Database) -> list[SourceRow]:
    """All sources, in the order they were first ingested."""
    rows = database.sound_rows(f"{_source_query(database)} ORDER BY id")
    database.check_count(rows, SOURCES)
    return [_source(row) for row in rows]


def source_row(database: Database, source: int) -> SourceRow:
    """The source with that id."""
    return next(row for row in source_rows(database) if row.id == source)


def register(
    database: Database,
    camera: str,
    location: str,
    fingerprint: str,
    options: str,
    *,
    locked: bool = False,
    former: str | None = None,
    frame_rate: float | None = None,
    zone: str = "",
) -> SourceRow:
    """The source's row, made the first time.

    `former`: what earlier versions took for the fingerprint, which is replaced. `frame_rate` and `zone`, if
    known, are taken into a row in which they are unknown.
    `locked`: its lock is held, and it has this fingerprint and these options from now on. Raises
    TrtkitError when a part of it was ingested from other footage or with other options.
    """
    with database.transaction() as sql:
        sql.execute(
            "INSERT OR IGNORE INTO sources (camera, location, fingerprint, options) VALUES (?, ?, ?, ?)",
            (camera, location, fingerprint, options),
        )
        sql.execute(
            "UPDATE sources SET fingerprint = ? WHERE camera = ? AND location = ? AND fingerprint = ?",
            (fingerprint, camera, location, former),
        )
        rate = "" if frame_rate is None else repr(frame_rate)
        if locked:
            # An ingest that was interrupted before its first commit does not bind the next one.
            sql.execute(
                "UPDATE sources SET fingerprint = ?, options = ?, frame_rate = ? "
                "WHERE camera = ? AND location = ? AND frames = 0 AND complete = 0",
                (fingerprint, options, rate, camera, location),
            )
        # Other footage is refused below.
        own = (camera, location, fingerprint)
        for column, value in (("frame_rate", rate), ("zone", zone)):
            if value:
                sql.execute(
                    f"UPDATE sources SET {column} = ? WHERE camera = ? AND location = ? "
                    f"AND fingerprint = ? AND {column} = ''",
                    (value, *own),
                )
        query = f"{_source_query(database)} WHERE camera = ? AND location = ?"
        (row,) = map(_source, database.sound_rows(query, (camera, location)))
    if row.frames or row.complete:
        _check_same(row, fingerprint, options)
    return row


def _check_same(row: SourceRow, fingerprint: str, options: str) -> None:
    location, camera = row.location, row.camera
    if row.fingerprint != fingerprint:
        raise TrtkitError(
            f"{location} held other footage when it was ingested as {camera}; choose another camera name, "
            f"as in NAME={location}."
        )
    if row.options != options:
        raise TrtkitError(
            f"{location} was ingested as {camera} with other options ({_differing(row.options, options)}); "
            "use those for the rest of it, or another --store."
        )


def _differing(earlier: str, current: str) -> str:
    """The options of an earlier run that differ from those of this one."""
    before, now = json.loads(earlier), json.loads(current)
    return ", ".join(
        f"{name} {before[name]}" for name in before if name not in now or before[name] != now[name]
    )


def set_zone(database: Database, source: int, zone: str) -> None:
    """Set the time zone of a source, which may be complete."""
    with database.transaction() as sql:
        sql.execute("UPDATE sources SET zone = ? WHERE id = ?", (zone, source))


def known_clusters(database: Database, source: int, limit: int) -> list[Cluster]:
    """The most recently used clusters of a source, at most `limit`, the least recent first."""
    rows = database.sound_rows(
        "SELECT c.id, c.label, c.used, v.packed, "
        f"{database.sound('clusters', 'c')} AND {database.sound('vectors', 'v')} "
        "FROM clusters c JOIN vectors v ON v.object = c.representative WHERE c.source = ? "
        "ORDER BY c.used DESC LIMIT ?",
        (source, limit),
    )
    clusters = [Cluster(unpack_vector(packed), label, used, id) for id, label, used, packed in rows]
    return clusters[::-1]


def handover_of(database: Database, source: int) -> bytes:
    """What the last committed chunk of a source hands to the next one, empty where there is nothing."""
    rows = database.sound_rows(
        f"SELECT packed, {database.sound('handovers', 'h')} FROM handovers h WHERE source = ?",
        (source,),
    )
    return bytes(rows[0][0]) if rows else b""


def commit_chunk(
    database: Database,
    source: int,
    record: ChunkRecord,
    *,
    start_us: int | None = None,
    size: tuple[int, int] | None = None,
    last: bool = False,
) -> None:
    """Write a chunk's objects and what it hands on, in one transaction. New clusters get their ids.

    `start_us`: when the source's first frame was taken, microseconds since 1970; `size`: width and height
    of its frames; both are ignored where the store has them already. `last`: the source ends with this
    chunk.
    """
    new_clusters = [item.cluster for item in record.objects if item.cluster.id is None]
    try:
        with database.transaction() as sql:
            for item in record.objects:
                _write_object(sql, source, record.number, item)
            _write_ranks(sql, source, record)
            _write_gaps(sql, source, record.gaps)
            sql.execute(
                "INSERT INTO segments (source, number, start_us, end_us, frames, objects, since_us) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    source, record.number, record.start_us, record.end_us, record.frames,
                    len(record.objects), record.since_us,
                ),
            )  # fmt: skip
            sql.execute("DELETE FROM handovers WHERE source = ?", (source,))
            if record.handover:
                sql.execute(
                    "INSERT INTO handovers (source, packed) VALUES (?, ?)",
                    (source, record.handover),
                )
            sql.execute(
                "UPDATE sources SET next_segment = ?, frames = frames + ?, end_us = ?, complete = ?, "
                "start_us = coalesce(start_us, ?), width = coalesce(width, ?), "
                "height = coalesce(height, ?) WHERE id = ?",
                (
                    record.number + 1, record.frames, record.end_us, last, start_us,
                    *(size or (None, None)), source,
                ),
            )  # fmt: skip
    except BaseException:
        for cluster in new_clusters:
            cluster.id = None
        raise


def complete(database: Database, source: int, gaps: Sequence[Gap]) -> None:
    """Mark a source as ingested to its end where no frames are left, only gaps at most."""
    with database.transaction() as sql:
        _write_gaps(sql, source, gaps)
        sql.execute("UPDATE sources SET complete = 1 WHERE id = ?", (source,))


def _source(row: tuple[Any, ...]) -> SourceRow:
    source = SourceRow(*row)
    rate = float(source.frame_rate) if source.frame_rate else None
    return replace(source, complete=bool(source.complete), frame_rate=rate)


def _write_gaps(sql: sqlite3.Connection, source: int, gaps: Sequence[Gap]) -> None:
    sql.executemany(
        "INSERT INTO gaps (source, start_us, end_us, reason) VALUES (?, ?, ?, ?)",
        [(source, gap.start_us, gap.end_us, gap.reason) for gap in gaps],
    )


def _write_object(sql: sqlite3.Connection, source: int, chunk: int, item: IndexedObject) -> None:
    cluster = item.cluster
    is_representative = cluster.id is None
    if is_representative:
        cluster.id = sql.execute(
            "INSERT INTO clusters (source, representative, label, used) VALUES (?, 0, ?, 0)",
            (source, cluster.label),
        ).lastrowid
    times = (item.sightings[0].time_us, item.sightings[-1].time_us)
    number = sql.execute(
        "INSERT INTO objects (source, segment, cluster, start_us, end_us, top) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (source, chunk, cluster.id, *times, pack_top(item.labels, item.scores)),
    ).lastrowid
    if is_representative:
        sql.execute("UPDATE clusters SET representative = ? WHERE id = ?", (number, cluster.id))
    sql.execute("UPDATE clusters SET used = ? WHERE id = ?", (cluster.used, cluster.id))
    sql.execute(
        "INSERT INTO sightings (object, packed) VALUES (?, ?)",
        (number, pack_sightings(item.sightings)),
    )
    sql.executemany(
        "INSERT INTO pictures (object, place, key, jpeg, frame, time_us, x, y, width, height, top, vector) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number, place, picture.key, picture.jpeg, picture.sighting.frame,
                picture.sighting.time_us, *picture.sighting.box,
                pack_top(picture.labels, picture.scores),
                b"" if picture.vector is None else pack_vector(picture.vector),
            )
            for place, picture in enumerate(item.pictures)
        ],
    )  # fmt: skip
    if item.vector is not None:
        sql.execute(
            "INSERT INTO vectors (object, packed) VALUES (?, ?)", (number, pack_vector(item.vector))
        )


def _write_ranks(sql: sqlite3.Connection, source: int, record: ChunkRecord) -> None:
    """For each cluster with objects in the chunk, the best classes of its representative."""
    # In the order of the table, which numbers its rows.
    for cluster in sorted({int(item.cluster.id or 0) for item in record.objects}):
        (packed,) = sql.execute(
            "SELECT o.top FROM clusters c JOIN objects o ON o.id = c.representative WHERE c.id = ?",
            (cluster,),
        ).fetchone()
        labels, scores = unpack_top(packed)
        sql.executemany(
            "INSERT INTO ranks (class, source, segment, cluster, rank, score) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (label, source, record.number, cluster, rank, score)
                for rank, (label, score) in enumerate(
                    zip(labels.tolist(), scores.tolist(), strict=True)
                )
            ],
        )
