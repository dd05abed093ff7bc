"""All objects of a store in memory, and their clusters at any distance, which can become the store's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.tensors import Array
from trtkit.video.clusters import Clusters
from trtkit.video.footage.database import Database, source_lock, unpack_top, unpack_vector
from trtkit.video.footage.settings import QuerySettings
from trtkit.video.footage.writing import source_rows
from trtkit.video.options import IngestOptions


@dataclass(frozen=True)
class StoredObjects:
    """The index of N objects in the order of ingest, with at most K best classes of the cheap tail.

    `ids`: int64 N; `places`: source and chunk of each; `labels`: int64 N x K, best first, -1 where
    fewer are stored; `scores`: float32 N x K; `vectors`: float32 N x D of length 1, None if some are
    missing; `limits`: how many clusters can be joined, by source.
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
    """The clusters at a distance. `representatives`: for each object the row of its cluster's first one.

    `used`: the number of the object that joined each cluster last, by its representative's row;
    `seconds`: per object, to find its cluster.
    """

    distance: float | None
    representatives: Array
    used: dict[int, int]
    seconds: float


def stored_objects(database: Database) -> StoredObjects:
    """Raises TrtkitError when the store has no objects."""
    seal = f"{database.sound('objects', 'o')} AND {database.sound('vectors', 'v')}"
    rows = database.sound_rows(
        "SELECT o.id, o.source, o.segment, o.top, v.packed, "
        f"CASE WHEN v.object IS NULL THEN {database.sound('objects', 'o')} ELSE {seal} END "
        "FROM objects o LEFT JOIN vectors v ON v.object = o.id ORDER BY o.source, o.segment, o.id"
    )
    if not rows:
        raise TrtkitError(
            f"The footage store in {database.folder} has no objects to tune with; ingest footage first."
        )
    ids, sources, chunks, tops, vectors = zip(*rows, strict=True)
    best = [unpack_top(top) for top in tops]
    most = max(len(of_object) for of_object, _ in best)
    labels = np.full((len(rows), most), -1, np.int64)
    scores = np.zeros((len(rows), most), np.float32)
    for row, (best_labels, best_scores) in enumerate(best):
        labels[row, : len(best_labels)], scores[row, : len(best_labels)] = best_labels, best_scores
    return StoredObjects(
        ids=np.array(ids, np.int64),
        places=list(zip(sources, chunks, strict=True)),
        labels=labels,
        scores=scores,
        vectors=None
        if None in vectors
        else np.stack([unpack_vector(packed) for packed in vectors]),
        limits={
            row.id: IngestOptions.from_json(row.options).active_clusters
            for row in source_rows(database)
        },
    )


def clustered(objects: StoredObjects, distance: float | None) -> Clustering:
    """The clusters that ingest makes at that distance; one per object for None."""
    rows = np.arange(len(objects))
    if distance is None or objects.vectors is None:
        return Clustering(None, rows, {row: row + 1 for row in range(len(objects))}, 0.0)
    representatives = np.empty(len(objects), np.int64)
    used: dict[int, int] = {}
    begun = time.perf_counter()
    for source, of_source in groupby(rows, key=lambda row: objects.places[row][0]):
        clusters = Clusters(distance, objects.limits[source])
        for _, of_chunk in groupby(of_source, key=lambda row: objects.places[row][1]):
            for row in of_chunk:
                cluster, is_new = clusters.assign(objects.vectors[row], int(objects.labels[row, 0]))
                if is_new:
                    # Here a cluster's id is its representative's row.
                    cluster.id = int(row)
                representatives[row] = row if cluster.id is None else cluster.id
                used[int(representatives[row])] = cluster.used
            clusters = clusters.settled()
    seconds = (time.perf_counter() - begun) / len(objects)
    return Clustering(distance, representatives, used, seconds)


@contextmanager
def writers_excluded(database: Database) -> Iterator[None]:
    """Hold every source. Raises TrtkitError while one is being ingested: it would cluster as before."""
    with ExitStack() as locks:
        for row in source_rows(database):
            locks.enter_context(source_lock(database.folder, row.id, row.location))
        yield


def apply(
    database: Database, settings: QuerySettings, objects: StoredObjects, clustering: Clustering
) -> None:
    """Replace the store's clusters and its settings, as if it had been ingested so; in one transaction.

    Sources that are not complete continue at the new distance.
    """
    ids = objects.ids
    with database.transaction() as sql:
        sql.execute("DELETE FROM clusters")
        sql.execute("DELETE FROM ranks")
        sql.execute("DELETE FROM tallies WHERE class >= 0")
        # A cluster's id is that of its representative.
        sql.executemany(
            "INSERT INTO clusters (id, source, representative, label, used) VALUES (?, ?, ?, ?, ?)",
            [
                (
                    int(ids[row]), objects.places[row][0], int(ids[row]), int(objects.labels[row, 0]),
                    clustering.used[int(row)],
                )
                for row in np.unique(clustering.representatives)
            ],
        )  # fmt: skip
        sql.executemany(
            "UPDATE objects SET cluster = ? WHERE id = ?",
            zip(ids[clustering.representatives].tolist(), ids.tolist(), strict=True),
        )
        in_chunks = {
            (*objects.places[row], int(representative))
            for row, representative in enumerate(clustering.representatives)
        }
        sql.executemany(
            "INSERT INTO ranks (class, source, segment, cluster, rank, score) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (
                (label, source, chunk, int(ids[row]), rank, score)
                for source, chunk, row in sorted(in_chunks)
                for rank, (label, score) in enumerate(
                    zip(objects.labels[row].tolist(), objects.scores[row].tolist(), strict=True)
                )
                if label >= 0
            ),
        )
        for number, text in sql.execute("SELECT id, options FROM sources").fetchall():
            options = {**json.loads(text), "cluster": settings.cluster}
            changed = json.dumps(options, sort_keys=True)
            sql.execute("UPDATE sources SET options = ? WHERE id = ?", (changed, number))
        settings.write(sql)
