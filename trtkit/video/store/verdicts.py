"""What an expensive tail said of objects, remembered under the identity of that tail.

A tail that was trained again has another identity and finds nothing of the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trtkit.video.store.database import Database


class Verdict(NamedTuple):
    """The best class of an object and its softmax score, 0 to 1."""

    label: int
    score: float


class Verdicts:
    """The verdicts of one tail, by its stage id."""

    def __init__(self, database: Database, stage: str) -> None:
        self._database = database
        self._stage = stage

    def known(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on these objects, of those that were asked before."""
        tail = self._tail()
        if tail is None:
            return {}
        rows = self._database.rows_among(
            "SELECT object, class, score FROM verdicts WHERE tail = ? AND object IN",
            objects,
            (tail,),
        )
        return {number: Verdict(label, score) for number, label, score in rows}

    def remember(self, verdicts: Mapping[int, Verdict]) -> None:
        """Keep them. Raises TrtkitError on a store that cannot be written."""
        with self._database.transaction() as sql:
            sql.execute("INSERT OR IGNORE INTO tails (stage) VALUES (?)", (self._stage,))
            (tail,) = sql.execute("SELECT id FROM tails WHERE stage = ?", (self._stage,)).fetchone()
            sql.executemany(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?)",
                [(tail, number, said.label, said.score) for number, said in verdicts.items()],
            )

    def _tail(self) -> int | None:
        rows = self._database.rows("SELECT id FROM tails WHERE stage = ?", (self._stage,))
        return int(rows[0][0]) if rows else None
