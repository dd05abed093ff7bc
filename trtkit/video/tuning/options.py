"""Ways to query a store: what each would return and cost, and what a sample proves about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array
from trtkit.video.judging import Verdict
from trtkit.video.tuning.objects import Clustering, StoredObjects


@dataclass(frozen=True)
class TuningOption:
    """`top` best classes count from the score `least` on; clusters up to `distance` (None: none)."""

    top: int
    least: float
    distance: float | None


@dataclass(frozen=True)
class SampleCounts:
    """Of a sample of `objects`: `found` are returned under their own class, `returned` under any."""

    objects: int
    found: int
    returned: int

    @property
    def recall(self) -> float:
        return self.found / self.objects if self.objects else 0.0

    @property
    def precision(self) -> float:
        return self.found / self.returned if self.returned else 0.0


def count_returned(
    option: TuningOption,
    rows: Array,
    objects: StoredObjects,
    clustering: Clustering,
    verdicts: Mapping[int, Verdict],
    same: Mapping[int, int],
) -> SampleCounts:
    """What questions would return of the objects in `rows`.

    An object is returned under the class that the expensive tail gives to its cluster's representative,
    if that is a candidate for the class. `verdicts`: by row; `same`: the cheap tail's index of each of
    the expensive one's classes.
    """
    correct = returned = 0
    for row in rows.tolist():
        representative = int(clustering.representatives[row])
        label = same.get(verdicts[representative].label, -1)
        places = np.flatnonzero(objects.labels[representative, : option.top] == label)
        if label < 0 or not len(places) or objects.scores[representative, places[0]] < option.least:
            continue
        returned += 1
        correct += verdicts[representative].label == verdicts[row].label
    return SampleCounts(len(rows), correct, returned)


def verdicts_per_question(
    option: TuningOption, objects: StoredObjects, clustering: Clustering, classes: int
) -> float:
    """How many objects the expensive tail classifies for a question, on average over the classes."""
    rows = np.unique(clustering.representatives)
    labels = objects.labels[rows, : option.top]
    candidates = (labels >= 0) & (objects.scores[rows, : option.top] >= option.least)
    return float(np.count_nonzero(candidates)) / max(1, classes)


def all_options(
    objects: StoredObjects, distances: Sequence[float | None], least: Sequence[float]
) -> list[TuningOption]:
    """Every combination of a distance, a number of best classes and a least score."""
    return [
        TuningOption(top, score, distance)
        for distance in distances
        for top in range(1, objects.labels.shape[1] + 1)
        for score in least
    ]
