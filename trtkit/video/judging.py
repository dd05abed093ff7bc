"""Verdicts of an expensive tail on objects: remembered, or computed from their pictures or feature maps.

The tail looks at the pictures of an object in order of their value, until the verdict is decided.

They are remembered under the stage id of the tail, so that a tail which was trained again starts without
any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.runtime.classifier import Classifier, Item, PreparedItem
from trtkit.runtime.models import output_of
from trtkit.runtime.pipeline import Pipeline
from trtkit.scores import HOLDS, scores_of
from trtkit.tensors import Array
from trtkit.video.footage.database import Database
from trtkit.video.footage.maps import MapReader
from trtkit.video.footage.reading import StoredPicture, jpeg_of, pictures_of
from trtkit.video.footage.settings import verdicts_key

# From this mean score on, a verdict counts as decided.
SURE = 0.9


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

    `remembered`: verdicts from earlier questions; `hits`: pictures that were classified from their stored
    feature maps; `recomputed`: from the pictures themselves; `forgotten`: why verdicts could not be stored,
    None if they were.
    """

    remembered: int = 0
    hits: int = 0
    recomputed: int = 0
    loading_seconds: float = 0.0
    reading_seconds: float = 0.0
    computing_seconds: float = 0.0
    remembering_seconds: float = 0.0
    forgotten: str | None = None


class _Opinion:
    """What the pictures of one object say together: the mean of their scores.

    `label`: the class in question, of a tail with independent labels; None for the best one.
    """

    def __init__(self, pictures: Sequence[StoredPicture], label: int | None) -> None:
        self._pictures = pictures
        self._label = label
        self._sum: Array | None = None
        self._count = 0

    @property
    def next(self) -> StoredPicture:
        return self._pictures[self._count]

    @property
    def decided(self) -> bool:
        """Whether the verdict stands: the score is high, or the other pictures cannot change it."""
        if self._sum is None:
            return False
        left = len(self._pictures) - self._count
        if not left:
            return True
        if self._label is not None:
            total = float(self._sum[self._label])
            mean = total / self._count
            sure = max(mean, 1 - mean) >= SURE
            edge = HOLDS * len(self._pictures)
            return sure or total >= edge or total + left < edge
        second, best = np.sort(np.append(self._sum, 0.0))[-2:]
        return bool(best / self._count >= SURE or best - second > left)

    def add(self, scores: Array) -> None:
        """Take in the scores of the next picture."""
        self._sum = scores.astype(np.float64) + (0.0 if self._sum is None else self._sum)
        self._count += 1

    @property
    def verdict(self) -> Verdict:
        if self._sum is None:
            raise TrtkitError("An object without a classified picture has no verdict.")
        label = int(np.argmax(self._sum)) if self._label is None else self._label
        return Verdict(label, float(self._sum[label]) / self._count)


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
        opinions = {
            number: _Opinion(pictures, self._label)
            for number, pictures in pictures_of(self._database, objects).items()
        }
        self.judged.reading_seconds += time.perf_counter() - begun
        while open_ones := [opinion for opinion in opinions.values() if not opinion.decided]:
            scores = self._classified(classifier, [opinion.next for opinion in open_ones])
            for opinion, row in zip(open_ones, scores, strict=True):
                opinion.add(row)
        verdicts = {number: opinions[number].verdict for number in objects}
        computed = time.perf_counter()
        self._remember(verdicts)
        self.judged.remembering_seconds += time.perf_counter() - computed
        return verdicts

    def _classified(self, classifier: Classifier, pictures: Sequence[StoredPicture]) -> Array:
        """The tail's scores of pictures, float N x classes."""
        begun = time.perf_counter()
        items = [
            Item(
                str(picture.object), partial(self._jpeg, picture), key=(picture.source, picture.key)
            )
            for picture in pictures
        ]
        prepared = classifier.prepare_all(items)
        read = time.perf_counter()
        scores = self._scores(classifier, prepared)
        hits = sum(item.feature is not None for item in prepared)
        self.judged.hits += hits
        self.judged.recomputed += len(prepared) - hits
        self.judged.reading_seconds += read - begun
        self.judged.computing_seconds += time.perf_counter() - read
        return scores

    def _scores(self, classifier: Classifier, items: Sequence[PreparedItem]) -> Array:
        (logits,) = classifier.run(items).rows.values()
        tail = self._pipeline.tail if self._pipeline is not None else None
        return scores_of(logits, tail.scoring if tail is not None else "softmax")

    def _jpeg(self, picture: StoredPicture) -> bytes:
        jpeg = jpeg_of(self._database, picture.object, picture.place)
        if jpeg is None:
            raise TrtkitError(
                f"The footage store in {self._database.folder} has neither feature map nor picture of "
                f"its object {picture.object}; `trtkit store verify` lists what is missing."
            )
        return jpeg

    def _remember(self, verdicts: dict[int, Verdict]) -> None:
        if self._verdicts is None or self.judged.forgotten is not None:
            return
        try:
            self._verdicts.remember(verdicts)
        except TrtkitError as error:
            # The answer is still right; the next question computes these verdicts again.
            self.judged.forgotten = str(error)
