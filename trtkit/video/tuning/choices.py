"""Ways of asking a store: what each would find and cost, judged by a sample that the expensive tail saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array
from trtkit.video.store.verdicts import Verdict
from trtkit.video.tuning.objects import Clustering, StoredObjects


@dataclass(frozen=True)
class Choice:
    """`top` best classes, at least the score `least`, clusters up to `distance` (None: none)."""

    top: int
    least: float
    distance: float | None


@dataclass(frozen=True)
class Tally:
    """Of a sample: `objects` looked at, `found` of them under their own class, `returned` under any."""

    objects: int
    found: int
    returned: int

    @property
    def recall(self) -> float:
        return self.found / self.objects if self.objects else 0.0

    @property
    def precision(self) -> float:
        return self.found / self.returned if self.returned else 0.0


def tally(
    choice: Choice,
    rows: Array,
    objects: StoredObjects,
    clustering: Clustering,
    verdicts: Mapping[int, Verdict],
    same: Mapping[int, int],
) -> Tally:
    """What questions would return of the objects in `rows`.

    An object is returned under the class that the expensive tail gives to the one asked in its place,
    if that is a candidate for it. `verdicts` by row; `same`: the cheap tail's index of each of the
    expensive one's classes.
    """
    found = returned = 0
    for row in rows.tolist():
        asked = int(clustering.asked[row])
        label = same.get(verdicts[asked].label, -1)
        top = objects.labels[asked, : choice.top]
        place = np.flatnonzero(top == label)
        if label < 0 or not len(place) or objects.scores[asked, place[0]] < choice.least:
            continue
        returned += 1
        found += verdicts[asked].label == verdicts[row].label
    return Tally(len(rows), found, returned)


def asked_per_question(
    choice: Choice, objects: StoredObjects, clustering: Clustering, classes: int
) -> float:
    """How many objects a question has the expensive tail look at, on average over the classes."""
    asked = np.unique(clustering.asked)
    labels = objects.labels[asked, : choice.top]
    wanted = (labels >= 0) & (objects.scores[asked, : choice.top] >= choice.least)
    return float(np.count_nonzero(wanted)) / max(1, classes)


def grid(
    objects: StoredObjects, distances: Sequence[float | None], least: Sequence[float]
) -> list[Choice]:
    """All ways that there are to choose from."""
    return [
        Choice(top, score, distance)
        for distance in distances
        for top in range(1, objects.labels.shape[1] + 1)
        for score in least
    ]
