"""A track that was just begun may be one that was lost: by its colours, or by its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trtkit.video.detections import Box
from trtkit.video.frames import MICROSECONDS
from trtkit.video.tracking.colours import differences
from trtkit.video.tracking.running import RunningTrack

# It is one that was lost within this many lengths, and as many more for each second.
_REACH = 1.5
# Colours decide where they differ by at most so much, and by so much less than from the second best.
_SAME_COLOURS = 0.4
_MARGIN = 0.1
# Pictures of one thing differ by at most this share of what they differ from those of any other thing. How
# alike pictures are says nothing by itself: it depends on the model.
_ALIKE = 0.5
# What left the frame does not come back, and what enters it is new. A moving box is a pixel or two off.
_BORDER = 2


def recognised(
    later: RunningTrack, tracks: Sequence[RunningTrack], time_us: int, size: tuple[int, int]
) -> RunningTrack | None:
    """The track that went on as `later`, by the colours of both; None if none did.

    `tracks`: all that run. Those count that are not seen at `time_us`, or only guessed in one stretch with
    others. `size`: width and height of the frame.
    """
    first = later.sightings[0]
    if _at_border(first.box, size):
        return None
    near = [
        track
        for track in tracks
        if (track.merged or track.last_us < time_us)
        and track.colours.shares.any()
        and _reaches(track, later)
        and not _at_border(track.sightings[-1].box, size)
    ]
    if not near:
        return None
    known = np.stack([track.colours.shares for track in near])
    unlike = differences(known, later.colours.shares[None])[:, 0]
    best, *others = np.argsort(unlike, kind="stable").tolist()
    clear = not others or unlike[others[0]] - unlike[best] >= _MARGIN
    return near[best] if clear and unlike[best] <= _SAME_COLOURS else None


def resembling(
    later: RunningTrack,
    tracks: Sequence[RunningTrack],
    time_us: int,
    appearance: Callable[[int, int], float | None],
) -> RunningTrack | None:
    """The lost track whose pictures are far more alike those of `later` than any other's; None without one.

    `appearance`: the cosine similarity of two tracks' pictures, None where it is not known.
    """
    lost = [track for track in tracks if track.last_us < time_us and _reaches(track, later)]
    if not lost:
        return None
    differing = {
        track.id: 1 - alike
        for track in tracks
        if track is not later and track.confirmed
        and (alike := appearance(track.id, later.id)) is not None
    }  # fmt: skip
    best = min(differing, key=differing.__getitem__, default=None)
    others = [value for number, value in differing.items() if number != best]
    for earlier in lost:
        if earlier.id == best and others and differing[best] <= _ALIKE * min(others):
            return earlier
    return None


def _reaches(earlier: RunningTrack, later: RunningTrack) -> bool:
    """Whether a track can have come to where another one began."""
    first = later.sightings[0]
    before = next((own for own in reversed(earlier.sightings) if own.frame < first.frame), None)
    if before is None or not earlier.confirmed:
        return False
    seconds = (first.time_us - before.time_us) / MICROSECONDS
    away = np.hypot(
        first.box.x + first.box.width / 2 - before.box.x - before.box.width / 2,
        first.box.y + first.box.height / 2 - before.box.y - before.box.height / 2,
    )
    return bool(away <= _REACH * (1 + seconds) * later.filter.length)


def _at_border(box: Box, size: tuple[int, int]) -> bool:
    return (
        min(box.x, box.y) <= _BORDER
        or box.x + box.width >= size[0] - _BORDER
        or box.y + box.height >= size[1] - _BORDER
    )
