"""How int8 is calibrated, and what it must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError
from trtkit.quantization.photos import listing_digest
from trtkit.quantization.ranges import METHODS

# Entropy, and where that is not good enough max as well: the better of the two.
AUTO = "auto"
ASKED = (AUTO, *METHODS)
DEFAULT_IMAGES = 512
DEFAULT_AGREEMENT = 0.99


@dataclass(frozen=True)
class Int8Options:
    """How int8 is calibrated and what it must keep.

    `folder` has the photos, of which at most `images` are measured on, by `method` (`entropy`, `max` or
    `auto`). `home`: where the ranges are kept. `least`: the share of held-out photos, 0 to 1, that must
    keep their best class. `given`: a folder was named, not taken by default.
    """

    folder: Path
    home: Path
    images: int = DEFAULT_IMAGES
    method: str = AUTO
    least: float = DEFAULT_AGREEMENT
    given: bool = False

    def __post_init__(self) -> None:
        if self.method not in ASKED:
            raise TrtkitError(
                f"The calibration method {self.method!r} was asked for; choose {' or '.join(ASKED)}."
            )
        if not 0 <= self.least <= 1:
            raise TrtkitError(
                f"An agreement of at least {self.least} was asked for; give a share from 0 to 1, such as "
                f"{DEFAULT_AGREEMENT}."
            )
        if self.images < 1:
            raise TrtkitError(
                f"{self.images} photos to calibrate on were asked for; give 1 or more."
            )

    def digest(self) -> list[Any]:
        """What a build depends on, without reading a photo."""
        return [listing_digest(self.folder), self.images, self.method, self.least]
