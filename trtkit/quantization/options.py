"""How int8 is calibrated, and what it must keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit.errors import TrtkitError, listed
from trtkit.quantization.photos import listing_digest
from trtkit.quantization.ranges import METHODS

# Entropy; if that is not good enough, the better of entropy and max.
AUTO = "auto"
CHOICES = (AUTO, *METHODS)
DEFAULT_IMAGES = 512
DEFAULT_AGREEMENT = 0.99


@dataclass(frozen=True)
class Int8Options:
    """How int8 is calibrated and what it must keep.

    Ranges are measured on at most `images` photos of `folder`, by `method` (`entropy`, `max` or `auto`),
    and kept in `home`. `min_agreement`: the share of held-out photos, 0 to 1, that must keep their best
    class. `explicit`: the caller set one of these instead of taking the defaults. Raises TrtkitError.
    """

    folder: Path
    home: Path
    images: int = DEFAULT_IMAGES
    method: str = AUTO
    min_agreement: float = DEFAULT_AGREEMENT
    explicit: bool = False

    def __post_init__(self) -> None:
        if self.method not in CHOICES:
            raise TrtkitError(
                f"Calibration method {self.method!r} not found; available: {listed(CHOICES)}."
            )
        if not 0 <= self.min_agreement <= 1:
            raise TrtkitError(
                f"An agreement of {self.min_agreement} is impossible; give a share from 0 to 1, such as "
                f"{DEFAULT_AGREEMENT}."
            )
        if self.images < 1:
            raise TrtkitError(f"Cannot calibrate on {self.images} photos; give 1 or more.")

    def digest(self) -> list[Any]:
        """What a build depends on; computed without reading a photo."""
        return [listing_digest(self.folder), self.images, self.method, self.min_agreement]
