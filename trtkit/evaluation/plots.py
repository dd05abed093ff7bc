"""Pictures of results: the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trtkit.errors import TrtkitError
from trtkit.plotting import drawable, new_figure, save_figure
from trtkit.tensors import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to so many classes a number fits into its cell, and each class has its label beside it.
_NUMBERED: Final = 20
_LABELLED: Final = 50
_LABEL_LENGTH: Final = 24
# Inches: around the matrix, for each class, and of the matrix at least and at most.
_AROUND, _PER_CLASS, _SMALLEST, _LARGEST = 2.5, 0.42, 3.0, 14.0
_GAMMA: Final = 0.5


def draw_confusion(matrix: Array, classes: Sequence[str], path: Path, title: str) -> None:
    """Draw a confusion matrix, int C x C with a row for each true class, to `path`.

    The darker a cell, the larger its share of the row's images, white to black; a row without images
    stays white. Up to 20 classes the cells hold the numbers of images; of more than 50 classes evenly
    spread ones are labelled. The file is a PNG, PDF or SVG by its ending and appears whole.

    Raises TrtkitError when it cannot be written, or the matrix is not one of these classes.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise TrtkitError(
            f"A confusion matrix of shape {matrix.shape} does not fit {len(classes)} classes; give a "
            "row and a column for each class."
        )
    side = min(_LARGEST, max(_SMALLEST, _PER_CLASS * len(classes)))
    figure = new_figure(side + _AROUND, side + _AROUND)
    from matplotlib.colors import PowerNorm

    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    # By its square root, so that one image in a hundred that went wrong is still seen.
    tones = PowerNorm(_GAMMA, vmin=0.0, vmax=1.0)
    image = axes.imshow(shares, cmap="Greys", norm=tones, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label("share of the class's images")
    _label(axes, classes)
    if len(classes) <= _NUMBERED:
        _write_numbers(axes, matrix, shares)
    axes.set_title(drawable(title), parse_math=False)
    save_figure(figure, path)


def _label(axes: Axes, classes: Sequence[str]) -> None:
    step = -(-len(classes) // _LABELLED)
    places = range(0, len(classes), step)
    labels = [drawable(classes[place], _LABEL_LENGTH) for place in places]
    # A dollar sign is one, and starts no formula.
    plain: dict[str, Any] = {"parse_math": False, "fontsize": 9 if len(classes) <= _NUMBERED else 7}
    axes.set_xticks(places, labels=labels, rotation=90, **plain)
    axes.set_yticks(places, labels=labels, **plain)
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")


def _write_numbers(axes: Axes, matrix: Array, shares: Array) -> None:
    for row, column in np.argwhere(matrix > 0).tolist():
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] ** _GAMMA > 0.5 else "black",
        )
