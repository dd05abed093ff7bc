"""Files of pictures: which there can be."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from trtkit.errors import TrtkitError, listed
from trtkit.extras import require

ENDINGS: Final = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Raise TrtkitError unless a picture can be drawn to a file of this name."""
    require("train", "A picture", "matplotlib")
    if path.suffix.lower() not in ENDINGS:
        raise TrtkitError(
            f"A picture was asked for in {path}, whose ending is none of {listed(ENDINGS)}; choose one "
            "of those."
        )
