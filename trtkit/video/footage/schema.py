"""The tables of a footage store, as a list of steps, and the seals of their rows.

A store of an earlier version is brought forward by the steps that it lacks. Every row has a seal: a sum
over its columns, written by triggers and compared by every read. One turned bit always changes it. A sum
does not show a row that is missing, so `tallies` counts the rows that a question relies on.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# Times are microseconds since a source's first frame. The table `segments` holds the chunks that were
# committed. `ranks` has a row for every chunk in which a cluster has objects, so that a question about
# a class and a time reads one stretch of one table.
_TABLES: Final = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (
    id INTEGER PRIMARY KEY,
    camera TEXT NOT NULL,
    location TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    options TEXT NOT NULL,
    start_us INTEGER,
    next_segment INTEGER NOT NULL DEFAULT 0,
    frames INTEGER NOT NULL DEFAULT 0,
    end_us INTEGER NOT NULL DEFAULT 0,
    complete INTEGER NOT NULL DEFAULT 0,
    UNIQUE (camera, location)
);
CREATE TABLE segments (
    source INTEGER NOT NULL,
    number INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    objects INTEGER NOT NULL,
    PRIMARY KEY (source, number)
) WITHOUT ROWID;
CREATE TABLE gaps (
    source INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    reason TEXT NOT NULL
);
CREATE TABLE clusters (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    representative INTEGER NOT NULL,
    label INTEGER NOT NULL,
    used INTEGER NOT NULL
);
CREATE INDEX clusters_by_use ON clusters (source, used);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    key BLOB NOT NULL,
    top BLOB NOT NULL
);
CREATE INDEX objects_by_cluster ON objects (cluster, segment, start_us, end_us);
CREATE TABLE sightings (object INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE crops (object INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE vectors (object INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE ranks (
    class INTEGER NOT NULL,
    source INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (class, source, segment, cluster)
) WITHOUT ROWID;
CREATE TABLE tails (id INTEGER PRIMARY KEY, stage TEXT NOT NULL UNIQUE);
CREATE TABLE verdicts (
    tail INTEGER NOT NULL,
    object INTEGER NOT NULL,
    class INTEGER NOT NULL,
    score REAL NOT NULL,
    PRIMARY KEY (tail, object)
) WITHOUT ROWID;
"""

# `place` numbers the ranks of a class and a source from 1, in their order; `objects` is the number of
# objects that the cluster has in the chunk.
_SEALS: Final = """
CREATE TABLE tallies (
    class INTEGER NOT NULL,
    source INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (class, source)
) WITHOUT ROWID;
ALTER TABLE ranks ADD COLUMN place INTEGER;
ALTER TABLE ranks ADD COLUMN objects INTEGER;
ALTER TABLE objects ADD COLUMN span INTEGER;
DROP INDEX objects_by_cluster;
CREATE INDEX objects_by_cluster ON objects (cluster, segment, start_us, end_us, span)
"""

# An object is a track and has several pictures, the best one first. It is committed with the chunk in
# which it ends, so that a chunk says since when its objects are there. `handovers` holds what a chunk hands
# to the next one. What is unknown of a source is null or empty; its frame rate is text, to be exact.
_TRACKS: Final = """
CREATE TABLE pictures (
    object INTEGER NOT NULL,
    place INTEGER NOT NULL,
    key BLOB NOT NULL,
    jpeg BLOB NOT NULL,
    frame INTEGER NOT NULL,
    time_us INTEGER NOT NULL,
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    top BLOB NOT NULL,
    vector BLOB NOT NULL,
    seal INTEGER,
    PRIMARY KEY (object, place)
) WITHOUT ROWID;
CREATE TABLE handovers (source INTEGER PRIMARY KEY, packed BLOB NOT NULL, seal INTEGER);
CREATE TABLE tracked (
    id INTEGER PRIMARY KEY,
    source INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    cluster INTEGER NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    top BLOB NOT NULL,
    span INTEGER,
    seal INTEGER
);
DROP TRIGGER ranks_seal_new;
DROP TRIGGER ranks_seal_changed;
INSERT INTO tracked (id, source, segment, cluster, start_us, end_us, top, span)
    SELECT id, source, segment, cluster, start_us, end_us, top, span FROM objects;
DROP TABLE objects;
ALTER TABLE tracked RENAME TO objects;
CREATE INDEX objects_by_cluster ON objects (cluster, segment, start_us, end_us, span);
DROP TABLE crops;
DROP TRIGGER segments_seal_new;
DROP TRIGGER segments_seal_changed;
ALTER TABLE segments ADD COLUMN since_us INTEGER;
UPDATE segments SET since_us = start_us;
DROP TRIGGER sources_seal_new;
DROP TRIGGER sources_seal_changed;
ALTER TABLE sources ADD COLUMN width INTEGER;
ALTER TABLE sources ADD COLUMN height INTEGER;
ALTER TABLE sources ADD COLUMN frame_rate TEXT NOT NULL DEFAULT '';
ALTER TABLE sources ADD COLUMN zone TEXT NOT NULL DEFAULT ''
"""

# Options that ingest had in earlier versions.
_OBSOLETE: Final = ("duplicate", "warmup_seconds")
# In `tallies`, in the place of a class: the rows of these tables, those of `segments` by their source.
SOURCES, SETTINGS, SEGMENTS = -1, -2, -3


@dataclass(frozen=True)
class _Seal:
    """A seal of a table's rows: where it is, over which columns, and how a row is found.

    `nullable`: whole numbers that may be missing.
    """

    table: str
    key: tuple[str, ...]
    whole: tuple[str, ...]
    real: tuple[str, ...] = ()
    bytes: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    nullable: tuple[str, ...] = ()
    column: str = "seal"

    def columns(self) -> tuple[str, ...]:
        return (*self.whole, *self.real, *self.bytes, *self.text, *self.nullable)

    def sum(self, row: str) -> str:
        """The sum over a row, in SQL. Its factors are odd, so that no turned bit is lost."""
        terms = [
            *(f"{row}.{name}" for name in self.whole),
            # Scores up to 1, so that the sum stays below 2^63; what is left out is below 2^-57.
            *(f"CAST({row}.{name} * {2.0**57} AS INTEGER)" for name in self.real),
            *(f"crc({row}.{name})" for name in (*self.bytes, *self.text)),
            *(f"coalesce({row}.{name}, -1)" for name in self.nullable),
        ]
        return " + ".join(f"{term} * {2 * place + 3}" for place, term in enumerate(terms))

    def sound(self, row: str) -> str:
        """Whether a row is as it was written, 1 or 0, in SQL."""
        kinds = [
            *(f"typeof({row}.{name}) = 'integer'" for name in self.whole),
            *(f"typeof({row}.{name}) = 'real'" for name in self.real),
            *(f"typeof({row}.{name}) = 'blob'" for name in self.bytes),
            *(f"typeof({row}.{name}) = 'text'" for name in self.text),
            *(f"typeof({row}.{name}) IN ('integer', 'null')" for name in self.nullable),
        ]
        return f"coalesce({' AND '.join(kinds)} AND {self.sum(row)} = {row}.{self.column}, 0)"

    def triggers(self, inserted: str = "") -> str:
        """What keeps the seal: the sum of a new row, and of a changed row the difference alone.

        The sum of a damaged row stays wrong so. `inserted`: statements that complete a new row first.
        """
        this = " AND ".join(f"{name} = NEW.{name}" for name in self.key)
        own = f"(SELECT {self.sum('t')} FROM {self.table} t WHERE {this})"
        name = f"{self.table}_{self.column}"
        return (
            f"CREATE TRIGGER {name}_new AFTER INSERT ON {self.table} BEGIN {inserted}"
            f"UPDATE {self.table} SET {self.column} = {own} WHERE {this}; END;;"
            f"CREATE TRIGGER {name}_changed AFTER UPDATE OF {', '.join(self.columns())} ON {self.table} "
            f"WHEN OLD.{self.column} IS NOT NULL BEGIN UPDATE {self.table} SET {self.column} = "
            f"OLD.{self.column} + ({self.sum('NEW')}) - ({self.sum('OLD')}) WHERE {this}; END"
        )


def _by_name(*seals: _Seal) -> dict[str, _Seal]:
    return {seal.table if seal.column == "seal" else seal.column: seal for seal in seals}


_FORMAT_2: Final = _by_name(
    _Seal("settings", ("name",), (), text=("name", "value")),
    _Seal(
        "sources", ("id",), ("id", "next_segment", "frames", "end_us", "complete"),
        text=("camera", "location", "fingerprint", "options"), nullable=("start_us",),
    ),
    _Seal(
        "segments", ("source", "number"),
        ("source", "number", "start_us", "end_us", "frames", "objects"),
    ),
    _Seal("gaps", ("rowid",), ("source", "start_us", "end_us"), text=("reason",)),
    _Seal("clusters", ("id",), ("id", "source", "representative", "label", "used")),
    _Seal(
        "objects", ("id",), ("id", "source", "segment", "cluster", "start_us", "end_us"),
        bytes=("key", "top"),
    ),
    # Of the columns of the index `objects_by_cluster`, so that a question reads nothing else.
    _Seal(
        "objects", ("id",), ("id", "segment", "cluster", "start_us", "end_us"), column="span"
    ),
    _Seal("sightings", ("object",), ("object",), bytes=("packed",)),
    _Seal("crops", ("object",), ("object",), bytes=("jpeg",)),
    _Seal("vectors", ("object",), ("object",), bytes=("packed",)),
    _Seal(
        "ranks", ("class", "source", "segment", "cluster"),
        ("class", "source", "segment", "cluster", "rank", "place", "objects"), real=("score",),
    ),
    _Seal("tails", ("id",), ("id",), text=("stage",)),
    _Seal("verdicts", ("tail", "object"), ("tail", "object", "class"), real=("score",)),
    _Seal("tallies", ("class", "source"), ("class", "source", "count")),
)  # fmt: skip
_TRACKED: Final = _by_name(
    _Seal(
        "sources", ("id",), ("id", "next_segment", "frames", "end_us", "complete"),
        text=("camera", "location", "fingerprint", "options", "frame_rate", "zone"),
        nullable=("start_us", "width", "height"),
    ),
    _Seal(
        "segments", ("source", "number"),
        ("source", "number", "start_us", "end_us", "frames", "objects", "since_us"),
    ),
    _Seal("objects", ("id",), ("id", "source", "segment", "cluster", "start_us", "end_us"), bytes=("top",)),
    _FORMAT_2["span"],
    _FORMAT_2["ranks"],
    _Seal(
        "pictures", ("object", "place"),
        ("object", "place", "frame", "time_us", "x", "y", "width", "height"),
        bytes=("key", "jpeg", "top", "vector"),
    ),
    _Seal("handovers", ("source",), ("source",), bytes=("packed",)),
)  # fmt: skip
_ALL: Final = {**{name: seal for name, seal in _FORMAT_2.items() if name != "crops"}, **_TRACKED}

_COUNTED_RANK: Final = (
    "INSERT OR IGNORE INTO tallies (class, source, count) VALUES (NEW.class, NEW.source, 0); "
    "UPDATE tallies SET count = count + 1 WHERE class = NEW.class AND source = NEW.source; "
    "UPDATE ranks SET place = (SELECT count FROM tallies WHERE class = NEW.class "
    "AND source = NEW.source), objects = (SELECT count(*) FROM objects WHERE cluster = NEW.cluster "
    "AND segment = NEW.segment) WHERE class = NEW.class AND source = NEW.source "
    "AND segment = NEW.segment AND cluster = NEW.cluster; "
)


def _counted(number: int, source: str, rows: str) -> str:
    return (
        f"INSERT OR IGNORE INTO tallies (class, source, count) VALUES ({number}, {source}, 0); "
        f"UPDATE tallies SET count = (SELECT count(*) FROM {rows}) "
        f"WHERE class = {number} AND source = {source}; "
    )


def sealed_tables() -> tuple[str, ...]:
    """The names that `sound` takes: of the tables, and `span` for the times of objects."""
    return tuple(_ALL)


def table_of(name: str) -> str:
    return _ALL[name].table


def sound(name: str, row: str) -> str:
    """SQL that is 1 for a row, called `row` in the statement, that is as it was written, else 0."""
    return _ALL[name].sound(row)


def crc(value: bytes | str | None) -> int:
    """What a seal takes of a column that is no number; SQL calls it."""
    if value is None:
        return -1
    return zlib.crc32(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)


def _make_tables(sql: sqlite3.Connection) -> None:
    _run(sql, _TABLES, ";")


def _add_seals(sql: sqlite3.Connection) -> None:
    _run(sql, _SEALS, ";")
    sql.execute("UPDATE ranks SET objects = (SELECT count(*) FROM objects o "
                "WHERE o.cluster = ranks.cluster AND o.segment = ranks.segment)")  # fmt: skip
    places: dict[tuple[int, int], int] = {}
    keys = sql.execute("SELECT class, source, segment, cluster FROM ranks ORDER BY 1, 2, 3, 4")
    for label, source, segment, cluster in keys.fetchall():
        place = places[label, source] = places.get((label, source), 0) + 1
        sql.execute(
            "UPDATE ranks SET place = ? WHERE class = ? AND source = ? AND segment = ? AND cluster = ?",
            (place, label, source, segment, cluster),
        )
    tallies = [(*key, count) for key, count in places.items()]
    for number, source, table in (
        (SOURCES, "0", "sources"), (SETTINGS, "0", "settings"), (SEGMENTS, "source", "segments"),
    ):  # fmt: skip
        counts = sql.execute(f"SELECT {source}, count(*) FROM {table} GROUP BY 1").fetchall()
        tallies += [(number, *row) for row in counts]
    sql.executemany("INSERT INTO tallies (class, source, count) VALUES (?, ?, ?)", tallies)
    for name, seal in _FORMAT_2.items():
        if seal.column == "seal":
            sql.execute(f"ALTER TABLE {seal.table} ADD COLUMN seal INTEGER")
        _seal(sql, name, seal)


def _add_tracks(sql: sqlite3.Connection) -> None:
    """Make each object of an earlier version, which had one picture, a track with that picture."""
    for seal in _FORMAT_2.values():
        if sql.execute(f"SELECT 1 FROM {seal.table} x WHERE NOT {seal.sound('x')}").fetchone():
            # New seals would hide it.
            raise sqlite3.DatabaseError("a row is not as it was written")
    pictures = sql.execute(
        "SELECT o.id, o.key, c.jpeg, s.packed, o.top, coalesce(v.packed, x'') FROM objects o "
        "JOIN crops c ON c.object = o.id JOIN sightings s ON s.object = o.id "
        "LEFT JOIN vectors v ON v.object = o.id"
    ).fetchall()
    _run(sql, _TRACKS, ";")
    for number, key, jpeg, packed, top, vector in pictures:
        # The first sighting: frame, time, x, y, width and height, int64.
        first = struct.unpack_from("<6q", packed)
        sql.execute(
            "INSERT INTO pictures (object, place, key, jpeg, frame, time_us, x, y, width, height, top, "
            "vector) VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, key, jpeg, *first, top, vector),
        )
    for name, seal in _TRACKED.items():
        _seal(sql, name, seal)
    for number, text in sql.execute("SELECT id, options FROM sources").fetchall():
        # How equal pictures were told before.
        options = {name: value for name, value in json.loads(text).items() if name not in _OBSOLETE}
        changed = json.dumps(options, sort_keys=True)
        sql.execute("UPDATE sources SET options = ? WHERE id = ?", (changed, number))


def _seal(sql: sqlite3.Connection, name: str, seal: _Seal) -> None:
    """Seal the rows of a table, and those that are written from now on."""
    completed = {
        "ranks": _COUNTED_RANK,
        "sources": _counted(SOURCES, "0", "sources"),
        "settings": _counted(SETTINGS, "0", "settings"),
        "segments": _counted(SEGMENTS, "NEW.source", "segments WHERE source = NEW.source"),
    }
    sql.execute(f"UPDATE {seal.table} SET {seal.column} = {seal.sum(seal.table)}")
    _run(sql, seal.triggers(completed.get(name, "")), ";;")


def _run(sql: sqlite3.Connection, statements: str, end: str) -> None:
    for statement in statements.split(end):
        sql.execute(statement)


# A store's format is the number of steps that it has had; a new one has them all.
STEPS: Final[tuple[Callable[[sqlite3.Connection], None], ...]] = (
    _make_tables, _add_seals, _add_tracks,
)  # fmt: skip
