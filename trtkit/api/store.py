"""`trtkit store info|verify|compact|export`: looking after a video store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trtkit.api.ingest import DEFAULT_STORE
from trtkit.bundle import Manifest, read_manifest
from trtkit.errors import TrtkitError
from trtkit.video.store import maintenance
from trtkit.video.store.database import Database
from trtkit.video.store.export import export
from trtkit.video.store.identity import identity
from trtkit.video.store.maintenance import VideoStoreInfo, VideoStoreReport
from trtkit.video.tails import expensive_tail
from trtkit.workspace import Workspace


def store_info(store: str | Path = DEFAULT_STORE) -> VideoStoreInfo:
    """What a store holds. Raises TrtkitError when there is none."""
    with Database.open(Path(store)) as database:
        return maintenance.info(database)


def store_verify(
    store: str | Path = DEFAULT_STORE, *, advance: Callable[[float], None] = lambda share: None
) -> VideoStoreReport:
    """Read all of a store and compare what must agree. Raises TrtkitError when it cannot be read."""
    with Database.open(Path(store)) as database:
        return maintenance.verify(database, advance)


def store_compact(
    store: str | Path = DEFAULT_STORE,
    *,
    bundle: str | Path | None = None,
    workspace: str | Path | None = None,
) -> int:
    """Forget the verdicts of tails that the bundle no longer has, and give back disk space, in bytes."""
    with Database.open(Path(store)) as database:
        manifest = _manifest(database, bundle, workspace)
        return maintenance.compact(database, frozenset(stage.id for stage in manifest.tails))


def store_export(
    path: str | Path,
    *,
    store: str | Path = DEFAULT_STORE,
    bundle: str | Path | None = None,
    tail: str | None = None,
    workspace: str | Path | None = None,
) -> int:
    """Write every object as a row of a Parquet file, with what `tail` said of it; how many there are.

    `tail`: by default the other one of two, none where that is not clear. Raises TrtkitError.
    """
    with Database.open(Path(store)) as database:
        manifest = _manifest(database, bundle, workspace)
        try:
            stage = manifest.tail(expensive_tail(manifest, identity(database).tail, tail))
        except TrtkitError:
            if tail is not None:
                raise
            return export(database, Path(path))
        return export(database, Path(path), stage.id, stage.classes or ())


def _manifest(
    database: Database, bundle: str | Path | None, workspace: str | Path | None
) -> Manifest:
    chosen = bundle if bundle is not None else identity(database).bundle
    return read_manifest(Workspace.at(workspace).find_bundle(chosen))
