"""What a store's packed columns give back is what went in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trtkit.video.detections import Box, Sighting
from trtkit.video.footage.database import (
    pack_sightings,
    pack_top,
    pack_vector,
    unpack_sightings,
    unpack_top,
    unpack_vector,
)

WHOLE = st.integers(-(2**63), 2**63 - 1)
SIGHTINGS = st.builds(Sighting, WHOLE, WHOLE, st.builds(Box, WHOLE, WHOLE, WHOLE, WHOLE))
RANKS = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0, 1, width=32)))


@given(st.lists(SIGHTINGS))
def test_sightings(sightings: list[Sighting]) -> None:
    packed = pack_sightings(sightings)
    assert len(packed) == 48 * len(sightings)
    again = unpack_sightings(packed)
    assert again == sightings
    # As JSON takes them, not numbers of NumPy's.
    assert all(type(value) is int for each in again for value in (each.frame, *each.box))


def test_sightings_are_little_endian() -> None:
    packed = pack_sightings([Sighting(1, 2, Box(3, 4, 5, 6))])
    assert packed == b"".join(number.to_bytes(8, "little") for number in range(1, 7))


@given(RANKS)
def test_best_classes(ranks: list[tuple[int, float]]) -> None:
    labels = np.array([label for label, _ in ranks], np.int64)
    scores = np.array([score for _, score in ranks], np.float32)
    packed = pack_top(labels, scores)
    assert len(packed) == 8 * len(ranks)
    label_again, score_again = unpack_top(packed)
    assert (label_again.dtype, score_again.dtype) == (np.int64, np.float32)
    assert np.array_equal(label_again, labels)
    assert np.array_equal(score_again, scores)


def test_best_classes_are_little_endian() -> None:
    packed = pack_top(np.array([258]), np.array([1.0], np.float32))
    assert packed == bytes([2, 1, 0, 0]) + bytes([0, 0, 0x80, 0x3F])


@given(st.lists(st.floats(-1, 1, width=16)))
def test_features_in_values_of_fp16(values: list[float]) -> None:
    packed = pack_vector(np.array(values, np.float32))
    assert len(packed) == 2 * len(values)
    again = unpack_vector(packed)
    assert again.dtype == np.float32
    assert np.array_equal(again, np.array(values, np.float32))
