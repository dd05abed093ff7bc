"""Pictures: which files they can be, and drawing them without pyplot."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trtkit.atomic import whole_file
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS: Final = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Raise TrtkitError unless a picture can be drawn to a file of this name."""
    require("train", "A picture", "matplotlib")
    if path.suffix.lower() not in ENDINGS:
        raise TrtkitError(
            f"A picture cannot be drawn to {path}; give a name that ends in {listed(ENDINGS)}."
        )


def new_figure(width: float, height: float, dpi: float = 150) -> Figure:
    """An empty figure of `width` x `height` inches. Raises TrtkitError without matplotlib."""
    require("train", "A picture", "matplotlib")
    # The object API: pyplot keeps every figure of the process, and asks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, PDF or SVG, by the file's ending, which appears whole. Raises TrtkitError."""
    check_picture(path)
    # Names may be in a script that the font lacks; the boxes drawn instead need no warning.
    with warnings.catch_warnings(), whole_file(path) as temporary:
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary)


def drawable(text: str, length: int | None = None) -> str:
    """`text` on one line of at most `length` characters, without bytes that no font can draw."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if length is None or len(text) <= length else text[: length - 1] + "…"
