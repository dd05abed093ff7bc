"""The parts that footage goes through: a detector finds boxes, a tracker links them, an embedder compares.

Any object with these methods is such a part: background subtraction and an ONNX detector are detectors, the
cheap tail of a bundle is an embedder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trtkit.tensors import Array
from trtkit.video.detections import Detections, Sighting
from trtkit.video.frames import Frame


@dataclass(frozen=True)
class Track:
    """One thing over time: its sightings, in their order, each on another frame."""

    id: int
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True)
class TrackUpdate:
    """What a frame did to the tracks, to be taken in this order.

    `joined`: (id, earlier id) of tracks that turned out to be one, which keeps the earlier id. `ended`:
    tracks that are complete. `dropped`: ids of tracks that were too short to count. `current`: the
    detections of this frame with their tracks, also of those that are not sure to be one yet.
    """

    current: Detections
    joined: tuple[tuple[int, int], ...] = ()
    ended: tuple[Track, ...] = ()
    dropped: tuple[int, ...] = ()


class Detector(Protocol):
    """Finds things on frames. What it gives depends only on the frames that it has seen."""

    def detect(self, frame: Frame) -> Detections:
        """The detections on a frame, which it also learns from."""
        ...

    def state(self) -> bytes:
        """What one for the next stretch of footage starts from; empty if it starts from nothing."""
        ...


class Tracker(Protocol):
    """Links the detections of successive frames of one source to tracks."""

    def update(self, frame: int, time_us: int, detections: Detections) -> TrackUpdate:
        """Take in the detections on a frame: its number and its time, which always grow."""
        ...

    def finish(self) -> TrackUpdate:
        """End all tracks: the footage ends, or stops for long."""
        ...

    def state(self) -> bytes:
        """Everything that later updates depend on, without loss."""
        ...

    def restore(self, state: bytes) -> None:
        """Continue from the `state` of another tracker with the same options."""
        ...


class Embedder(Protocol):
    """Turns pictures into vectors; those of one thing are close to each other."""

    def embed(self, crops: Sequence[bytes]) -> Array:
        """Vectors of length 1, float32 N x D, of N JPEGs. Raises TrtkitError."""
        ...
