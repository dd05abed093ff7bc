"""Where tracks share one stretch of foreground: which part of it is whose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Detections
from trtkit.video.tracking.colours import Colours, colour_numbers

# Rounds of assigning pixels to the nearest track and moving each to the middle of its own.
_ROUNDS = 3
# A track with less of its area in sight is hidden behind the others.
_LEAST_SHOWN = 0.15
# How much colours count beside places.
_COLOURS = 0.15


def parts(
    detections: Detections, blob: Array, expected: Sequence[Array], colours: Sequence[Colours] = ()
) -> list[Array | None]:
    """The centre (x, y in pixels of the frame) of each track's part of a blob, None where it is hidden.

    `blob`: a box of the detections, which have a foreground; `expected`: the box of each track where it is
    expected. A pixel belongs to the track whose centre is nearest, measured in widths and heights of that
    track, less how likely its colour is there.
    """
    foreground = detections.foreground
    if foreground is None:
        return [None] * len(expected)
    scale = np.array(detections.size, np.float64) / foreground.shape[1::-1]
    window = detections.window(blob)
    rows, columns = np.nonzero(foreground[window])
    points = (np.stack([columns + window[1].start, rows + window[0].start], axis=1) + 0.5) * scale
    likely = np.zeros((len(points), len(expected)))
    if detections.picture is not None and colours:
        numbers = colour_numbers(detections.picture[window])[rows, columns]
        likely = np.stack([own.likelihood(numbers) for own in colours], axis=1)
    sides = np.stack([box[2:] for box in expected])
    middles = np.stack([box[:2] + box[2:] / 2 for box in expected])
    visible = np.ones(len(expected), np.bool_)
    for _ in range(_ROUNDS):
        away = (points[:, None] - middles[None]) / sides[None]
        squares = (away**2).sum(axis=2)
        nearest = (squares - _COLOURS * likely).argmin(axis=1)
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
