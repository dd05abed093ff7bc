"""The options of tracking."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrackingOptions:
    """Which detections become tracks, and for how long a track may be out of sight.

    `lost_seconds`: a track that is not seen for longer ends. `least_seconds`: a shorter track is dropped.
    `least_travel`: a track that stays within this many lengths of itself is dropped: trees, flags and
    parked cars under a moving light do not go anywhere. `overlap`: the least intersection over union of a
    detection with a track where it is expected, unless their centres are close.
    """

    lost_seconds: float = 2.0
    least_seconds: float = 0.5
    least_travel: float = 0.5
    overlap: float = 0.1
