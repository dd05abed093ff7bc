"""The feature maps of a store: a feature store for each source, since each has one writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.store import FeatureStore
from trtkit.tensors import Array
from trtkit.video.options import IngestOptions
from trtkit.video.store.database import Database
from trtkit.video.store.writing import SourceRow, source_rows

DEFAULT_BYTES = 50 * 2**30
# Waiting to be written at most; above this the feature store would begin to leave maps out.
WAITING_BYTES = 32 * 2**20


def maps_folder(store: Path, source: int) -> Path:
    return store / "maps" / str(source)


class MapWriter:
    """Keeps the feature maps of one source, at most `max_bytes` of them, the longest unused leaving."""

    def __init__(self, store: Path, source: int, options: IngestOptions, max_bytes: int) -> None:
        self._store = FeatureStore(
            maps_folder(store, source), mode="write", dtype=options.map_dtype,
            codec=options.map_codec, max_bytes=max_bytes,
        )  # fmt: skip
        self._waiting = 0
        self._dtype = options.map_dtype
        # As they are kept, before any codec.
        self.bytes = 0

    def put(self, key: bytes, feature: Array) -> None:
        self._store.put(key, feature)
        narrowed = feature.dtype == np.float32 and self._dtype == "fp16"
        self.bytes += feature.nbytes // 2 if narrowed else feature.nbytes
        self._waiting += feature.nbytes
        if self._waiting > WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Return once they are on disk. Raises TrtkitError when the disk does not take them."""
        self._store.flush()
        self._waiting = 0
        reason = self._store.read_only_reason
        if reason is not None:
            # Its last clause says that a run goes on without it; this one does not.
            raise TrtkitError(
                f"{reason.rpartition(';')[0]}; free space or make the folder writable, and run the "
                "command again: it goes on with the first segment that is not committed."
            )

    def close(self) -> None:
        self._store.close()


class MapReader:
    """Finds feature maps of all sources. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._stores = {row.id: _reading(database.folder, row) for row in source_rows(database)}

    def get(self, source: int, key: bytes) -> Array | None:
        """The feature map, None when it was not kept, was evicted or is damaged."""
        store = self._stores.get(source)
        return None if store is None else store.get(key)

    def close(self) -> None:
        for store in self._stores.values():
            store.close()


def _reading(folder: Path, row: SourceRow) -> FeatureStore:
    options = IngestOptions.from_json(row.options)
    return FeatureStore(maps_folder(folder, row.id), mode="read", dtype=options.map_dtype)
