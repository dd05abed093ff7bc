"""How far the ingest of a source is."""

from __future__ import annotations

from dataclasses import dataclass

from trtkit.reporting import advance
from trtkit.sizes import human_bytes
from trtkit.video.frames import MICROSECONDS
from trtkit.video.times import clock


@dataclass
class IngestProgress:
    """How far the ingest of one source is.

    `seconds`: since it started; `footage_us`: of the source that it went through in them; `at_us`: the
    time of the last frame, of `duration_us` (None for a stream). `objects`, `sightings`, `gaps`: their
    numbers; `map_bytes`: of the objects' feature maps.
    """

    camera: str
    frames: int = 0
    footage_us: int = 0
    at_us: int = 0
    duration_us: int | None = None
    objects: int = 0
    sightings: int = 0
    map_bytes: int = 0
    seconds: float = 0.0
    gaps: int = 0
    resumed_us: int | None = None
    up_to_date: bool = False

    @property
    def times_real_time(self) -> float:
        return self.footage_us / MICROSECONDS / self.seconds if self.seconds else 0.0

    def report(self) -> None:
        """Report the position, the speed, the counts and the time left; a stream's share stays 0."""
        advance(str(self), min(1.0, self.at_us / self.duration_us) if self.duration_us else 0.0)

    def __str__(self) -> str:
        parts = [f"{self.camera} {clock(self.at_us)[:-4]}"]
        if self.duration_us:
            parts[0] += f" of {clock(self.duration_us)[:-4]}"
        if self.seconds:
            parts.append(f"{self.frames / self.seconds:.0f} frames/s")
            parts.append(f"{self.times_real_time:.1f} times real time")
        parts += [f"{self.objects} objects", f"{human_bytes(self.map_bytes)} of feature maps"]
        if self.duration_us and self.times_real_time:
            left = (self.duration_us - self.at_us) / MICROSECONDS / self.times_real_time
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)
