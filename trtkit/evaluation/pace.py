"""How fast a subject was, by the batches of one evaluation."""

from __future__ import annotations

from array import array
from statistics import median


class Pace:
    """The seconds of a subject's batches, of which those of the largest size count."""

    def __init__(self) -> None:
        self._images = 0
        self._seconds = array("d")

    def add(self, images: int, seconds: float) -> None:
        """A batch of that many images took so long."""
        if images > self._images:
            # A remainder costs more an image than the batch that was asked for.
            self._images, self._seconds = images, array("d")
        if images == self._images:
            self._seconds.append(seconds)

    @property
    def images_per_second(self) -> float | None:
        """Of the median batch, leaving out the first, which warms up; None when nothing was measured."""
        seconds = self._seconds[1:] or self._seconds
        middle = median(seconds) if seconds else 0.0
        return self._images / middle if middle > 0 else None
