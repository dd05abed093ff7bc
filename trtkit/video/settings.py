"""What `trtkit tune` chose for a store, and what holds until it has."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, fields

from trtkit.video.store.database import Database

_NAME = "tuned"
# All best classes that an index has.
ALL = 1_000_000
# Of objects that are no further from each other one is asked, where nothing was tuned.
USUAL_DISTANCE = 0.3


@dataclass(frozen=True)
class Settings:
    """How candidates are chosen: among how many best classes, with which least score of the cheap tail.

    `cluster`: the distance up to which objects are in one cluster, None for no clusters.
    """

    top: int = ALL
    least: float = 0.0
    cluster: float | None = USUAL_DISTANCE

    @classmethod
    def of(cls, database: Database) -> Settings:
        rows = database.rows("SELECT value FROM settings WHERE name = ?", (_NAME,))
        stored = json.loads(rows[0][0]) if rows else {}
        # Stores of this format that were tuned earlier hold a flag besides.
        return cls(**{each.name: stored[each.name] for each in fields(cls) if each.name in stored})

    def write(self, sql: sqlite3.Connection) -> None:
        """In the transaction that is open."""
        sql.execute(
            "INSERT OR REPLACE INTO settings VALUES (?, ?)", (_NAME, json.dumps(asdict(self)))
        )
