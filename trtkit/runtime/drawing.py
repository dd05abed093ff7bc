"""A result as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.errors import ImageError
from trtkit.photos.decode import decode
from trtkit.photos.images import read_file
from trtkit.plotting import drawable, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHORTER, LONGEST_LABEL = 480, 40


def draw_bars(path: str, title: str, scores: Sequence[tuple[str, float]]) -> Figure:
    """Labels with scores, 0 to 1, as bars beside the picture in the file `path`. Raises TrtkitError."""
    figure = new_figure(8, 3.2)
    axes = figure.add_subplot(1, 2, 2)
    # By their places: two classes may have one name.
    axes.barh(range(len(scores)), [score for _, score in scores])
    labels = [drawable(label, LONGEST_LABEL) for label, _ in scores]
    axes.set_yticks(range(len(scores)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("score")
    axes.set_title(drawable(title), parse_math=False)
    picture = figure.add_subplot(1, 2, 1)
    picture.set_axis_off()
    picture.set_title(drawable(Path(path).name, LONGEST_LABEL), parse_math=False)
    try:
        picture.imshow(decode(read_file(path), shorter=SHORTER).pixels)
    except ImageError:
        # A picture from memory, or a file that is gone: the bars stand alone.
        picture.remove()
    return figure
