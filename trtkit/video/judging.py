"""Verdicts of an expensive tail on objects: remembered, or computed from feature maps or crops.

They are remembered under the stage id of the tail, so that a tail which was trained again starts without
any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from trtkit.errors import TrtkitError
from trtkit.runtime.classifier import Classifier, Item, PreparedItem
from trtkit.runtime.models import output_of
from trtkit.runtime.pipeline import Pipeline
from trtkit.scores import scores_of
from trtkit.tensors import Array
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapReader
from trtkit.video.footage.reading import crop_of, keys_of
from trtkit.video.footage.settings import verdicts_key


class Verdict(NamedTuple):
    """The best class of an object and its score, 0 to 1; of independent labels the one in question."""

    label: int
    score: float


class Verdicts:
    """The remembered verdicts of one tail, by their key (`verdicts_key`)."""

    def __init__(self, database: Database, key: str) -> None:
        self._database = database
        self._stage = key

    def known(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on those of the objects that have one."""
        database = self._database
        rows = database.sound_rows(
            f"SELECT t.id, {database.sound('tails', 't')} FROM tails t WHERE stage = ?",
            (self._stage,),
        )
        if not rows:
            return {}
        rows = database.sound_rows_of(
            f"SELECT object, class, score, {database.sound('verdicts', 'v')} FROM verdicts v "
            "WHERE tail = ? AND object IN",
            objects,
            (rows[0][0],),
            all_there=False,
        )
        return {number: Verdict(label, score) for number, label, score in rows}

    def remember(self, verdicts: Mapping[int, Verdict]) -> None:
        """Store verdicts. Raises TrtkitError if the store cannot be written."""
        with self._database.transaction() as sql:
            sql.execute("INSERT OR IGNORE INTO tails (stage) VALUES (?)", (self._stage,))
            (tail,) = sql.execute("SELECT id FROM tails WHERE stage = ?", (self._stage,)).fetchone()
            sql.executemany(
                "INSERT OR REPLACE INTO verdicts (tail, object, class, score) VALUES (?, ?, ?, ?)",
                [(tail, number, *verdict) for number, verdict in verdicts.items()],
            )


@dataclass
class Judged:
    """Where verdicts came from, and the seconds of each step.

    `remembered`: counts those from earlier questions; `hits`: from stored feature maps; `recomputed`:
    from crops; `forgotten`: why verdicts could not be stored, None if they were.
    """

    remembered: int = 0
    hits: int = 0
    recomputed: int = 0
    loading_seconds: float = 0.0
    reading_seconds: float = 0.0
    computing_seconds: float = 0.0
    remembering_seconds: float = 0.0
    forgotten: str | None = None


class Judge:
    """Verdicts of one tail on objects of a store. `load` loads the tail when it is first needed.

    `label`: the class that verdicts are on, of a tail with independent labels; None for the best one.
    """

    def __init__(
        self,
        database: Database,
        stage: str,
        load: Callable[[], Pipeline],
        *,
        label: int | None = None,
        remember: bool = True,
    ) -> None:
        self._database = database
        self._label = label
        key = verdicts_key(stage, label)
        self._verdicts = Verdicts(database, key) if remember else None
        self._load = load
        self._pipeline: Pipeline | None = None
        self._classifier: Classifier | None = None
        self._maps: MapReader | None = None
        self.judged = Judged()

    def close(self) -> None:
        if self._maps is not None:
            self._maps.close()
        if self._pipeline is not None:
            self._pipeline.close()

    def known(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The remembered verdicts on these objects; the caller counts them in `judged`."""
        return {} if self._verdicts is None else self._verdicts.known(objects)

    def ask(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """The verdicts on these objects, remembered or computed. Raises TrtkitError."""
        verdicts = self.known(objects)
        self.judged.remembered += len(verdicts)
        missing = [number for number in dict.fromkeys(objects) if number not in verdicts]
        return {**verdicts, **self.compute(missing)}

    def compute(self, objects: Sequence[int]) -> dict[int, Verdict]:
        """Compute and remember the verdicts on these objects. Raises TrtkitError."""
        if not objects:
            return {}
        classifier = self._loaded()
        verdicts: dict[int, Verdict] = {}
        for start in range(0, len(objects), self.batch):
            verdicts.update(self._compute(classifier, objects[start : start + self.batch]))
        return verdicts

    @property
    def batch(self) -> int:
        """How many objects are best computed at once."""
        self._loaded()
        return self._pipeline.manifest.batch[1] if self._pipeline is not None else 1

    def _loaded(self) -> Classifier:
        if self._classifier is None:
            begun = time.perf_counter()
            pipeline = self._pipeline = self._load()
            self._maps = MapReader(self._database)
            self._classifier = Classifier(
                pipeline.runner,
                pipeline.manifest.preprocessing,
                [output_of(pipeline.tail, "logits")],
                store=self._maps,
                guarded=pipeline.cut,
            )
            self.judged.loading_seconds += time.perf_counter() - begun
        return self._classifier

    def _compute(self, classifier: Classifier, objects: Sequence[int]) -> dict[int, Verdict]:
        begun = time.perf_counter()
        places = keys_of(self._database, objects)
        items = [
            Item(str(number), partial(self._crop, number), key=places[number]) for number in objects
        ]
        prepared = classifier.prepare_all(items)
        read = time.perf_counter()
        scores = self._scores(classifier, prepared)
        computed = time.perf_counter()
        labels = scores.argmax(axis=1) if self._label is None else [self._label] * len(scores)
        verdicts = {
            number: Verdict(int(label), float(row[label]))
            for number, label, row in zip(objects, labels, scores, strict=True)
        }
        self._remember(verdicts)
        hits = sum(item.feature is not None for item in prepared)
        self.judged.hits += hits
        self.judged.recomputed += len(prepared) - hits
        self.judged.reading_seconds += read - begun
        self.judged.computing_seconds += computed - read
        self.judged.remembering_seconds += time.perf_counter() - computed
        return verdicts

    def _scores(self, classifier: Classifier, items: Sequence[PreparedItem]) -> Array:
        (logits,) = classifier.run(items).rows.values()
        tail = self._pipeline.tail if self._pipeline is not None else None
        return scores_of(logits, tail.scoring if tail is not None else "softmax")

    def _crop(self, number: int) -> bytes:
        crop = crop_of(self._database, number)
        if crop is None:
            raise TrtkitError(
                f"The footage store in {self._database.folder} has neither feature map nor picture of "
                f"its object {number}; `trtkit store verify` lists what is missing."
            )
        return crop

    def _remember(self, verdicts: dict[int, Verdict]) -> None:
        if self._verdicts is None or self.judged.forgotten is not None:
            return
        try:
            self._verdicts.remember(verdicts)
        except TrtkitError as error:
            # The answer is still right; the next question computes these verdicts again.
            self.judged.forgotten = str(error)
