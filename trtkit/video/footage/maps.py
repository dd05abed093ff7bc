"""The feature maps of a footage store: one feature store per source, since a source has one writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.store.store import FeatureStore
from trtkit.tensors import Array
from trtkit.video.footage.database import Database
from trtkit.video.footage.writing import SourceRow, source_rows
from trtkit.video.options import IngestOptions

DEFAULT_BYTES = 50 * 2**30
# Flush before more than this waits to be written: the feature store would begin to drop maps.
WAITING_BYTES = 32 * 2**20


def maps_folder(store: Path, source: int) -> Path:
    return store / "maps" / str(source)


class MapWriter:
    """Keeps the feature maps of one source, evicting the least recently used above `max_bytes`."""

    def __init__(self, store: Path, source: int, options: IngestOptions, max_bytes: int) -> None:
        self._store = FeatureStore(
            maps_folder(store, source), mode="write", dtype=options.map_dtype,
            codec=options.map_codec, max_bytes=max_bytes,
        )  # fmt: skip
        self._waiting = 0
        self._dtype = options.map_dtype
        # In the stored dtype, before any codec.
        self.bytes = 0

    def put(self, key: bytes, feature: Array) -> None:
        self._store.put(key, feature)
        narrowed = feature.dtype == np.float32 and self._dtype == "fp16"
        self.bytes += feature.nbytes // 2 if narrowed else feature.nbytes
        self._waiting += feature.nbytes
        if self._waiting > WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Return once the maps are on disk. Raises TrtkitError when they cannot be written."""
        self._store.flush()
        self._waiting = 0
        reason = self._store.read_only_reason
        if reason is not None:
            # Its last clause says that the run continues without the store; this one does not.
            raise TrtkitError(
                f"{reason.rpartition(';')[0]}; free space or make the folder writable, and run the "
                "command again: it continues with the first chunk that is not committed."
            )

    def close(self) -> None:
        self._store.close()


class MapReader:
    """Reads feature maps of all sources, by source and key. Thread-safe."""

    writable = False

    def __init__(self, database: Database) -> None:
        self._stores = {row.id: _reading(database.folder, row) for row in source_rows(database)}

    def key(self, data: bytes) -> None:
        """Objects bring their keys; a picture from elsewhere has none."""
        return

    def get(self, key: tuple[int, bytes], into: Array | None = None) -> Array | None:
        """The feature map, None if it was not kept, was evicted or is damaged."""
        source, digest = key
        store = self._stores.get(source)
        return None if store is None else store.get(digest, into)

    def put(self, key: tuple[int, bytes], feature: Array) -> None:
        """Maps are kept when footage is ingested, not when it is searched."""

    def close(self) -> None:
        for store in self._stores.values():
            store.close()


def _reading(folder: Path, row: SourceRow) -> FeatureStore:
    options = IngestOptions.from_json(row.options)
    return FeatureStore(maps_folder(folder, row.id), mode="read", dtype=options.map_dtype)
