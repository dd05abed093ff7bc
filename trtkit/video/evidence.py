"""The few pictures that show what a track is: sharp, whole, large, and apart in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtkit.photos.antialias import reduced
from trtkit.tensors import Array
from trtkit.video.detections import UNTRACKED, Box, Detections, Sighting
from trtkit.video.frames import Frame
from trtkit.video.protocols import Embedder

JPEG_QUALITY = 90
# Frames are looked at for pictures this often: faster ones show the same again.
STEP_US = 100_000
# Pictures of a track are at least so far apart.
APART_US = 500_000
# A picture replaces others that are worth less than this share of it, so that few are encoded.
_BETTER = 0.9
# What a box loses at the border of the frame, where part of the thing is missing, and in one stretch with
# others, where they are in the picture too.
_AT_BORDER = 0.3
_MERGED = 0.1
# Sharpness is measured on a grey picture of this side, and counts half at this standard deviation of its
# Laplacian, in grey levels (Pech-Pacheco et al. 2000 take its variance).
_SHARP_SIDE = 64
_HALF_SHARP = 20.0


@dataclass(frozen=True)
class TrackPicture:
    """A picture of a track: where it was taken, and what it is worth beside the others; `jpeg` is RGB."""

    value: float
    sighting: Sighting
    jpeg: bytes


class Evidence:
    """Collects the best pictures of running tracks.

    `limit`: pictures per track; `side`: larger crops are scaled down to it, in pixels; `margin`: around a
    box, as a share of its longer side.
    """

    def __init__(self, limit: int, side: int, margin: float) -> None:
        self._limit = limit
        self._side = side
        self._margin = margin
        self._pictures: dict[int, list[TrackPicture]] = {}
        self._step: int | None = None

    def look(self, frame: Frame, number: int, current: Detections) -> None:
        """Take pictures of the tracks on a frame, where they are better than those so far."""
        step = frame.time_us // STEP_US
        tracked = np.flatnonzero(current.tracks != UNTRACKED).tolist()
        if not tracked or step == self._step:
            return
        self._step = step
        pixels: Array | None = None
        size = (frame.picture.width, frame.picture.height)
        for place in tracked:
            box = _inside(current.box(place), *size)
            kept = self._pictures.setdefault(int(current.tracks[place]), [])
            most = _most_value(box, size, merged=bool(current.merged[place]))
            rivals = self._rivals(kept, frame.time_us)
            least = max((picture.value for picture in rivals), default=-1.0)
            if not box.area or most * _BETTER <= least:
                continue
            pixels = frame.picture.rgb() if pixels is None else pixels
            value = most * _sharpness(cut_out(pixels, box, 0.0))
            if value * _BETTER <= least:
                continue
            jpeg = _jpeg(cut_out(pixels, box, self._margin), self._side)
            for picture in rivals:
                kept.remove(picture)
            kept.append(TrackPicture(value, Sighting(number, frame.time_us, box), jpeg))

    def best(self, track: int) -> list[TrackPicture]:
        """The pictures of a track, the best first."""
        kept = self._pictures.get(track, [])
        return sorted(kept, key=lambda picture: (-picture.value, picture.sighting.frame))

    def take(self, track: int) -> list[TrackPicture]:
        """As `best`, and forget the track."""
        pictures = self.best(track)
        self._pictures.pop(track, None)
        return pictures

    def join(self, track: int, earlier: int) -> None:
        """Give the pictures of `track` to `earlier`, which it turned out to be."""
        for picture in self.take(track):
            kept = self._pictures.setdefault(earlier, [])
            rivals = self._rivals(kept, picture.sighting.time_us)
            if picture.value > max((rival.value for rival in rivals), default=-1.0):
                for rival in rivals:
                    kept.remove(rival)
                kept.append(picture)

    def _rivals(self, kept: Sequence[TrackPicture], time_us: int) -> list[TrackPicture]:
        """The pictures that one of that time would replace."""
        close = [picture for picture in kept if abs(picture.sighting.time_us - time_us) < APART_US]
        if close or len(kept) < self._limit:
            return close
        return [min(kept, key=lambda picture: picture.value)]

    def state(self) -> dict[str, Any]:
        """Everything that later pictures depend on, of plain values and bytes."""
        return {
            "step": self._step,
            "pictures": [
                (track, [(p.value, p.sighting.frame, p.sighting.time_us, *p.sighting.box, p.jpeg)
                         for p in kept])
                for track, kept in self._pictures.items()
            ],
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the `state` of another run."""
        self._step = state["step"]
        self._pictures = {
            track: [
                TrackPicture(value, Sighting(frame, time_us, Box(*box)), jpeg)
                for value, frame, time_us, *box, jpeg in kept
            ]
            for track, kept in state["pictures"]
        }


class Likeness:
    """How alike the pictures of two tracks are to an embedder, which gets each picture once."""

    def __init__(self, evidence: Evidence, embedder: Embedder) -> None:
        self._evidence = evidence
        self._embedder = embedder
        self._vectors: dict[int, dict[bytes, Array]] = {}

    def __call__(self, earlier: int, track: int) -> float | None:
        """The highest cosine similarity of a picture of each, -1 to 1; None where one has no picture."""
        before, now = (self._vectors_of(number) for number in (earlier, track))
        if not before or not now:
            return None
        return float((np.stack(before) @ np.stack(now).T).max())

    def forget(self, track: int) -> None:
        """Forget the vectors of a track that has ended."""
        self._vectors.pop(track, None)

    def _vectors_of(self, track: int) -> list[Array]:
        known = self._vectors.get(track, {})
        pictures = [picture.jpeg for picture in self._evidence.best(track)]
        # One at a time: the last bits of a vector depend on its batch, and a resumed run has other batches.
        vectors = {
            jpeg: known[jpeg] if jpeg in known else self._embedder.embed([jpeg])[0]
            for jpeg in pictures
        }
        self._vectors[track] = vectors
        return list(vectors.values())


def cut_out(pixels: Array, box: Box, margin: float) -> Array:
    """The square around a box with a margin on each side, moved and made smaller to fit the frame.

    `pixels`: uint8 height x width x 3; `margin` as a share of the box's longer side. A view.
    """
    height, width = pixels.shape[:2]
    side = round(max(box.width, box.height) * (1 + 2 * margin))
    across, down = min(side, width), min(side, height)
    left = min(max(0, round(box.x + box.width / 2 - across / 2)), width - across)
    top = min(max(0, round(box.y + box.height / 2 - down / 2)), height - down)
    return pixels[top : top + down, left : left + across]


def _inside(box: Box, width: int, height: int) -> Box:
    """The part of a box that is in the frame; empty where none is."""
    left, top = max(0, box.x), max(0, box.y)
    right, bottom = min(width, box.x + box.width), min(height, box.y + box.height)
    return Box(left, top, max(0, right - left), max(0, bottom - top))


def _most_value(box: Box, size: tuple[int, int], *, merged: bool) -> float:
    """The value of a picture of this box if it is sharp: its side, less what is missing or in the way."""
    width, height = size
    # A moving box is a pixel or two off.
    slack = width / 240
    at_border = (
        min(box.x, box.y) <= slack
        or box.x + box.width >= width - slack
        or box.y + box.height >= height - slack
    )
    value = float(np.sqrt(box.area))
    return value * (_AT_BORDER if at_border else 1.0) * (_MERGED if merged else 1.0)


def _sharpness(crop: Array) -> float:
    """How sharp a crop is, 0 to 1."""
    import cv2

    small = cv2.resize(
        np.ascontiguousarray(crop), (_SHARP_SIDE, _SHARP_SIDE), interpolation=cv2.INTER_AREA
    )
    edges = cv2.Laplacian(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.CV_32F)
    deviation = float(edges.std())
    return deviation / (deviation + _HALF_SHARP)


def _jpeg(crop: Array, side: int) -> bytes:
    import simplejpeg

    encode: Any = simplejpeg.encode_jpeg
    return bytes(
        encode(reduced(crop, side), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="444")
    )
