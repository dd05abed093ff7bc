"""The packed columns of a store: numbers that are always read and written together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtkit.tensors import Array
from trtkit.video.motion import Box
from trtkit.video.objects import Sighting

# Six numbers of each.
SIGHTING_BYTES = 48
_RANK = np.dtype([("label", "<u4"), ("score", "<f4")])


def pack_sightings(sightings: Sequence[Sighting]) -> bytes:
    """Frame number, time, x, y, width, height of each, int64, little-endian."""
    rows = [(each.frame, each.time_us, *each.box) for each in sightings]
    return np.array(rows, "<i8").tobytes()


def unpack_sightings(packed: bytes) -> list[Sighting]:
    rows = np.frombuffer(packed, "<i8").reshape(-1, 6).tolist()
    return [Sighting(frame, time_us, Box(*box)) for frame, time_us, *box in rows]


def pack_top(labels: Array, scores: Array) -> bytes:
    """The best classes, best first: index uint32 and score float32 of each, little-endian."""
    packed = np.empty(len(labels), _RANK)
    packed["label"], packed["score"] = labels, scores
    return packed.tobytes()


def unpack_top(packed: bytes) -> tuple[Array, Array]:
    """Indexes, int64, and scores, float32, best first."""
    rows = np.frombuffer(packed, _RANK)
    return rows["label"].astype(np.int64), rows["score"].astype(np.float32)


def pack_vector(vector: Array) -> bytes:
    """Features, kept as fp16."""
    return vector.astype("<f2").tobytes()


def unpack_vector(packed: bytes) -> Array:
    """Features, float32."""
    return np.frombuffer(packed, "<f2").astype(np.float32)
