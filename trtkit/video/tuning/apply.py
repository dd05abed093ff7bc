"""Making a store as if it had been ingested with what tune chose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from trtkit.video.locks import source_lock
from trtkit.video.settings import Settings
from trtkit.video.store.database import Database
from trtkit.video.store.writing import source_rows
from trtkit.video.tuning.choices import Choice
from trtkit.video.tuning.objects import Clustering, StoredObjects


@contextmanager
def nobody_writes(database: Database) -> Iterator[None]:
    """Hold every source. Raises TrtkitError while one is being ingested: it would go on as before."""
    with ExitStack() as held:
        for row in source_rows(database):
            held.enter_context(source_lock(database.folder, row.id, row.location))
        yield


def apply(
    database: Database, choice: Choice, objects: StoredObjects, clustering: Clustering
) -> None:
    """Group the objects anew, and ask by `choice` from now on; all at once.

    Sources that are not at their end are gone on with at the new distance.
    """
    began = np.unique(clustering.asked)
    ids = objects.ids
    with database.transaction() as sql:
        sql.execute("DELETE FROM clusters")
        sql.execute("DELETE FROM ranks")
        # A cluster is called by the object that began it.
        sql.executemany(
            "INSERT INTO clusters VALUES (?, ?, ?, ?, ?)",
            [
                (
                    int(ids[row]), objects.places[row][0], int(ids[row]), int(objects.labels[row, 0]),
                    clustering.used[int(row)],
                )
                for row in began
            ],
        )  # fmt: skip
        sql.executemany(
            "UPDATE objects SET cluster = ? WHERE id = ?",
            zip(ids[clustering.asked].tolist(), ids.tolist(), strict=True),
        )
        touched = {(*objects.places[row], int(asked)) for row, asked in enumerate(clustering.asked)}
        sql.executemany(
            "INSERT INTO ranks VALUES (?, ?, ?, ?, ?, ?)",
            (
                (label, source, segment, int(ids[asked]), rank, score)
                for source, segment, asked in sorted(touched)
                for rank, (label, score) in enumerate(
                    zip(objects.labels[asked].tolist(), objects.scores[asked].tolist(), strict=True)
                )
                if label >= 0
            ),
        )
        for number, options in sql.execute("SELECT id, options FROM sources").fetchall():
            changed = json.dumps(
                {**json.loads(options), "cluster": choice.distance}, sort_keys=True
            )
            sql.execute("UPDATE sources SET options = ? WHERE id = ?", (changed, number))
        Settings(choice.top, choice.least, choice.distance).write(sql)
