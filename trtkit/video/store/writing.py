"""Writing a store: sources, and the objects of one segment at a time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.clusters import Cluster
from trtkit.video.frames import Gap
from trtkit.video.objects import Sighting
from trtkit.video.store.database import Database
from trtkit.video.store.packed import (
    pack_sightings,
    pack_top,
    pack_vector,
    unpack_top,
    unpack_vector,
)


@dataclass(frozen=True)
class SourceRow:
    """A source as the store knows it.

    `next_segment` is the first one that is not committed, `frames` how many were before it; `end_us`
    where the last frame was; `start_us` when the first one was taken, microseconds since 1970, if known.
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


@dataclass(frozen=True)
class IndexedObject:
    """An object as it is committed. `vector`: its features, None where the bundle gives none.

    The first object of a cluster that is not in the store yet is the one that began it.
    """

    key: bytes
    crop: bytes
    sightings: Sequence[Sighting]
    labels: Array
    scores: Array
    vector: Array | None
    cluster: Cluster


@dataclass(frozen=True)
class SegmentRecord:
    """What ingest found in a segment: `frames` of it, the times of the first and the last one."""

    number: int
    frames: int
    start_us: int
    end_us: int
    objects: Sequence[IndexedObject]
    gaps: Sequence[Gap]


_SOURCE = (
    "SELECT id, camera, location, fingerprint, options, start_us, next_segment, frames, end_us, "
    "complete FROM sources"
)


def source_rows(database: Database) -> list[SourceRow]:
    """All sources, in the order they were first ingested."""
    return [_source(row) for row in database.rows(f"{_SOURCE} ORDER BY id")]


def source_row(database: Database, source: int) -> SourceRow:
    """The source of that id."""
    return _source(database.rows(f"{_SOURCE} WHERE id = ?", (source,))[0])


def register(
    database: Database, camera: str, location: str, fingerprint: str, options: str
) -> SourceRow:
    """The source's row, made the first time.

    Raises TrtkitError when some of it was ingested and it was other footage, or with other options.
    """
    with database.transaction() as sql:
        sql.execute(
            "INSERT OR IGNORE INTO sources (camera, location, fingerprint, options) VALUES (?, ?, ?, ?)",
            (camera, location, fingerprint, options),
        )
        row = _named(sql, camera, location)
    if row.frames or row.complete:
        _check_same(row, fingerprint, options)
    return row


def begin(
    database: Database, camera: str, location: str, fingerprint: str, options: str
) -> SourceRow:
    """The row of a source that nobody else writes to: what is told of it holds from now on.

    Raises TrtkitError as `register` does.
    """
    with database.transaction() as sql:
        # What was broken off before its first commit binds nobody.
        sql.execute(
            "UPDATE sources SET fingerprint = ?, options = ? "
            "WHERE camera = ? AND location = ? AND frames = 0 AND complete = 0",
            (fingerprint, options, camera, location),
        )
        row = _named(sql, camera, location)
    _check_same(row, fingerprint, options)
    return row


def _named(sql: sqlite3.Connection, camera: str, location: str) -> SourceRow:
    found = sql.execute(f"{_SOURCE} WHERE camera = ? AND location = ?", (camera, location))
    return _source(found.fetchone())


def _check_same(row: SourceRow, fingerprint: str, options: str) -> None:
    location, camera = row.location, row.camera
    if row.fingerprint != fingerprint:
        raise TrtkitError(
            f"{location} was ingested as {camera} when it held other footage; give it another camera "
            f"name, as in NAME={location}."
        )
    if row.options != options:
        raise TrtkitError(
            f"{location} was ingested as {camera} with other options ({_differing(row.options, options)}), "
            "and its rest needs the same; give those, or another --store."
        )


def _differing(theirs: str, mine: str) -> str:
    """What the options of an earlier run were, where they are not those of this one."""
    before, now = json.loads(theirs), json.loads(mine)
    return ", ".join(
        f"{name} {before[name]}" for name in before if name not in now or before[name] != now[name]
    )


def known_clusters(database: Database, source: int, limit: int) -> list[Cluster]:
    """The clusters of a source that were used last, at most `limit`, the longest unused first."""
    rows = database.rows(
        "SELECT c.id, c.label, c.used, v.packed FROM clusters c JOIN vectors v "
        "ON v.object = c.representative WHERE c.source = ? ORDER BY c.used DESC LIMIT ?",
        (source, limit),
    )
    return [Cluster(unpack_vector(packed), label, used, id) for id, label, used, packed in rows][
        ::-1
    ]


def commit_segment(
    database: Database,
    source: int,
    record: SegmentRecord,
    *,
    start_us: int | None = None,
    last: bool = False,
) -> None:
    """Write a segment's objects and that it is done, all at once. New clusters get their ids.

    `start_us`: when the source's first frame was taken, microseconds since 1970, which is kept unless
    it is known. `last`: the source has no more.
    """
    begun = [each.cluster for each in record.objects if each.cluster.id is None]
    try:
        with database.transaction() as sql:
            for each in record.objects:
                _write_object(sql, source, record.number, each)
            _write_ranks(sql, source, record)
            _write_gaps(sql, source, record.gaps)
            sql.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)",
                (
                    source,
                    record.number,
                    record.start_us,
                    record.end_us,
                    record.frames,
                    len(record.objects),
                ),
            )
            sql.execute(
                "UPDATE sources SET next_segment = ?, frames = frames + ?, end_us = ?, complete = ?, "
                "start_us = coalesce(start_us, ?) WHERE id = ?",
                (record.number + 1, record.frames, record.end_us, last, start_us, source),
            )
    except BaseException:
        for cluster in begun:
            cluster.id = None
        raise


def complete(database: Database, source: int, gaps: Sequence[Gap]) -> None:
    """Say that the source was ingested to its end, where no frames are left but maybe gaps."""
    with database.transaction() as sql:
        _write_gaps(sql, source, gaps)
        sql.execute("UPDATE sources SET complete = 1 WHERE id = ?", (source,))


def _source(row: tuple[Any, ...]) -> SourceRow:
    return replace(SourceRow(*row), complete=bool(row[-1]))


def _write_gaps(sql: sqlite3.Connection, source: int, gaps: Sequence[Gap]) -> None:
    sql.executemany(
        "INSERT INTO gaps VALUES (?, ?, ?, ?)",
        [(source, gap.start_us, gap.end_us, gap.reason) for gap in gaps],
    )


def _write_object(sql: sqlite3.Connection, source: int, segment: int, each: IndexedObject) -> None:
    cluster = each.cluster
    begins = cluster.id is None
    if begins:
        cluster.id = sql.execute(
            "INSERT INTO clusters (source, representative, label, used) VALUES (?, 0, ?, 0)",
            (source, cluster.label),
        ).lastrowid
    times = (each.sightings[0].time_us, each.sightings[-1].time_us)
    number = sql.execute(
        "INSERT INTO objects (source, segment, cluster, start_us, end_us, key, top) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (source, segment, cluster.id, *times, each.key, pack_top(each.labels, each.scores)),
    ).lastrowid
    if begins:
        sql.execute("UPDATE clusters SET representative = ? WHERE id = ?", (number, cluster.id))
    sql.execute("UPDATE clusters SET used = ? WHERE id = ?", (cluster.used, cluster.id))
    sql.execute("INSERT INTO sightings VALUES (?, ?)", (number, pack_sightings(each.sightings)))
    sql.execute("INSERT INTO crops VALUES (?, ?)", (number, each.crop))
    if each.vector is not None:
        sql.execute("INSERT INTO vectors VALUES (?, ?)", (number, pack_vector(each.vector)))


def _write_ranks(sql: sqlite3.Connection, source: int, record: SegmentRecord) -> None:
    """For each cluster with objects in the segment, the best classes of what began it."""
    for cluster in {each.cluster.id for each in record.objects}:
        (packed,) = sql.execute(
            "SELECT o.top FROM clusters c JOIN objects o ON o.id = c.representative WHERE c.id = ?",
            (cluster,),
        ).fetchone()
        labels, scores = unpack_top(packed)
        sql.executemany(
            "INSERT INTO ranks VALUES (?, ?, ?, ?, ?, ?)",
            [
                (label, source, record.number, cluster, rank, score)
                for rank, (label, score) in enumerate(
                    zip(labels.tolist(), scores.tolist(), strict=True)
                )
            ],
        )
