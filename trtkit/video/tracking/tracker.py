"""The tracker: detections of successive frames become tracks, by motion, overlap and assignment.

A frame goes through four steps: where each track is expected (Kalman filter), which detection is whose (the
assignment of least cost), which detections hold several tracks or a part of one, and which tracks begin and
end. Sources: Bewley et al., Simple Online and Realtime Tracking, 2016; Zhang et al., ByteTrack, 2022.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Box, Detections
from trtkit.video.frames import MICROSECONDS
from trtkit.video.protocols import Track, TrackUpdate
from trtkit.video.tracking.colours import UNSURE, Colours, colours_of, differences
from trtkit.video.tracking.joining import recognised, resembling
from trtkit.video.tracking.kalman import BoxFilter
from trtkit.video.tracking.matching import (
    areas,
    assigned,
    centres,
    inside,
    overlaps,
    side_by_side,
    union,
)
from trtkit.video.tracking.merging import parts
from trtkit.video.tracking.options import TrackingOptions
from trtkit.video.tracking.running import CONFIRMED, RunningTrack

# The size of one thing changes less than this from sight to sight.
_MOST_GROWTH = 4.0
# A detection holds a track, or a part of one, of which it covers this share.
_HELD = 0.5
_PART = 0.6
# A track that was not seen for longer does not join others in one detection.
_MERGES_US = 500_000
# The speed of a track that is not seen fades by this share a second: it may have stopped.
_FADING = 0.25
# What the difference of colours costs, in overlaps.
_COLOURS = 3.0
# A track learns the colours of detections that are at most so many times as large, or as small.
_OWN_SIZE = 1.5
# What rests becomes background piece by piece. With less than this share left, it keeps its box.
_LEFT = 0.5
# What came as one and then is side by side for so long is several things, each of this share of the height.
_APART_US = 500_000
_UPRIGHT = 0.6


@dataclass
class _State:
    """What a tracker hands to the next one: the tracks, the next id, and the frames of late."""

    tracks: list[RunningTrack]
    next_id: int
    frames: list[tuple[int, int]]


class MotionTracker:
    """Links detections to tracks; its methods are those of `Tracker`.

    `appearance` gives the cosine similarity of two tracks' pictures, earlier and later, None where unknown.
    With it, a track that was lost is taken up again where motion alone cannot tell.

        tracker = MotionTracker(TrackingOptions())
        for number, frame in enumerate(frames):
            tracks += tracker.update(number, frame.time_us, detector.detect(frame)).ended
    """

    def __init__(
        self,
        options: TrackingOptions,
        appearance: Callable[[int, int], float | None] | None = None,
    ) -> None:
        self._options = options
        self._appearance = appearance
        self._tracks: list[RunningTrack] = []
        self._next = 1
        # Number and time of the frames on which a track may have been missed.
        self._frames: deque[tuple[int, int]] = deque()

    def update(self, frame: int, time_us: int, detections: Detections) -> TrackUpdate:
        """Take in the detections on a frame: its number and its time in microseconds, which always grow."""
        lost_us = round(self._options.lost_seconds * MICROSECONDS)
        ended = [track for track in self._tracks if time_us - track.measured_us > lost_us]
        self._tracks = [track for track in self._tracks if track not in ended]
        self._predict(time_us)
        colours = colours_of(detections)
        groups = self._groups(detections, colours, time_us)
        current: list[tuple[RunningTrack, Array]] = []
        whole: dict[int, list[Array]] = {}
        # Whose colours are known from this frame on.
        recent: list[RunningTrack] = []
        for box, shares, members in zip(detections.boxes, colours, groups, strict=True):
            if len(members) > 1:
                current += self._shared(frame, time_us, detections, box, members)
            else:
                track = members[0] if members else self._begin(box)
                if not members:
                    self._tracks.append(track)
                whole.setdefault(track.id, []).append(box)
                if not track.merged and _alike_in_size(track, box) and track.colours.learn(shares):
                    recent.append(track)
        by_id = {track.id: track for track in self._tracks}
        for number, boxes in whole.items():
            for track, box in self._divided(by_id[number], boxes, time_us):
                fading = detections.foreground is not None and _fades(track, box)
                current.append(self._alone(frame, time_us, track, box, fading=fading))
        missed = [t for t in self._tracks if t.last_us < time_us and not t.confirmed]
        self._tracks = [track for track in self._tracks if track not in missed]
        joined = self._joined(recent, time_us, detections.size)
        self._frames.append((frame, time_us))
        while self._frames[0][1] < time_us - lost_us:
            self._frames.popleft()
        return self._update(current, joined, [*ended, *missed], detections.size)

    def finish(self) -> TrackUpdate:
        """End all tracks: the footage ends, or stops for long."""
        ended, self._tracks = self._tracks, []
        self._frames.clear()
        return self._update([], [], ended, (0, 0))

    def state(self) -> bytes:
        """Everything that later updates depend on, without loss."""
        import msgspec

        return msgspec.msgpack.encode(_State(self._tracks, self._next, list(self._frames)))

    def restore(self, state: bytes) -> None:
        """Continue from the `state` of another tracker with the same options."""
        import msgspec

        restored = msgspec.msgpack.decode(state, type=_State)
        self._tracks, self._next = restored.tracks, restored.next_id
        self._frames = deque(restored.frames)

    def _predict(self, time_us: int) -> None:
        if not self._frames:
            return
        before = self._frames[-1][1]
        seconds = (time_us - before) / MICROSECONDS
        for track in self._tracks:
            track.filter.predict(seconds)
            if track.last_us < before:
                track.filter.slow(max(0.0, 1 - _FADING * seconds))

    def _begin(self, box: Array) -> RunningTrack:
        x, y = centres(box[None])[0].tolist()
        self._next += 1
        return RunningTrack(self._next - 1, BoxFilter.at(x, y, float(box[2]), float(box[3])))

    def _divided(
        self, track: RunningTrack, boxes: Sequence[Array], time_us: int
    ) -> list[tuple[RunningTrack, Array]]:
        """A track with its box; more where what came as one has long been several, side by side."""
        columns = side_by_side(boxes, _UPRIGHT) if len(boxes) > 1 else boxes
        if len(columns) < 2:
            track.apart_us = None
        elif track.apart_us is None:
            track.apart_us = time_us
        if track.apart_us is None or time_us - track.apart_us < _APART_US:
            return [(track, union(boxes))]
        first, *others = sorted(columns, key=lambda box: -float(box[2] * box[3]))
        track.filter.place_at(*centres(first[None])[0].tolist(), *first[2:].tolist())
        track.colours, track.apart_us = Colours(), None
        begun = [self._begin(box) for box in others]
        self._tracks += begun
        return [(track, first), *zip(begun, others, strict=True)]

    def _alone(
        self, frame: int, time_us: int, track: RunningTrack, box: Array, *, fading: bool
    ) -> tuple[RunningTrack, Array]:
        """Take in a detection that is the track's own; `fading`: only what is left of it."""
        if fading:
            box = track.expected
            track.filter.slow(0.0)
        elif track.sightings:
            x, y = centres(box[None])[0].tolist()
            track.filter.correct(x, y)
            track.filter.resize(float(box[2]), float(box[3]))
        track.merged = False
        track.see(frame, time_us, _whole(box), self._frames, sure=True)
        return track, box

    def _shared(
        self,
        frame: int,
        time_us: int,
        detections: Detections,
        box: Array,
        members: Sequence[RunningTrack],
    ) -> list[tuple[RunningTrack, Array]]:
        """Take in a detection of several tracks: each keeps its size and moves with its own part."""
        colours = [track.colours for track in members]
        middles = parts(detections, box, [track.expected for track in members], colours)
        for track, middle in zip(members, middles, strict=True):
            if middle is not None:
                # Where one ends and the other begins is not sure.
                track.filter.correct(float(middle[0]), float(middle[1]), 2.0)
            track.merged, track.apart_us = True, None
            own = _whole(track.expected)
            track.see(frame, time_us, own, self._frames, sure=middle is not None)
        return [(track, track.expected) for track in members]

    def _groups(
        self, detections: Detections, colours: Array, time_us: int
    ) -> list[list[RunningTrack]]:
        """The tracks of each detection: usually one, none of a new thing, several where things meet."""
        boxes = detections.boxes
        groups: list[list[RunningTrack]] = [[] for _ in range(len(boxes))]
        if not len(boxes) or not self._tracks:
            return groups
        expected = np.stack([track.expected for track in self._tracks])
        unlike = differences(np.stack([track.colours.shares for track in self._tracks]), colours)
        pairs = assigned(self._costs(expected, boxes, unlike, time_us))
        for row, place in pairs:
            groups[place].append(self._tracks[row])
        if detections.foreground is None:
            # A detector that knows things tells one from another.
            return groups
        owned = {row for row, _ in pairs}
        held = inside(expected, boxes)
        for row, track in enumerate(self._tracks):
            place = int(held[row].argmax())
            late = time_us - track.last_us > _MERGES_US
            if row not in owned and track.confirmed and not late and held[row, place] >= _HELD:
                groups[place].append(track)
        several = {track.id for members in groups if len(members) > 1 for track in members}
        within = inside(boxes, expected)
        for place in range(len(boxes)):
            row = int(within[place].argmax())
            track = self._tracks[row]
            if groups[place] or track.id in several:
                continue
            if row not in owned and not track.rests:
                continue
            if within[place, row] >= _PART:
                groups[place].append(track)
        return groups

    def _costs(self, expected: Array, boxes: Array, unlike: Array, time_us: int) -> Array:
        """What it costs to take each detection for each track, infinite where it cannot be.

        From 0 for the same box to about 2; more for a track that was not seen for a while.
        """
        filters = [track.filter for track in self._tracks]
        lengths = np.array([of_track.length for of_track in filters])
        reach = 0.3 * lengths + 2 * np.array([of_track.uncertainty for of_track in filters])
        tentative = np.array([not track.confirmed for track in self._tracks])
        unseen = np.array([time_us - track.last_us for track in self._tracks]) / MICROSECONDS
        apart = 1 - overlaps(expected, boxes)
        away = np.linalg.norm(centres(expected)[:, None] - centres(boxes)[None], axis=2)
        growth = np.abs(np.log(areas(boxes)[None] / areas(expected)[:, None]))
        allowed = (apart <= 1 - self._options.overlap) | (away <= reach[:, None])
        allowed &= (growth < np.log(_MOST_GROWTH)) | tentative[:, None]
        costs = apart + 0.5 * away / lengths[:, None] + 0.3 * growth
        costs += (0.3 * unseen + 0.5 * tentative)[:, None]
        costs += _COLOURS * (unlike - UNSURE)
        return np.asarray(np.where(allowed, costs, np.inf))

    def _joined(
        self, later: Sequence[RunningTrack], time_us: int, size: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Join tracks that were just confirmed, or whose colours are just known, to what they continue."""
        joined = []
        for track in [track for track in self._tracks if len(track.sightings) == CONFIRMED]:
            if self._appearance is not None:
                earlier = resembling(track, self._tracks, time_us, self._appearance)
                joined += self._join(track, earlier)
        since = time_us - round(self._options.lost_seconds * MICROSECONDS)
        for track in later:
            if track in self._tracks and track.sightings[0].time_us >= since:
                joined += self._join(track, recognised(track, self._tracks, time_us, size))
        return joined

    def _join(self, later: RunningTrack, earlier: RunningTrack | None) -> list[tuple[int, int]]:
        if earlier is None:
            return []
        earlier.take_over(later, self._frames)
        self._tracks.remove(later)
        return [(later.id, earlier.id)]

    def _update(
        self,
        current: Sequence[tuple[RunningTrack, Array]],
        joined: Sequence[tuple[int, int]],
        gone: Sequence[RunningTrack],
        size: tuple[int, int],
    ) -> TrackUpdate:
        names = dict(joined)
        # A track that goes on elsewhere is not where it was guessed.
        missing = {track.id for track in gone} | {*names.values()}
        kept = [pair for pair in current if pair[0].id not in missing]
        complete = [(track.id, track.complete(self._options)) for track in gone]
        return TrackUpdate(
            Detections.of(
                [box for _, box in kept],
                tracks=[names.get(track.id, track.id) for track, _ in kept],
                merged=[track.merged for track, _ in kept],
                size=size,
            ),
            tuple(joined),
            tuple(Track(number, sightings) for number, sightings in complete if sightings),
            tuple(number for number, sightings in complete if not sightings),
        )


def _alike_in_size(track: RunningTrack, box: Array) -> bool:
    """Whether a detection is about as large as its track: not a part of it, and nothing beside it."""
    growth = float(box[2] * box[3]) / track.filter.area
    return 1 / _OWN_SIZE < growth < _OWN_SIZE


def _fades(track: RunningTrack, box: Array) -> bool:
    """Whether a track stands still and becomes background: only a piece of it is left."""
    return track.rests and float(box[2] * box[3]) < _LEFT * track.filter.area


def _whole(box: Array) -> Box:
    x, y, width, height = (round(side) for side in box.tolist())
    return Box(x, y, max(1, width), max(1, height))
