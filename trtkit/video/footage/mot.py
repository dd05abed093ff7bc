"""Exporting the tracks of one source as MOTChallenge rows, which evaluators of trackers read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError, listed
from trtkit.video.footage.database import Database
from trtkit.video.footage.reading import sightings_of
from trtkit.video.footage.writing import SourceRow, source_rows


def export_mot(database: Database, path: Path, camera: str | None = None) -> int:
    """Write a line for every object on every frame; returns the number of objects.

    A line is `frame,id,left,top,width,height,confidence,-1,-1,-1` (Milan et al., MOT16, 2016): frames and
    ids from 1, pixels, a confidence of 1; by frame, then by id. `camera`: whose source, where the store has
    several. Raises TrtkitError.

        export_mot(database, Path("tracks.txt"), camera="gate")
    """
    source = _one_source(source_rows(database), camera)
    rows = database.rows("SELECT id FROM objects WHERE source = ? ORDER BY id", (source.id,))
    numbers = [number for (number,) in rows]
    places = {number: place for place, number in enumerate(numbers, 1)}
    lines = sorted(
        (sighting.frame + 1, places[number], *sighting.box)
        for number, sightings in sightings_of(database, numbers).items()
        for sighting in sightings
    )
    text = "".join(",".join(map(str, line)) + ",1,-1,-1,-1\n" for line in lines)
    with whole_file(path) as part:
        part.write_text(text, encoding="ascii")
    return len(numbers)


def _one_source(sources: Sequence[SourceRow], camera: str | None) -> SourceRow:
    chosen = [source for source in sources if camera in (None, source.camera)]
    if len(chosen) == 1:
        return chosen[0]
    names = listed(sorted({source.camera for source in sources})) or "none"
    if not chosen:
        raise TrtkitError(f"Camera {camera!r} not found; available: {names}.")
    if camera is None:
        raise TrtkitError(
            f"MOT rows are of one source, and the store has {len(chosen)}; choose one with --camera: "
            f"{names}."
        )
    raise TrtkitError(
        f"MOT rows are of one source, and camera {camera} has {len(chosen)}; ingest them with a camera "
        "name each."
    )
