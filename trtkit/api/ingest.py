"""`trtkit ingest`: footage into a footage store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtkit.video.detectors import with_detector
from trtkit.video.footage.maps import DEFAULT_BYTES
from trtkit.video.ingest import (
    DEFAULT_STORE,
    IngestReport,
    bundle_of,
    cluster_distance,
    ingest_all,
)
from trtkit.video.options import IngestOptions
from trtkit.video.sources import find_sources
from trtkit.video.times import zone_named
from trtkit.workspace import Workspace


def ingest_options(
    store: str | Path = DEFAULT_STORE, *, clusters: str | None = None, **options: Any
) -> IngestOptions:
    """Options for ingesting into `store`; `options` are those of IngestOptions.

    `clusters`: up to which distance objects share a cluster, 0 to 2, or "off"; by default what `tune`
    chose for the store, else 0.3. Raises TrtkitError.
    """
    return IngestOptions(cluster=cluster_distance(clusters, Path(store)), **options)


def ingest(
    sources: str | Sequence[str],
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    options: IngestOptions | None = None,
    map_bytes: int = DEFAULT_BYTES,
    frame_rate: float | None = None,
    seconds: float | None = None,
    detector: str | Path | None = None,
    zone: str | None = None,
    workspace: str | Path | None = None,
) -> IngestReport:
    """Index footage with the cheap tail of a bundle and keep its feature maps, for `query`.

    `sources`: video files, folders of frames, URLs or camera numbers, each as it is or as CAMERA=SOURCE.
    `frame_rate`: frames a second of folders and of files without times, by default what a file states, else
    25. `bundle`: by default the one that the store was made with, else the one built last; `tail`: its
    cheap tail, by default the first. `options`: by default `ingest_options(store)`. `map_bytes`: of feature
    maps kept for each source. `seconds`: of footage after which each source ends. `detector`: an ONNX file
    that finds objects in the place of motion. `zone`: the cameras' time zone, a name such as Europe/Berlin
    or an offset such as +01:00; by default what a source states. The same call continues where an earlier
    one stopped. A source that cannot be read is in `failed`; the others are ingested. Raises TrtkitError
    when nothing can be.

        report = trtkit.ingest(["gate.mp4", "yard=rtsp://10.0.0.7/1"], store="video-store")
        print(report.sources[0].objects, report.failed)
    """
    folder = Path(store)
    chosen = options if options is not None else ingest_options(folder)
    chosen, own = with_detector(chosen, None if detector is None else Path(detector))
    if zone is not None:
        zone_named(zone)
    unparsed: dict[str, str] = {}
    footage = find_sources(sources, unparsed)
    place = Workspace.at(workspace).find_bundle(bundle if bundle is not None else bundle_of(folder))
    return ingest_all(
        folder, footage, place, tail, chosen, map_bytes=map_bytes, frame_rate=frame_rate,
        seconds=seconds, detector=own, zone=zone or "", unparsed=unparsed,
    )  # fmt: skip
