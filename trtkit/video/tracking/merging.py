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
# The share of a track's pixels on each side that are left out of its extent.
_STRAYS = 0.03
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
    across = (columns + window[1].start + 0.5) * scale[0]
    down = (rows + window[0].start + 0.5) * scale[1]
    likely = np.zeros((len(expected), len(across)))
    if detections.picture is not None and colours:
        numbers = colour_numbers(detections.picture[window])[rows, columns]
        likely = np.stack([own.likelihood(numbers) for own in colours])
    sides = np.stack([box[2:] for box in expected])
    middles = np.stack([box[:2] + box[2:] / 2 for box in expected])
    visible = np.ones(len(expected), np.bool_)
    for _ in range(_ROUNDS):
        # Track by track: arrays of points and tracks at once take twice as long.
        squares = np.stack(
            [
                ((across - middle[0]) / side[0]) ** 2 + ((down - middle[1]) / side[1]) ** 2
                for middle, side in zip(middles, sides, strict=True)
            ]
        )
        nearest = (squares - _COLOURS * likely).argmin(axis=0)
        for place in range(len(expected)):
            # Far from every track is another thing, which has no track yet.
            own = (nearest == place) & (squares[place] < 1.0)
            covered = np.count_nonzero(own) * scale[0] * scale[1] / sides[place].prod()
            visible[place] = covered >= _LEAST_SHOWN
            if visible[place]:
                middles[place] = _middle(across[own]), _middle(down[own])
    return [middle if there else None for middle, there in zip(middles, visible, strict=True)]


def _middle(places: Array) -> float:
    """The middle of the extent, not of the mass: legs apart are less than a body. Strays do not count."""
    last = len(places) - 1
    low, high = round(_STRAYS * last), round((1 - _STRAYS) * last)
    ordered = np.partition(places, (low, high))
    return float(ordered[low] + ordered[high]) / 2
