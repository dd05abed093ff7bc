"""All objects of a store in memory, in the order they were found, and their clusters at any distance."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.clusters import Clusters
from trtkit.video.options import IngestOptions
from trtkit.video.store.database import Database
from trtkit.video.store.packed import unpack_top, unpack_vector
from trtkit.video.store.writing import source_rows


@dataclass(frozen=True)
class StoredObjects:
    """What the cheap tail said of N objects with K best classes at most.

    `ids`: int64 N; `places`: source and segment of each; `labels`: int64 N x K, best first, -1 where
    fewer are stored; `scores`: float32 N x K; `vectors`: float32 N x D of length 1, None where some
    have none; `limits`: the clusters that may be joined, by source.
    """

    ids: Array
    places: list[tuple[int, int]]
    labels: Array
    scores: Array
    vectors: Array | None
    limits: dict[int, int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Clustering:
    """A distance, and for each object the row of the one that began its cluster.

    `used`: the number under which each cluster was joined last, by the row that began it; `seconds`:
    of an object, for finding its cluster.
    """

    distance: float | None
    asked: Array
    used: dict[int, int]
    seconds: float


def stored_objects(database: Database) -> StoredObjects:
    """Raises TrtkitError when the store has no objects."""
    rows = database.rows(
        "SELECT o.id, o.source, o.segment, o.top, v.packed FROM objects o "
        "LEFT JOIN vectors v ON v.object = o.id ORDER BY o.source, o.segment, o.id"
    )
    if not rows:
        raise TrtkitError(
            f"The store in {database.folder} has no objects to tune with; ingest footage first."
        )
    tops = [unpack_top(row[3]) for row in rows]
    most = max(len(labels) for labels, _ in tops)
    labels = np.full((len(rows), most), -1, np.int64)
    scores = np.zeros((len(rows), most), np.float32)
    for row, (best, said) in enumerate(tops):
        labels[row, : len(best)], scores[row, : len(best)] = best, said
    packed = [row[4] for row in rows]
    vectors = None
    if all(each is not None for each in packed):
        vectors = np.stack([unpack_vector(each) for each in packed])
    return StoredObjects(
        ids=np.array([row[0] for row in rows], np.int64),
        places=[(row[1], row[2]) for row in rows],
        labels=labels,
        scores=scores,
        vectors=vectors,
        limits={
            row.id: IngestOptions.from_json(row.options).active_clusters
            for row in source_rows(database)
        },
    )


def clustered(objects: StoredObjects, distance: float | None) -> Clustering:
    """What ingest makes of the objects at that distance; each its own where it is None."""
    rows = np.arange(len(objects))
    if distance is None or objects.vectors is None:
        return Clustering(None, rows, {row: row + 1 for row in range(len(objects))}, 0.0)
    asked = np.empty(len(objects), np.int64)
    used: dict[int, int] = {}
    begun = time.perf_counter()
    for source, of_source in groupby(rows, key=lambda row: objects.places[row][0]):
        clusters = Clusters(distance, objects.limits[source])
        for _, of_segment in groupby(of_source, key=lambda row: objects.places[row][1]):
            for row in of_segment:
                cluster, new = clusters.assign(objects.vectors[row], int(objects.labels[row, 0]))
                if new:
                    # Here a cluster is called by the row that began it.
                    cluster.id = int(row)
                asked[row] = row if cluster.id is None else cluster.id
                used[int(asked[row])] = cluster.used
            clusters = clusters.settled()
    seconds = (time.perf_counter() - begun) / len(objects)
    return Clustering(distance, asked, used, seconds)


def rows_of(objects: StoredObjects, ids: Sequence[int]) -> Array:
    """The rows of objects by their ids."""
    order = np.argsort(objects.ids)
    return np.asarray(order[np.searchsorted(objects.ids[order], np.asarray(ids, np.int64))])
