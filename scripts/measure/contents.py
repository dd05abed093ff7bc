"""The whole content of a footage store, to compare it with that of another one."""

from pathlib import Path
from typing import Any

from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapReader
from trtkit.video.footage.writing import source_rows


def content(store: Path) -> dict[str, Any]:
    """All that a store holds, source by source, whatever the ids of its rows are."""
    with Database.open(store) as database:
        maps = MapReader(database)
        try:
            return {
                f"{row.camera} {row.location}": _of_source(database, maps, row)
                for row in source_rows(database)
            }
        finally:
            maps.close()


def _of_source(database: Database, maps: MapReader, row: Any) -> dict[str, Any]:
    def rows(query: str) -> list[Any]:
        return database.rows(query, (row.id,))

    objects = rows(
        "SELECT o.id, o.cluster, o.segment, o.start_us, o.end_us, o.top, s.packed, v.packed "
        "FROM objects o LEFT JOIN sightings s ON s.object = o.id "
        "LEFT JOIN vectors v ON v.object = o.id WHERE o.source = ? ORDER BY o.id"
    )
    place = {number: at for at, (number, *_) in enumerate(objects)}
    clusters = rows(
        "SELECT id, representative, label, used FROM clusters WHERE source = ? ORDER BY id"
    )
    pictures = rows(
        "SELECT p.object, p.place, p.key, p.jpeg, p.frame, p.time_us, p.x, p.y, p.width, p.height, p.top, "
        "p.vector FROM pictures p JOIN objects o ON o.id = p.object WHERE o.source = ? "
        "ORDER BY p.object, p.place"
    )
    begun_by = {number: place.get(representative) for number, representative, *_ in clusters}
    features = [maps.get((row.id, picture[2])) for picture in pictures]
    ranks = rows("SELECT class, segment, cluster, rank, score FROM ranks WHERE source = ?")
    return {
        "source": (
            row.fingerprint, row.options, row.start_us, row.next_segment, row.frames, row.end_us,
            row.complete,
        ),
        "facts": (row.width, row.height, row.frame_rate, row.zone),
        "segments": rows(
            "SELECT number, start_us, end_us, frames, objects, since_us FROM segments WHERE source = ? "
            "ORDER BY number"
        ),
        "gaps": rows("SELECT start_us, end_us, reason FROM gaps WHERE source = ? ORDER BY 1, 2, 3"),
        "clusters": [(begun_by[number], *rest) for number, _, *rest in clusters],
        "objects": [(begun_by[cluster], *rest) for _, cluster, *rest in objects],
        "pictures": [(place[number], *rest) for number, *rest in pictures],
        "handover": rows("SELECT packed FROM handovers WHERE source = ?"),
        "ranks": sorted(
            (label, segment, begun_by[cluster], rank, score)
            for label, segment, cluster, rank, score in ranks
        ),
        "maps": [None if map is None else (map.dtype.str, map.tobytes()) for map in features],
    }  # fmt: skip
