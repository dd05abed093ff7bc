"""The array of detections that detectors, trackers and evidence share."""

from __future__ import annotations

import numpy as np
import pytest

from trtkit.errors import TrtkitError
from trtkit.video.detections import UNTRACKED, Box, Detections


def test_boxes_become_detections_of_full_score_without_tracks() -> None:
    detections = Detections.of([Box(10, 20, 30, 60), Box(0, 0, 5, 5)])
    assert len(detections) == 2
    assert detections.boxes.dtype == np.float64
    assert detections.scores.tolist() == [1.0, 1.0]
    assert detections.tracks.tolist() == [UNTRACKED, UNTRACKED]
    assert not detections.merged.any()


def test_no_boxes_are_no_detections() -> None:
    assert len(Detections.of([])) == 0


def test_a_box_is_rounded_and_never_empty() -> None:
    detections = Detections.of([(1.4, 2.6, 0.2, 7.5)])
    assert detections.box(0) == Box(1, 3, 1, 8)


def test_arrays_of_other_lengths_are_refused() -> None:
    with pytest.raises(TrtkitError, match="2 boxes .* 1 scores"):
        Detections.of([Box(0, 0, 1, 1), Box(1, 1, 1, 1)], scores=[0.5])
