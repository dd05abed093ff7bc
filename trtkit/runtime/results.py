"""What a classification gives: predictions, best first, from a row of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trtkit.errors import TrtkitError
from trtkit.tensors import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE_DIGITS = 6
# Scores of so many classes are sorted. Sorting a thousand takes longer than all else that is done for a
# photo; of more than these only those that may be among the best are sorted.
SORTED_WHOLE = 64


@dataclass(frozen=True)
class Prediction:
    """One class: its index, its label, its score (0 to 1)."""

    index: int
    label: str
    score: float


@dataclass(frozen=True)
class Result:
    """What one picture shows, or why that is unknown.

    `path` is the file's, empty for a picture without one. `predictions`, best first, are as many as were
    asked of the pipeline; `error` is a sentence, None when there are predictions. `cached`: the prefix
    did not run. `tail` is the model; `scores` are those of all its `classes`, 0 to 1.

    >>> import numpy as np
    >>> result = result_of("cat.jpg", np.float32([0.1, 0.7, 0.2]), ("ant", "cat", "dog"), "pets", top=2)
    >>> result.top1.label, [prediction.label for prediction in result.top(3)]
    ('cat', ['cat', 'dog', 'ant'])
    >>> result
    Result('cat.jpg', 70.00% cat, 20.00% dog)
    >>> result.to_dict()["predictions"][0]
    {'index': 1, 'label': 'cat', 'score': 0.7}
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    cached: bool = False
    tail: str = ""
    scores: Array | None = field(default=None, compare=False)
    classes: tuple[str, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        best = ", ".join(f"{item.score:.2%} {item.label}" for item in self.predictions)
        return f"Result({self.path!r}, {best if self.error is None else f'error={self.error!r}'})"

    @property
    def top1(self) -> Prediction:
        """The best class. Raises TrtkitError, with the reason, when the picture was not classified."""
        return self.top(1)[0]

    def top(self, k: int) -> tuple[Prediction, ...]:
        """The `k` best classes, best first. Raises TrtkitError as `top1` does."""
        if self.scores is None:
            place = f"{self.path}: " if self.path else ""
            raise TrtkitError(f"{place}{self.error or 'The result has no scores.'}")
        if k < 1:
            raise TrtkitError(f"The number of best classes must be 1 or more, not {k}.")
        return best_classes(self.scores, self.classes, k)

    def to_dict(self) -> dict[str, Any]:
        """The object of `infer --format jsonl`: path, tail, and predictions or error."""
        value: dict[str, Any] = {"path": self.path, "tail": self.tail}
        if self.error is not None:
            return {**value, "error": self.error}
        value["predictions"] = [
            {"index": one.index, "label": one.label, "score": round(one.score, SCORE_DIGITS)}
            for one in self.predictions
        ]
        return value

    def plot(self) -> Figure:
        """Draw the predictions as bars, beside the picture if it is a file.

        Returns a matplotlib figure; in a notebook it is shown. Raises TrtkitError without matplotlib, or
        as `top1` does.
        """
        from trtkit.runtime.drawing import draw_bars

        best = self.predictions or self.top(5)
        return draw_bars(self.path, self.tail, [(one.label, one.score) for one in best])


def result_of(
    path: str,
    scores: Array,
    classes: tuple[str, ...],
    tail: str,
    *,
    top: int,
    cached: bool = False,
) -> Result:
    """The result of a picture by the scores of all classes."""
    return Result(path, best_classes(scores, classes, top), None, cached, tail, scores, classes)


def best_classes(scores: Array, classes: Sequence[str], top: int) -> tuple[Prediction, ...]:
    """The `top` best classes, best first; equal scores keep the order of their classes."""
    if top >= len(scores) or len(scores) <= SORTED_WHOLE:
        order = (-scores).argsort(kind="stable")[:top]
    else:
        least = scores[scores.argpartition(-top)[-top]]
        # Not `>= least`: the scores of a network that overflows are no numbers.
        (candidates,) = (~(scores < least)).nonzero()
        order = candidates[(-scores[candidates]).argsort(kind="stable")[:top]]
    return tuple(
        Prediction(index, classes[index], score)
        for index, score in zip(order.tolist(), scores[order].tolist(), strict=True)
    )
