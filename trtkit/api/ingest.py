"""`trtkit ingest`: footage into a video store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.video.ingest import Advance, IngestProgress
from trtkit.video.ingest import ingest as ingest_footage
from trtkit.video.options import IngestOptions
from trtkit.video.settings import USUAL_DISTANCE, Settings
from trtkit.video.store.database import Database
from trtkit.video.store.identity import Identity, claim, identity
from trtkit.video.store.maps import DEFAULT_BYTES
from trtkit.workspace import Workspace

DEFAULT_STORE = "video-store"


@dataclass(frozen=True)
class IngestReport:
    """What became of each source, in their order; `failed`: why those that are missing are."""

    store: Path
    sources: tuple[IngestProgress, ...]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "store": str(self.store),
            "sources": [each.to_json() for each in self.sources],
            "failed": self.failed,
        }


def ingest_options(
    store: str | Path = DEFAULT_STORE, *, clusters: str | None = None, **given: Any
) -> IngestOptions:
    """Options for ingesting into `store`; `given` are those of IngestOptions.

    `clusters`: up to which distance objects are one cluster, 0 to 2, or "off"; by default what `tune`
    chose for the store, 0.3 where it did not. Raises TrtkitError.
    """
    return IngestOptions(cluster=_distance(clusters, Path(store)), **given)


def ingest(
    sources: Sequence[str],
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    options: IngestOptions | None = None,
    map_bytes: int = DEFAULT_BYTES,
    frame_rate: float = 25.0,
    seconds: float | None = None,
    workspace: str | Path | None = None,
    progress: Callable[[str], None] = lambda message: None,
    advance: Advance = lambda progress: None,
) -> IngestReport:
    """Index footage with the cheap tail of a bundle and keep its feature maps, for `query`.

    `sources`: video files, folders of frames (`frame_rate` of them a second), URLs or camera numbers,
    each as it is or as CAMERA=SOURCE. `bundle`: by default the one that the store was made with, else
    the one built last; `tail`: its cheap tail, by default the first. `options`: by default
    `ingest_options(store)`. `map_bytes`: of feature maps kept for each source. `seconds`: of footage
    after which each source ends. The same call goes on where an earlier one ended. A source that cannot
    be read is in `failed`, the others go on. Raises TrtkitError when nothing can be ingested.
    """
    from trtkit.video.sources import find_sources, open_source
    from trtkit.video.tails import VideoTail

    folder = Path(store)
    chosen = options if options is not None else ingest_options(folder)
    found = find_sources(sources)
    place = Workspace.at(workspace).find_bundle(
        bundle if bundle is not None else _bundle_of(folder)
    )
    done, failed = [], {}
    with closing(VideoTail.load(place, tail)) as cheap:
        progress(f"Indexing with {cheap.tail.name} of the bundle {cheap.manifest.name}.")
        if chosen.cluster is not None and not cheap.gives_vectors:
            raise TrtkitError(
                f"Clusters were asked for, but the bundle {cheap.manifest.name} gives no features to "
                "compare; build it again with --embeddings, or ingest with --clusters off."
            )
        with Database.create(folder) as database:
            claim(database, Identity.of(cheap.manifest, cheap.tail, place))
        for source in found:
            try:
                with closing(open_source(source, frame_rate=frame_rate)) as footage:
                    report = ingest_footage(
                        folder, cheap, source.camera, footage, chosen, map_bytes=map_bytes,
                        seconds=seconds, advance=advance,
                    )  # fmt: skip
            except TrtkitError as error:
                if len(found) == 1:
                    raise
                failed[source.location] = str(error)
                continue
            done.append(report)
    return IngestReport(folder, tuple(done), failed)


def _distance(text: str | None, folder: Path) -> float | None:
    if text == "off":
        return None
    if text is not None:
        try:
            return float(text)
        except ValueError as error:
            raise TrtkitError(
                f"--clusters {text!r} was given; write a distance of 0 to 2, such as 0.3, or off."
            ) from error
    try:
        with Database.open(folder) as database:
            return Settings.of(database).cluster
    except TrtkitError:
        # There is none yet; whatever else is wrong is said when it is opened for writing.
        return USUAL_DISTANCE


def _bundle_of(folder: Path) -> str | None:
    """The bundle that a store was made with, None where there is no store yet."""
    try:
        with Database.open(folder) as database:
            return identity(database).bundle
    except TrtkitError:
        # Whatever is wrong with it is said when it is opened for writing.
        return None
