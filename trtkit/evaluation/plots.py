"""Pictures of results: the confusion matrix."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError
from trtkit.plotting import check_picture
from trtkit.tensors import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Up to so many classes a number fits into its cell, and each class has its label beside it.
_NUMBERED: Final = 20
_LABELLED: Final = 50
_LABEL_LENGTH: Final = 24
# Inches: around the matrix, for each class, and of the matrix at least and at most.
_AROUND, _EACH, _SMALLEST, _LARGEST = 2.5, 0.42, 3.0, 14.0
_DPI: Final = 150
_GAMMA: Final = 0.5


def draw_confusion(matrix: Array, classes: Sequence[str], path: Path, title: str) -> None:
    """Draw a confusion matrix, int C x C with a row for each true class, to `path`.

    The darker a cell, the larger its share of the row's images, white to black; a row without images
    stays white. Up to 20 classes the cells hold the numbers of images; of more than 50 classes evenly
    spread ones are labelled. The file is a PNG, PDF or SVG by its ending and appears whole.

    Raises TrtkitError when it cannot be written, or the matrix is not one of these classes.
    """
    check_picture(path)
    matrix = np.asarray(matrix)
    if matrix.shape != (len(classes), len(classes)) or not len(classes):
        raise TrtkitError(
            f"A confusion matrix of shape {matrix.shape} was given for {len(classes)} classes; give a "
            "row and a column for each class."
        )
    # The object API: pyplot keeps every figure of the process, and asks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    side = min(_LARGEST, max(_SMALLEST, _EACH * len(classes)))
    figure = Figure(figsize=(side + _AROUND, side + _AROUND), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_title(_plain(title), parse_math=False)
    # A class's name may be in a script that the font lacks: its boxes are no reason to complain.
    with warnings.catch_warnings(), whole_file(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary)


def _label(axes: Axes, classes: Sequence[str]) -> None:
    step = -(-len(classes) // _LABELLED)
    places = range(0, len(classes), step)
    labels = [_short(classes[place]) for place in places]
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


def _short(label: str) -> str:
    label = _plain(label)
    return label if len(label) <= _LABEL_LENGTH else label[: _LABEL_LENGTH - 1] + "…"


def _plain(text: str) -> str:
    """One line that can be drawn: folder names may hold line breaks and bytes that are no text."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
