"""From a model's outputs to scores, and what scores decide: the one definition of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from trtkit.tensors import Array

# How outputs become scores. softmax: one class of several, scores sum to 1. sigmoid: independent labels,
# any number of which may hold. none: the outputs are the scores already, of one class of several.
Scoring = Literal["softmax", "sigmoid", "none"]
SCORINGS: tuple[Scoring, ...] = get_args(Scoring)

Flags = npt.NDArray[np.bool_]

# A label holds from this score on, which is a logit of 0.
HOLDS = 0.5
# Two scores are nearly equal when the lower one is more than this part of the higher one, and when the
# outputs are closer than this part of what usually lies between the best output and the average one.
# Outputs of a small scale give similar scores to classes that they tell apart well.
NEAR_SCORES = 0.9
NEAR_OUTPUTS = 0.05


def scores_of(outputs: Array, scoring: Scoring) -> Array:
    """The scores, float64 N x classes, 0 to 1, of outputs, float N x classes.

    >>> import numpy as np
    >>> scores_of(np.float32([[0, 0]]), "softmax").tolist()
    [[0.5, 0.5]]
    >>> scores_of(np.float32([[0, 1000]]), "sigmoid").tolist()
    [[0.5, 1.0]]
    """
    if scoring == "softmax":
        return softmax(outputs)
    values = outputs.astype(np.float64)
    return sigmoid(values) if scoring == "sigmoid" else values


def softmax(logits: Array) -> Array:
    """Scores that sum to 1, row by row, float64, without overflow for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    scores = np.exp(shifted)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)) of each value, float64, without overflow."""
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.asarray(np.where(logits >= 0, 1.0, small) / (1.0 + small))


def holds(outputs: Array, scoring: Scoring) -> Flags:
    """Which classes hold for each row: with `sigmoid` all of at least 0.5, else the best one alone.

    Boolean, N x classes.
    """
    if scoring == "sigmoid":
        return np.asarray(outputs >= 0)
    best = outputs.argmax(axis=1)[:, None]
    return np.asarray(np.arange(outputs.shape[1]) == best)


@dataclass(frozen=True)
class Agreement:
    """Row by row, boolean N: `same`: the same classes hold as in the reference.

    `tied`: other classes hold, but the reference gives them a nearly equal score: a choice between them
    says nothing.
    """

    same: Flags
    tied: Flags

    @property
    def share(self) -> float:
        """The share of rows, 0 to 1, that are the same or tied."""
        return float((self.same | self.tied).mean())


def agreement(
    outputs: Array, reference: Array, scoring: Scoring, *, allowed: npt.ArrayLike = 0.0
) -> Agreement:
    """Compare what two arrays of outputs, N x classes, decide.

    With `sigmoid` a row is the same when every label is on the same side of 0.5. `allowed`: the
    difference of two outputs, a number or one for each row, up to which they are tied in any case.
    A row that is not finite is neither.
    """
    finite = np.isfinite(outputs).all(axis=1) & np.isfinite(reference).all(axis=1)
    changed = holds(outputs, scoring) != holds(reference, scoring)
    same = ~changed.any(axis=1) & finite
    margins = _margins(changed, reference, scoring)
    limit = np.maximum(_near(reference, scoring), allowed)
    return Agreement(same, ~same & finite & (margins <= limit))


def _margins(changed: Flags, reference: Array, scoring: Scoring) -> Array:
    """How far the reference's outputs are from deciding so: the largest difference of each row."""
    if scoring == "sigmoid":
        return np.asarray(np.where(changed, np.abs(reference), 0.0).max(axis=1))
    best = reference.max(axis=1)
    return np.asarray(np.where(changed, best[:, None] - reference, 0.0).max(axis=1))


def _near(reference: Array, scoring: Scoring) -> Array:
    """The difference of outputs, for each row, up to which the reference's scores are nearly equal."""
    finite = reference[np.isfinite(reference).all(axis=1)]
    if not len(finite):
        return np.zeros(len(reference))
    if scoring == "sigmoid":
        usual = float(np.median(np.abs(finite)))
    else:
        usual = float(np.median(finite.max(axis=1) - finite.mean(axis=1)))
    ratio = -np.log(NEAR_SCORES)
    if scoring == "none":
        scores = (1 - NEAR_SCORES) * np.abs(reference.max(axis=1))
    else:
        scores = np.full(len(reference), ratio)
    return np.asarray(np.minimum(scores, NEAR_OUTPUTS * usual))
