"""Exporting a footage store to Parquet: a row for each object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trtkit.atomic import whole_file
from trtkit.extras import require
from trtkit.video.footage.database import Database, unpack_sightings, unpack_top
from trtkit.video.footage.settings import identity
from trtkit.video.footage.writing import source_rows
from trtkit.video.frames import MICROSECONDS
from trtkit.video.times import moment

# Rows that are in memory at once.
_AT_ONCE = 10_000


def export(
    database: Database, path: Path, stage: str | None = None, classes: Sequence[str] = ()
) -> int:
    """Write every object as a row of a Parquet file; returns the number of rows.

    Columns: camera, source, object, cluster, representative (whether it stands for its cluster), start,
    end (seconds since the beginning of the footage), start_time, end_time (ISO, null where unknown),
    frames (their number), frame, x, y, width, height (of the first one), classes and scores (of the
    cheap tail, best first), class and confidence (of the tail with stage id `stage` and these
    `classes`, null where it has no verdict). Raises TrtkitError.
    """
    require("video", "Exporting", "pyarrow")
    import pyarrow
    from pyarrow import parquet

    schema = _schema(pyarrow)
    count = 0
    with whole_file(path) as part, parquet.ParquetWriter(part, schema) as writer:
        for rows in _rows(database, stage, classes):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            count += len(rows)
    return count


def _schema(pyarrow: Any) -> Any:
    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    return pyarrow.schema(
        [
            ("camera", text), ("source", text), ("object", whole), ("cluster", whole),
            ("representative", pyarrow.bool_()), ("start", real), ("end", real),
            ("start_time", text), ("end_time", text), ("frames", whole), ("frame", whole),
            ("x", whole), ("y", whole), ("width", whole), ("height", whole),
            ("classes", pyarrow.list_(text)), ("scores", pyarrow.list_(pyarrow.float32())),
            ("class", text), ("confidence", real),
        ]
    )  # fmt: skip


def _rows(
    database: Database, stage: str | None, classes: Sequence[str]
) -> Iterator[list[dict[str, Any]]]:
    cheap_classes = identity(database).classes
    # Objects that are committed meanwhile may belong to a source that is missing here.
    (newest,) = database.rows("SELECT coalesce(max(id), 0) FROM objects")[0]
    sources = {row.id: row for row in source_rows(database)}
    last = 0
    seals = " AND ".join(
        database.sound(name, row)
        for name, row in (("objects", "o"), ("clusters", "c"), ("sightings", "s"))
    )
    while rows := database.sound_rows(
        "SELECT o.id, o.source, o.cluster, c.representative, o.start_us, o.end_us, o.top, s.packed, "
        f"v.class, v.score, {seals} FROM objects o JOIN clusters c ON c.id = o.cluster "
        "JOIN sightings s ON s.object = o.id LEFT JOIN verdicts v ON v.object = o.id "
        "AND v.tail = (SELECT id FROM tails WHERE stage = ?) WHERE o.id > ? AND o.id <= ? "
        "ORDER BY o.id LIMIT ?",
        (stage, last, newest, _AT_ONCE),
    ):
        exported = []
        for number, source, cluster, representative, start, end, top, packed, label, score in rows:
            row, sightings = sources[source], unpack_sightings(packed)
            labels, scores = unpack_top(top)
            if labels.max(initial=-1) >= len(cheap_classes):
                raise database.damage(f"object {number} has a class that does not exist")
            first = sightings[0]
            exported.append(
                {
                    "camera": row.camera, "source": row.location, "object": number,
                    "cluster": cluster, "representative": representative == number,
                    "start": start / MICROSECONDS, "end": end / MICROSECONDS,
                    "start_time": moment(row.start_us, start, row.zone),
                    "end_time": moment(row.start_us, end, row.zone),
                    "frames": len(sightings), "frame": first.frame, "x": first.box.x,
                    "y": first.box.y, "width": first.box.width, "height": first.box.height,
                    "classes": [cheap_classes[index] for index in labels.tolist()],
                    "scores": scores.tolist(),
                    "class": None if label is None else classes[label], "confidence": score,
                }
            )  # fmt: skip
        yield exported
        last = rows[-1][0]
