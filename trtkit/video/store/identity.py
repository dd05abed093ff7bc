"""Which models a store belongs to: feature maps and indexes of one are never read with another."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trtkit.bundle import Manifest, Stage
from trtkit.errors import TrtkitError
from trtkit.preprocessing import Preprocessing
from trtkit.video.store.database import Database


@dataclass(frozen=True)
class Identity:
    """The prefix and the cheap tail that a store was indexed with.

    `prefix` and `tail_id` are stage ids; `preprocessing_digest` also tells the revision of the code that
    prepares pictures; `classes` the cheap tail's labels, by which its indexes are
    told; `bundle` the folder of the bundle, for commands that are not given one.
    """

    prefix: str
    preprocessing: Preprocessing
    preprocessing_digest: str
    tail: str
    tail_id: str
    classes: tuple[str, ...]
    bundle: str

    @classmethod
    def of(cls, manifest: Manifest, tail: Stage, folder: Path) -> Identity:
        return cls(
            prefix=manifest.path_to(tail)[0].id,
            preprocessing=manifest.preprocessing,
            preprocessing_digest=manifest.preprocessing.digest,
            tail=tail.name,
            tail_id=tail.id,
            classes=tail.classes or (),
            bundle=str(folder.absolute()),
        )

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "classes": list(self.classes)})

    @classmethod
    def from_json(cls, text: str) -> Identity:
        value: dict[str, Any] = json.loads(text)
        value["preprocessing"] = Preprocessing.from_json(value["preprocessing"])
        return cls(**{**value, "classes": tuple(value["classes"])})


def claim(database: Database, mine: Identity) -> None:
    """Make the store that of `mine`, or prove that it is. Raises TrtkitError when it is another's."""
    with database.transaction() as sql:
        row = sql.execute("SELECT value FROM settings WHERE name = 'identity'").fetchone()
        if row is None:
            sql.execute("INSERT INTO settings VALUES ('identity', ?)", (mine.to_json(),))
            return
    theirs = Identity.from_json(row[0])
    if replace(theirs, bundle=mine.bundle) != mine:
        raise TrtkitError(
            f"The store in {database.folder} was indexed by {theirs.tail} of {theirs.bundle}, which is "
            f"not {mine.tail} of {mine.bundle} as it is now; choose another --store, or that bundle."
        )


def identity(database: Database) -> Identity:
    """What the store was indexed with. Raises TrtkitError when nothing was ingested into it."""
    rows = database.rows("SELECT value FROM settings WHERE name = 'identity'")
    if not rows:
        raise TrtkitError(
            f"Nothing was ingested into the store in {database.folder} yet; `trtkit ingest` does it."
        )
    return Identity.from_json(rows[0][0])


def check_readable(mine: Identity, manifest: Manifest, tail: Stage, folder: Path) -> None:
    """Raise TrtkitError unless `tail` of a bundle can go on from the store's feature maps."""
    prefix = manifest.path_to(tail)[0]
    if (prefix.id, manifest.preprocessing.digest) != (mine.prefix, mine.preprocessing_digest):
        raise TrtkitError(
            f"The store's feature maps are those of {mine.bundle}, whose prefix is not that of {folder}; "
            "give that bundle, or ingest again into another --store with this one."
        )
