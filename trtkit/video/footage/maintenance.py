"""Maintaining a footage store: what it holds, whether it is whole, making it smaller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trtkit.errors import TrtkitError
from trtkit.identity import bytes_digest, feature_key
from trtkit.reporting import advance
from trtkit.store.maintenance import verify as verify_maps
from trtkit.store.segment import store_bytes
from trtkit.video.footage.database import FILE, SIGHTING_BYTES, DamagedStore, Database
from trtkit.video.footage.maps import maps_folder
from trtkit.video.footage.schema import sealed_tables, table_of
from trtkit.video.footage.settings import Identity, identity, stage_of_key
from trtkit.video.footage.writing import SourceRow, source_rows

# Pictures are read so many at once.
_AT_ONCE = 1000


@dataclass(frozen=True)
class SourceInfo:
    """One source: its row, counts, and the bytes of its feature maps on disk."""

    row: SourceRow
    segments: int
    objects: int
    clusters: int
    gaps: int
    map_bytes: int
    pictures: int


@dataclass(frozen=True)
class VideoStoreInfo:
    """A store. `identity`: None while it is empty; `verdicts`: their number by their tail's stage id."""

    identity: Identity | None
    sources: tuple[SourceInfo, ...]
    verdicts: dict[str, int]
    database_bytes: int


@dataclass(frozen=True)
class VideoStoreReport:
    """How many objects and feature maps were checked; `problems`: a sentence for each."""

    objects: int
    maps: int
    problems: tuple[str, ...]


def info(database: Database) -> VideoStoreInfo:
    """What the store holds. Raises TrtkitError when it cannot be read."""
    try:
        owner = identity(database)
    except DamagedStore:
        raise
    except TrtkitError:
        # The store was made and never filled.
        owner = None
    verdicts: dict[str, int] = {}
    for key, count in database.rows(
        "SELECT t.stage, count(v.object) FROM tails t LEFT JOIN verdicts v ON v.tail = t.id GROUP BY t.id"
    ):
        stage = stage_of_key(key)
        verdicts[stage] = verdicts.get(stage, 0) + count
    return VideoStoreInfo(
        owner,
        tuple(_source_info(database, row) for row in source_rows(database)),
        verdicts,
        _file_bytes(database),
    )


def verify(database: Database) -> VideoStoreReport:
    """Read everything and check its consistency, changing nothing. Raises TrtkitError."""
    try:
        findings = [row[0] for row in database.rows("PRAGMA integrity_check")]
    except DamagedStore as error:
        # Too much is damaged for SQLite to check the rest.
        findings = [str(error.__cause__)]
    lines = [line for finding in findings for line in str(finding).splitlines()]
    problems = [f"SQLite: {line}" for line in lines if line != "ok" and not line.startswith("*")]
    if problems:
        return VideoStoreReport(0, 0, tuple(problems))
    problems += _broken_seals(database)
    if problems:
        return VideoStoreReport(0, 0, (*problems, *_missing_rows(database)))
    problems += _missing_rows(database)
    objects = _check_pictures(database, identity(database), problems)
    maps = 0
    for row in source_rows(database):
        folder = maps_folder(database.folder, row.id)
        if folder.is_dir():
            report = verify_maps(folder)
            maps += report.entries
            problems += [
                f"A feature map of {row.camera} is damaged ({damage.reason}); it is computed again."
                for damage in report.damaged
            ]
    return VideoStoreReport(objects, maps, tuple(problems))


def verify_at(folder: Path) -> VideoStoreReport:
    """As `verify`, also for a file that is too damaged to be opened. Raises TrtkitError."""
    try:
        with Database.open(folder) as database:
            return verify(database)
    except DamagedStore as error:
        return VideoStoreReport(0, 0, (f"SQLite: {error.__cause__ or error}",))


def compact(database: Database, kept_stages: frozenset[str]) -> int:
    """Delete the verdicts of all other tails and free disk space; returns the bytes freed."""
    before = _file_bytes(database)
    with database.transaction() as sql:
        for number, stage in sql.execute("SELECT id, stage FROM tails").fetchall():
            if stage_of_key(stage) not in kept_stages:
                sql.execute("DELETE FROM verdicts WHERE tail = ?", (number,))
                sql.execute("DELETE FROM tails WHERE id = ?", (number,))
    database.rows("VACUUM")
    database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return max(0, before - _file_bytes(database))


def _file_bytes(database: Database) -> int:
    """Bytes of the file and its write-ahead log."""
    files = [database.folder / f"{FILE}{suffix}" for suffix in ("", "-wal")]
    return sum(file.stat().st_size for file in files if file.exists())


def _source_info(database: Database, row: SourceRow) -> SourceInfo:
    def count(table: str) -> int:
        rows = database.rows(f"SELECT count(*) FROM {table} WHERE source = ?", (row.id,))
        return int(rows[0][0])

    folder = maps_folder(database.folder, row.id)
    return SourceInfo(
        row=row,
        segments=count("segments"),
        objects=count("objects"),
        clusters=count("clusters"),
        gaps=count("gaps"),
        map_bytes=store_bytes(folder) if folder.is_dir() else 0,
        pictures=int(
            database.rows(
                "SELECT count(*) FROM pictures p JOIN objects o ON o.id = p.object WHERE o.source = ?",
                (row.id,),
            )[0][0]
        ),
    )


# What every row needs in other tables: the sentence, and the query that counts the rows without it.
_NEEDS = {
    "objects without a picture": "objects o WHERE NOT EXISTS "
    "(SELECT 1 FROM pictures WHERE object = o.id AND place = 0)",
    "pictures of an object that is not there": "pictures p WHERE NOT EXISTS "
    "(SELECT 1 FROM objects WHERE id = p.object)",
    "pictures behind one that is missing": "pictures p WHERE place > 0 AND NOT EXISTS "
    "(SELECT 1 FROM pictures b WHERE b.object = p.object AND b.place = p.place - 1)",
    "objects without sightings": "objects o WHERE NOT EXISTS (SELECT 1 FROM sightings WHERE object = o.id)",
    "objects without features, which others have": "objects o WHERE NOT EXISTS "
    "(SELECT 1 FROM vectors WHERE object = o.id) AND EXISTS (SELECT 1 FROM vectors)",
    "objects whose sightings are not whole": "objects o JOIN sightings s ON s.object = o.id "
    f"WHERE length(s.packed) = 0 OR length(s.packed) % {SIGHTING_BYTES}",
    "objects of a cluster that is not there": "objects o WHERE NOT EXISTS "
    "(SELECT 1 FROM clusters WHERE id = o.cluster)",
    "clusters begun by an object that is not there": "clusters c WHERE NOT EXISTS "
    "(SELECT 1 FROM objects WHERE id = c.representative)",
    # The best class of a cluster's representative is among its ranks.
    "objects that no question can find": "objects o JOIN clusters c ON c.id = o.cluster WHERE NOT EXISTS "
    "(SELECT 1 FROM ranks WHERE class = c.label AND source = o.source AND segment = o.segment "
    "AND cluster = c.id)",
    "objects of a segment that is not committed": "objects o WHERE NOT EXISTS "
    "(SELECT 1 FROM segments WHERE source = o.source AND number = o.segment)",
    "segments that do not have the objects they were committed with": "segments g LEFT JOIN "
    "(SELECT source, segment, count(*) AS there FROM objects GROUP BY source, segment) o "
    "ON o.source = g.source AND o.segment = g.number WHERE g.objects != coalesce(o.there, 0)",
    "sources that do not have the frames they were ingested with": "sources s WHERE frames != "
    "(SELECT coalesce(sum(frames), 0) FROM segments WHERE source = s.id)",
}


def _broken_seals(database: Database) -> list[str]:
    """A sentence for each table with rows that are not as they were written, and for missing ranks."""
    problems = {}
    for name in sealed_tables():
        table = table_of(name)
        query = f"SELECT count(*) FROM {table} x WHERE NOT {database.sound(name, 'x')}"
        ((count,),) = database.rows(query)
        if count:
            problems[table] = f"{count} rows of {table} are not as they were written."
    ((wrong,),) = database.rows(
        "SELECT count(*) FROM tallies t WHERE class >= 0 AND t.count != (SELECT count(*) FROM ranks r "
        "WHERE r.class = t.class AND r.source = t.source)"
    )
    ((uncounted,),) = database.rows(
        "SELECT count(*) FROM ranks r WHERE place > coalesce((SELECT t.count FROM tallies t "
        "WHERE t.class = r.class AND t.source = r.source), 0)"
    )
    if wrong or uncounted:
        problems["tallies"] = "Rows of the index are missing."
    return list(problems.values())


def _missing_rows(database: Database) -> list[str]:
    counts = {
        what: database.rows(f"SELECT count(*) FROM {rest}")[0][0] for what, rest in _NEEDS.items()
    }
    return [f"{count} {what}." for what, count in counts.items() if count]


def _check_pictures(database: Database, owner: Identity, problems: list[str]) -> int:
    """Check that every picture is the one whose feature map it names; returns the number of objects."""
    ((objects,),) = database.rows("SELECT count(*) FROM objects")
    ((total,),) = database.rows("SELECT count(*) FROM pictures")
    last, checked = (0, -1), 0
    while rows := database.rows(
        "SELECT object, place, key, jpeg FROM pictures WHERE object > ? OR (object = ? AND place > ?) "
        "ORDER BY object, place LIMIT ?",
        (last[0], *last, _AT_ONCE),
    ):
        for number, _, key, jpeg in rows:
            if feature_key(bytes_digest(jpeg), owner.preprocessing.digest, owner.prefix) != key:
                problems.append(f"A picture of object {number} is not the one that was indexed.")
        last, checked = rows[-1][:2], checked + len(rows)
        # More may have been committed since they were counted.
        advance("Checking pictures", min(1.0, checked / total))
    return int(objects)
