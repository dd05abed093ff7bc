"""Ingest: sources of footage into a footage store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.contents import ContentRecord
from trtkit.errors import TrtkitError
from trtkit.reporting import message
from trtkit.video.chunks import SourceIngest
from trtkit.video.footage import writing
from trtkit.video.footage.database import Database, source_lock
from trtkit.video.footage.maps import DEFAULT_BYTES, MapWriter
from trtkit.video.footage.settings import (
    USUAL_DISTANCE,
    Identity,
    QuerySettings,
    claim,
    identity,
)
from trtkit.video.frames import Footage
from trtkit.video.options import IngestOptions
from trtkit.video.progress import IngestProgress
from trtkit.video.protocols import Detector
from trtkit.video.sources import Source, open_source
from trtkit.video.tails import VideoTail

DEFAULT_STORE = "video-store"
# The digests of the files that were ingested.
CONTENTS = "contents.json"


@dataclass(frozen=True)
class IngestReport:
    """The outcome of every source that could be read, in order; `failed`: why the others could not."""

    store: Path
    sources: tuple[IngestProgress, ...]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        keys = ("camera", "frames", "objects", "sightings", "gaps", "map_bytes")
        sources = [
            {
                **{key: getattr(source, key) for key in keys},
                "seconds": round(source.seconds, 6),
                "times_real_time": round(source.times_real_time, 3),
                "up_to_date": source.up_to_date,
            }
            for source in self.sources
        ]
        return {"store": str(self.store), "sources": sources, "failed": self.failed}


def ingest_all(
    store: Path,
    sources: Sequence[Source],
    bundle: Path,
    tail: str | None,
    options: IngestOptions,
    *,
    map_bytes: int = DEFAULT_BYTES,
    frame_rate: float | None = None,
    seconds: float | None = None,
    detector: Detector | None = None,
    zone: str = "",
    unparsed: Mapping[str, str] | None = None,
) -> IngestReport:
    """Index every source with the tail `tail` of the bundle in that folder.

    `detector`: the one that the options name; None for a background model. `zone`: the cameras' time zone,
    by default what a source states. `unparsed`: why other sources cannot be read, for the report. A source
    that cannot be read is in `failed` of the report, unless it is the only one. Raises TrtkitError.
    """
    done, failed = [], dict(unparsed or {})
    with closing(VideoTail(bundle, tail)) as cheap:
        message(f"Indexing with {cheap.tail.name} of the bundle {cheap.manifest.name}.")
        if options.cluster is not None and not cheap.gives_vectors:
            raise TrtkitError(
                f"Bundle {cheap.manifest.name} has no embeddings, which clusters need; build it again "
                "with --embeddings, or ingest with --clusters off."
            )
        with Database.create(store) as database:
            claim(database, Identity.of(cheap.manifest, cheap.tail, bundle))
        for source in sources:
            try:
                with ContentRecord(store / CONTENTS) as record:
                    footage = open_source(source, frame_rate, record.digest)
                with closing(footage):
                    progress = ingest(
                        store, cheap, source.camera, footage, options, map_bytes=map_bytes,
                        seconds=seconds, detector=detector, zone=zone,
                    )  # fmt: skip
            except TrtkitError as error:
                if len(sources) == 1 and not unparsed:
                    raise
                failed[source.location] = str(error)
                continue
            done.append(progress)
    return IngestReport(store, tuple(done), failed)


def ingest(
    store: Path,
    tail: VideoTail,
    camera: str,
    footage: Footage,
    options: IngestOptions,
    *,
    map_bytes: int = DEFAULT_BYTES,
    seconds: float | None = None,
    detector: Detector | None = None,
    zone: str = "",
) -> IngestProgress:
    """Index what is left of `footage`, the source called `camera`, into the store in that folder.

    `map_bytes`: of feature maps that are kept on disk. `seconds`: of footage after which it ends; a file
    ends with the running chunk. `detector`: the one that the options name; None for a background model.
    `zone`: the camera's time zone, which replaces another one of a source that was ingested before.
    Raises TrtkitError; what was committed before is kept and not done again.
    """
    with Database.create(store) as database:
        source = (camera, footage.location, footage.fingerprint, options.to_json())
        row = writing.register(
            database, *source, former=footage.former_fingerprint, frame_rate=footage.frame_rate,
            zone=footage.zone,
        )  # fmt: skip
        if zone:
            writing.set_zone(database, row.id, zone)
        progress = IngestProgress(camera, duration_us=footage.duration_us, up_to_date=row.complete)
        if row.complete:
            return progress
        with source_lock(store, row.id, footage.location):
            # Another process may have continued or finished it meanwhile.
            row = writing.register(
                database, *source, locked=True, frame_rate=footage.frame_rate, zone=footage.zone
            )
            progress.up_to_date = row.complete
            if row.complete:
                return progress
            with closing(MapWriter(store, row.id, options, map_bytes)) as maps:
                parts = (database, row, tail, footage, options, maps, progress, detector)
                SourceIngest(*parts).run(seconds)
    return progress


def cluster_distance(text: str | None, store: Path) -> float | None:
    """The distance of `--clusters`: "off", a number, or by default the choice of `tune` for the store.

    Raises TrtkitError for any other text.
    """
    if text == "off":
        return None
    if text is not None:
        try:
            return float(text)
        except ValueError as error:
            raise TrtkitError(
                f"--clusters {text!r} is not a distance; write a number from 0 to 2, such as 0.3, or off."
            ) from error
    try:
        with Database.open(store) as database:
            return QuerySettings.of(database).cluster
    except TrtkitError:
        # No store yet. Any other trouble with it is raised when it is opened for writing.
        return USUAL_DISTANCE


def bundle_of(store: Path) -> str | None:
    """The bundle that a store was made with, None where there is no store yet."""
    try:
        with Database.open(store) as database:
            return identity(database).bundle
    except TrtkitError:
        # Any trouble with it is raised when it is opened for writing.
        return None
