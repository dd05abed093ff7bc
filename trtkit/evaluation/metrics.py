"""Scores of a classifier: top-1, top-5, the confusion matrix, and how far it is from another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isinf, isnan

import numpy as np
import numpy.typing as npt

from trtkit.errors import TrtkitError
from trtkit.scores import Scoring, holds
from trtkit.tensors import Array

# Of fewer classes all are among the best five.
TOP: int = 5

Counts = npt.NDArray[np.int64]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """One class: its images, and precision and recall, 0 to 1, None where nothing defines them."""

    label: str
    images: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Scores:
    """How a classifier did on labelled images.

    `images`: their number. `top1`, `top5`: the share of them, 0 to 1, whose class is the best one, or
    among the five best; nan without images. `confusion`: int64, classes x classes, images by their
    class (rows) and the class predicted (columns); of independent labels, where an image counts once for
    each label that holds. `of_class`: int64, images by their class.
    """

    images: int
    top1: float
    top5: float
    confusion: Counts
    of_class: Counts
    scoring: Scoring = "softmax"

    @property
    def precision(self) -> Shares:
        """For each class the share of the images predicted as it that are of it; nan if none were.

        Of independent labels all nan: an image of one class may show others too.
        """
        if self.scoring == "sigmoid":
            return np.full(len(self.confusion), np.nan)
        return _shares(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Shares:
        """For each class the share of its images that were predicted as it; nan if it has none."""
        return _shares(self.confusion.diagonal(), self.of_class)

    def by_class(self, labels: Sequence[str]) -> list[ClassScores]:
        """A row for each class, in their order; `labels` are their names."""
        rows = zip(labels, self.of_class, self.precision, self.recall, strict=True)
        return [
            ClassScores(label, int(images), _or_none(precision), _or_none(recall))
            for label, images, precision, recall in rows
        ]


class Tally:
    """Scores that grow batch by batch, in memory that does not."""

    def __init__(self, classes: int, scoring: Scoring = "softmax") -> None:
        """`classes`: how many there are, C; `scoring`: how logits become scores."""
        self._confusion: Counts = np.zeros((classes, classes), np.int64)
        self._of_class: Counts = np.zeros(classes, np.int64)
        self._best = self._among_best = 0
        self._scoring = scoring

    def add(self, logits: Array, labels: npt.ArrayLike) -> None:
        """Count a batch of logits, float N x C, of images with these labels, int N, 0 to C - 1.

        Raises TrtkitError when they do not fit together, or when a logit is NaN.
        """
        logits, labels = np.asarray(logits), np.asarray(labels, np.int64)
        self._check(logits, labels)
        # Not `+=`, which counts a pair that comes twice only once.
        np.add.at(self._of_class, labels, 1)
        if self._scoring == "sigmoid":
            np.add.at(self._confusion, labels, holds(logits, self._scoring).astype(np.int64))
        else:
            np.add.at(self._confusion, (labels, predicted(logits)), 1)
        places = ranks(logits, labels)
        self._best += int((places == 0).sum())
        self._among_best += int((places < TOP).sum())

    def scores(self) -> Scores:
        """The scores of all that was added so far."""
        images = int(self._of_class.sum())
        return Scores(
            images=images,
            top1=self._best / images if images else float("nan"),
            top5=self._among_best / images if images else float("nan"),
            confusion=self._confusion.copy(),
            of_class=self._of_class.copy(),
            scoring=self._scoring,
        )

    def _check(self, logits: Array, labels: Array) -> None:
        classes = len(self._confusion)
        if logits.ndim != 2 or logits.shape[1] != classes or labels.shape != logits.shape[:1]:
            raise TrtkitError(
                f"Logits of shape {logits.shape} and labels of shape {labels.shape} do not fit "
                f"{classes} classes; give N x {classes} and N."
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise TrtkitError(
                f"Labels from {labels.min()} to {labels.max()} do not fit {classes} classes, which "
                f"are numbered 0 to {classes - 1}."
            )
        # Whatever class such an image were given, a score that counts it would look like one.
        broken = int(np.isnan(logits).any(axis=1).sum())
        if broken:
            raise TrtkitError(
                f"The logits of {broken} of {len(logits)} images are NaN: the training diverged or the "
                "precision is too low for the weights; use another checkpoint or precision."
            )


def predicted(logits: Array) -> npt.NDArray[np.intp]:
    """The best class of each row of logits, float N x C; of equal ones the first."""
    return np.asarray(np.argmax(logits, axis=1), np.intp)


def ranks(logits: Array, labels: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """How many classes come before the labelled one in each row of logits, float N x C.

    0 is top-1. Of equal classes the first comes first, as in `predicted` and in what `infer` lists.
    """
    labels = np.asarray(labels)[:, None]
    own = np.take_along_axis(logits, labels, axis=1)
    earlier = np.arange(logits.shape[1]) < labels
    return np.asarray(((logits > own) | ((logits == own) & earlier)).sum(axis=1), np.intp)


def relative_error(value: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """The L2 norm of the difference divided by that of the reference, of two arrays of one shape.

    0 where both are nothing but zeros, infinite where only the reference is, and where a number of
    either is not finite.
    """
    expected = np.asarray(reference, np.float64)
    with np.errstate(invalid="ignore"):
        # Two infinities of one sign have no difference.
        away = np.ravel(np.asarray(value, np.float64) - expected)
    difference = float(np.linalg.norm(away))
    size = float(np.linalg.norm(np.ravel(expected)))
    if difference == 0.0:
        return 0.0
    error = difference / size if size > 0 else inf
    return inf if isnan(error) or isinf(size) else error


def _shares(part: Counts, whole: Counts) -> Shares:
    shares = np.full(len(whole), np.nan)
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def _or_none(share: float) -> float | None:
    return None if isnan(share) else float(share)
