"""Where one model's ranges come from: the workspace, or else ModelOpt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtkit.errors import listed
from trtkit.graph.tree import Model
from trtkit.quantization.calibrate import measure_ranges
from trtkit.quantization.options import AUTO, Int8Options
from trtkit.quantization.photos import CalibrationPhotos
from trtkit.quantization.ranges import METHODS, Ranges, ranges_path, read_ranges

Progress = Callable[[str], None]
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class FoundRanges:
    """One model's ranges, looked for and measured. `digest`: its export's; `photos`: to measure on."""

    model: Model
    digest: str
    photos: CalibrationPhotos
    options: Int8Options
    progress: Progress
    advance: Advance

    def stored_or_measured(self) -> Ranges:
        """The stored ranges where they hold, else measured ones, which are stored."""
        path = ranges_path(self.options.home, self.model.name)
        asked = None if self.options.method == AUTO else self.options.method
        stored, why = read_ranges(path)
        if stored is not None:
            why = stored.why_stale(self.digest, self.photos.id, asked)
            if why is None:
                self.progress(f"The ranges of {self.model.name} are those of {path}")
                return stored
        if why is not None:
            self.progress(f"{path} no longer holds ({why}): {self.model.name} is calibrated anew")
        ranges = self.measured(asked or METHODS[0])
        self.store(ranges)
        return ranges

    def measured(self, method: str) -> Ranges:
        name, photos = self.model.name, self.photos
        self.progress(
            f"Calibrating {name} on {len(photos.chosen)} photos of {photos.folder}, by {method}"
        )
        ranges = measure_ranges(self.model, self.digest, photos, method, self.advance)
        if ranges.constant:
            self.progress(
                f"{listed(ranges.constant)} of {name} never changed on these photos and stays float: a "
                "layer before it may be dead."
            )
        return ranges

    def store(self, ranges: Ranges) -> None:
        ranges.write(ranges_path(self.options.home, self.model.name))
