"""What a footage store belongs to, and how it is queried: the rows of its table `settings`.

Feature maps and indexes of one model are never read with another.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path

from trtkit.bundle import Manifest
from trtkit.errors import TrtkitError
from trtkit.labels import clean_labels
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import from_plain, to_plain
from trtkit.stages import Stage
from trtkit.video.footage.database import Database
from trtkit.video.footage.schema import SETTINGS

# Above the number of classes that any index holds.
ALL = 1_000_000
# Objects that are no further apart share one cluster, unless `tune` chose another distance.
USUAL_DISTANCE = 0.3


@dataclass(frozen=True)
class Identity:
    """The prefix and the cheap tail that a store was indexed with.

    `prefix` and `tail_id` are stage ids; `preprocessing_digest` also covers the revision of the code
    that prepares pictures; `classes` are the cheap tail's labels in the order of its indexes; `bundle`
    is the bundle's folder, the default of commands.
    """

    prefix: str
    preprocessing: Preprocessing
    preprocessing_digest: str
    tail: str
    tail_id: str
    classes: tuple[str, ...]
    bundle: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", clean_labels(self.classes))

    @classmethod
    def of(cls, manifest: Manifest, tail: Stage, folder: Path) -> Identity:
        return cls(
            prefix=prefix_of(manifest, tail).id,
            preprocessing=manifest.preprocessing,
            preprocessing_digest=manifest.preprocessing.digest,
            tail=tail.name,
            tail_id=tail.id,
            classes=tail.classes or (),
            bundle=str(folder.absolute()),
        )


@dataclass(frozen=True)
class QuerySettings:
    """How candidates are chosen: `tune` writes it, the defaults hold until then.

    `top`: how many best classes of the cheap tail count; `least`: its least score, 0 to 1; `cluster`:
    the distance up to which objects share a cluster, None for no clusters.
    """

    top: int = ALL
    least: float = 0.0
    cluster: float | None = USUAL_DISTANCE

    @classmethod
    def of(cls, database: Database) -> QuerySettings:
        text = _setting(database, "tuned")
        # Earlier versions wrote a flag besides, which is ignored.
        return cls() if text is None else from_plain(json.loads(text), cls)

    def write(self, sql: sqlite3.Connection) -> None:
        """Write it in the open transaction."""
        sql.execute(
            "INSERT OR REPLACE INTO settings (name, value) VALUES ('tuned', ?)",
            (json.dumps(to_plain(self)),),
        )


def claim(database: Database, own: Identity) -> None:
    """Give an unclaimed store this identity. Raises TrtkitError when the store has another one."""
    with database.transaction() as sql:
        text = _setting(database, "identity")
        if text is None:
            value = json.dumps(to_plain(own))
            sql.execute("INSERT INTO settings (name, value) VALUES ('identity', ?)", (value,))
            return
    owner = from_plain(json.loads(text), Identity)
    if replace(owner, bundle=own.bundle) != own:
        raise TrtkitError(
            f"The footage store in {database.folder} was indexed by {owner.tail} of {owner.bundle}, not "
            f"by {own.tail} of {own.bundle} as it is now; use that bundle, or another --store."
        )


def identity(database: Database) -> Identity:
    """What the store was indexed with. Raises TrtkitError when nothing was ingested into it."""
    text = _setting(database, "identity")
    if text is None:
        raise TrtkitError(
            f"The footage store in {database.folder} is empty; fill it with `trtkit ingest`."
        )
    return from_plain(json.loads(text), Identity)


def _setting(database: Database, name: str) -> str | None:
    """The text of a setting. Raises TrtkitError where any setting is damaged or missing."""
    rows = database.sound_rows(
        f"SELECT s.name, s.value, {database.sound('settings', 's')} FROM settings s"
    )
    database.check_count(rows, SETTINGS)
    return dict(rows).get(name)


def prefix_of(manifest: Manifest, tail: Stage) -> Stage:
    """The prefix that `tail` starts from. Raises TrtkitError where nothing is split."""
    prefix = manifest.prefix_of(tail)
    if prefix is None:
        raise TrtkitError(
            f"Bundle {manifest.name} is not split and has no feature maps to store; build one with "
            "--cut to index video."
        )
    return prefix


def check_readable(owner: Identity, manifest: Manifest, tail: Stage, folder: Path) -> None:
    """Raise TrtkitError unless `tail` of a bundle can start from the store's feature maps."""
    prefix = prefix_of(manifest, tail)
    if (prefix.id, manifest.preprocessing.digest) != (owner.prefix, owner.preprocessing_digest):
        raise TrtkitError(
            f"The store's feature maps come from {owner.bundle}, whose prefix differs from that of "
            f"{folder}; use that bundle, or ingest into another --store with this one."
        )


def verdicts_key(stage: str, label: int | None) -> str:
    """What verdicts are remembered under: the tail's stage id, and of independent labels which one."""
    return stage if label is None else f"{stage}#{label}"


def stage_of_key(key: str) -> str:
    """The stage id in what verdicts are remembered under."""
    return key.partition("#")[0]
