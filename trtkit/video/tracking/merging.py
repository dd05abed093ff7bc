"""Where tracks share one stretch of foreground: which part of it is whose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Detections

# Rounds of assigning pixels to the nearest track and moving each to the middle of its own.
_ROUNDS = 3
# A track with less of its area in sight is hidden behind the others.
_LEAST_SHOWN = 0.15


def parts(detections: Detections, blob: Array, expected: Sequence[Array]) -> list[Array | None]:
    """The centre (x, y in pixels of the frame) of each track's part of a blob, None where it is hidden.

    `blob`: a box of the detections, which have a foreground; `expected`: the box of each track where it is
    expected. A pixel belongs to the track whose centre is nearest, measured in widths and heights of that
    track.
    """
    foreground = detections.foreground
    if foreground is None:
        return [None] * len(expected)
    scale = np.array(detections.size, np.float64) / foreground.shape[1::-1]
    left, top = (max(0, int(value)) for value in blob[:2] / scale)
    right, bottom = (int(np.ceil(value)) for value in (blob[:2] + blob[2:]) / scale)
    rows, columns = np.nonzero(foreground[top:bottom, left:right])
    points = (np.stack([columns + left, rows + top], axis=1) + 0.5) * scale
    sides = np.stack([box[2:] for box in expected])
    middles = np.stack([box[:2] + box[2:] / 2 for box in expected])
    visible = np.ones(len(expected), np.bool_)
    for _ in range(_ROUNDS):
        away = (points[:, None] - middles[None]) / sides[None]
        squares = (away**2).sum(axis=2)
        nearest = squares.argmin(axis=1)
        # Far from every track is another thing, which has no track yet.
        close = squares[np.arange(len(points)), nearest] < 1.0
        for place in range(len(expected)):
            own = points[close & (nearest == place)]
            covered = len(own) * scale[0] * scale[1] / sides[place].prod()
            visible[place] = covered >= _LEAST_SHOWN
            if visible[place]:
                # The middle of the extent, not of the mass: legs apart are less than a body.
                low, high = np.percentile(own, [3, 97], axis=0)
                middles[place] = (low + high) / 2
    return [middle if there else None for middle, there in zip(middles, visible, strict=True)]
