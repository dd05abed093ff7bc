"""`trtkit store info|verify|compact|export`: maintaining a footage store."""

from __future__ import annotations

from pathlib import Path

from trtkit.video.footage import maintenance
from trtkit.video.footage.database import Database
from trtkit.video.footage.export import export
from trtkit.video.footage.maintenance import VideoStoreInfo, VideoStoreReport
from trtkit.video.footage.settings import identity
from trtkit.video.ingest import DEFAULT_STORE
from trtkit.video.tails import bundle_of_store, expensive_stage
from trtkit.workspace import Workspace


def store_info(store: str | Path = DEFAULT_STORE) -> VideoStoreInfo:
    """What a store holds. Raises TrtkitError when there is none.

    print(trtkit.store_info("video-store").sources)
    """
    with Database.open(Path(store)) as database:
        return maintenance.info(database)


def store_verify(store: str | Path = DEFAULT_STORE) -> VideoStoreReport:
    """Read all of a store and check its consistency. Raises TrtkitError when it cannot be read.

    assert not trtkit.store_verify("video-store").problems
    """
    return maintenance.verify_at(Path(store))


def store_compact(
    store: str | Path = DEFAULT_STORE,
    *,
    bundle: str | Path | None = None,
    workspace: str | Path | None = None,
) -> int:
    """Delete the verdicts of tails that the bundle no longer has; returns the disk space freed, in bytes.

    freed = trtkit.store_compact("video-store")
    """
    with Database.open(Path(store)) as database:
        _, manifest = bundle_of_store(database, Workspace.at(workspace), bundle)
        return maintenance.compact(database, frozenset(stage.id for stage in manifest.tails))


def store_export(
    path: str | Path,
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    workspace: str | Path | None = None,
) -> int:
    """Write every object as a row of a Parquet file, with the verdicts of `tail`; returns their number.

    `tail`: by default the other one of two, none where that is ambiguous. Raises TrtkitError.

        trtkit.store_export("objects.parquet", store="video-store")
    """
    with Database.open(Path(store)) as database:
        _, manifest = bundle_of_store(database, Workspace.at(workspace), bundle)
        stage = expensive_stage(manifest, identity(database).tail, tail)
        if stage is None:
            return export(database, Path(path))
        return export(database, Path(path), stage.id, stage.classes or ())
