"""Tracks of drawn things: crossings, poles, gaps, parts, and trackers that continue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtkit.video.detections import UNTRACKED, Box, Detections
from trtkit.video.protocols import Track, TrackUpdate
from trtkit.video.tracking.options import TrackingOptions
from trtkit.video.tracking.tracker import MotionTracker

SIZE = (320, 240)
STEP_US = 100_000


class Walker:
    """A rectangle that is at `start` on frame 0 and moves by `step`."""

    def __init__(
        self,
        start: tuple[float, float],
        step: tuple[float, float],
        size=(16, 40),
        gone=(),
        colour=(90, 90, 90),
    ) -> None:
        self.start, self.step, self.size, self.gone = start, step, size, gone
        self.colour = colour

    def box(self, frame: int) -> Box | None:
        if frame in self.gone:
            return None
        x, y = (a + frame * b for a, b in zip(self.start, self.step, strict=True))
        return Box(round(x), round(y), *self.size)


def scene(walkers: Sequence[Walker], frame: int) -> Detections:
    """What a background model sees of them: things that touch are one."""
    import cv2

    mask = np.zeros(SIZE[::-1], np.uint8)
    picture = np.full((*mask.shape, 3), 200, np.uint8)
    for walker in walkers:
        box = walker.box(frame)
        if box is not None:
            own = np.s_[max(0, box.y) : box.y + box.height, max(0, box.x) : box.x + box.width]
            mask[own], picture[own] = 255, walker.colour
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    return Detections.of(stats[1:, :4], foreground=mask, size=SIZE, picture=picture)


def tracked(
    walkers: Sequence[Walker], frames: int, options: TrackingOptions | None = None, **more: object
) -> tuple[list[Track], list[TrackUpdate]]:
    tracker = MotionTracker(options or TrackingOptions(), **more)
    updates = [tracker.update(n, n * STEP_US, scene(walkers, n)) for n in range(frames)]
    updates.append(tracker.finish())
    return [track for update in updates for track in update.ended], updates


def follows(track: Track, walker: Walker, least: float = 0.5) -> bool:
    """Whether a track is on the walker on every frame on which that can be seen."""
    boxes = {sighting.frame: sighting.box for sighting in track.sightings}
    return all(
        frame not in boxes
        or (box := walker.box(frame)) is None
        or boxes[frame].overlap(box) > least
        for frame in range(100)
    )


def test_one_walker_is_one_track() -> None:
    walker = Walker((10, 80), (5, 0.5))
    (track,), updates = tracked([walker], 40)
    assert [sighting.frame for sighting in track.sightings] == list(range(40))
    assert all(sighting.time_us == sighting.frame * STEP_US for sighting in track.sightings)
    assert follows(track, walker, 0.95)
    assert updates[5].current.tracks.tolist() == [track.id]
    assert not updates[5].current.merged.any()


def test_two_that_cross_come_out_as_themselves() -> None:
    walkers = [Walker((10, 90), (5, 0)), Walker((250, 80), (-5, 0.5))]
    tracks, updates = tracked(walkers, 48)
    assert len(tracks) == 2
    by_start = sorted(tracks, key=lambda track: track.sightings[0].box.x)
    for track, walker in zip(by_start, walkers, strict=True):
        assert len(track.sightings) == 48
        first, last = track.sightings[0], track.sightings[-1]
        assert first.box.overlap(walker.box(0)) > 0.9
        assert last.box.overlap(walker.box(47)) > 0.9
        assert follows(track, walker, 0.3)
    # In one blob each keeps its own size.
    merged = [update.current for update in updates if update.current.merged.any()]
    assert merged
    for current in merged:
        assert len(current) == 2 and current.boxes[:, 2].max() < 24


def test_two_that_walk_together_for_a_while_are_two() -> None:
    # Side by side, touching, from frame 10 to 30, then apart again.
    class Meeting(Walker):
        def box(self, frame: int) -> Box:
            apart = 40 - 2.4 * min(frame, 10) + 2.4 * max(0, frame - 30)
            return Box(20 + 4 * frame, round(80 + self.start[1] * apart), 40, 16)

    tracks, _ = tracked([Meeting((0, 0), (0, 0)), Meeting((0, 1), (0, 0))], 45)
    assert sorted(len(track.sightings) for track in tracks) == [45, 45]


RED, BLUE, DARK = (180, 40, 40), (40, 60, 170), (30, 30, 30)


class Meeting(Walker):
    """Walks to the middle, stays there among others from frame 12 to 30, and goes where it came from."""

    def box(self, frame: int) -> Box:
        away = max(12 - frame, frame - 30, 0)
        x, y = (a + away * b for a, b in zip(self.start, self.step, strict=True))
        return Box(round(x), round(y), *self.size)


@pytest.mark.parametrize("colours", [(RED, BLUE), (BLUE, RED), (RED, DARK), (DARK, BLUE)])
def test_two_that_meet_and_turn_back_are_told_apart_by_their_colours(
    colours: tuple[tuple[int, int, int], ...],
) -> None:
    # By motion alone each would go on in the direction in which it came.
    walkers = [
        Meeting((150, 90), (-5, 0), colour=colours[0]),
        Meeting((158, 92), (5, 0.5), colour=colours[1]),
    ]
    tracks, updates = tracked(walkers, 43)
    assert any(update.current.merged.any() for update in updates)
    assert len(tracks) == 2
    for track, walker in zip(
        sorted(tracks, key=lambda track: track.sightings[0].box.x), walkers, strict=True
    ):
        for frame in (0, 8, 38, 42):
            (sighting,) = (own for own in track.sightings if own.frame == frame)
            assert sighting.box.overlap(walker.box(frame)) > 0.7


def test_what_came_as_one_and_goes_side_by_side_is_two() -> None:
    # They touch until frame 15, and are a few pixels apart from then on.
    class Beside(Walker):
        def box(self, frame: int) -> Box:
            apart = 4 if frame >= 15 else 0
            return Box(20 + 4 * frame + (16 + apart) * self.start[0], 80, 16, 40)

    walkers = [Beside((0, 0), (0, 0), colour=RED), Beside((1, 0), (0, 0), colour=BLUE)]
    tracks, _ = tracked(walkers, 50)
    first, second = sorted(tracks, key=lambda track: len(track.sightings), reverse=True)
    assert [sighting.frame for sighting in first.sightings] == list(range(50))
    # After half a second.
    assert [sighting.frame for sighting in second.sightings] == list(range(20, 50))
    last = {track.sightings[-1].box for track in tracks}
    assert all(any(box.overlap(walker.box(49)) > 0.8 for box in last) for walker in walkers)


def test_colours_join_what_motion_cannot() -> None:
    walkers = [Walker((60, 60), (5, 0), gone=range(20, 90), colour=RED)]
    # It turned behind a wall.
    out = Walker((150 + 30 * 5, 110), (-5, 0), gone=range(30), colour=RED)
    tracks, updates = tracked([*walkers, out], 60)
    assert [pair for update in updates for pair in update.joined] == [(2, 1)]
    (track,) = tracks
    assert [sighting.frame for sighting in track.sightings] == list(range(60))
    # Another one is not taken for it.
    out.colour = BLUE
    tracks, _ = tracked([*walkers, out], 60)
    assert [len(track.sightings) for track in tracks] == [20, 30]


def test_one_that_was_guessed_among_others_is_where_its_colours_come_out() -> None:
    # The small red one goes behind the large blue one, turns there, and comes out below.
    large = Walker((100, 74), (4, 0), size=(36, 44), colour=BLUE)
    small = Walker((60, 80), (6, 0), gone=range(20, 90), colour=RED)
    on = Walker((216 - 26 * 4, 120 - 26 * 3), (4, 3), gone=[*range(26), *range(46, 90)], colour=RED)
    tracks, updates = tracked([small, large, on], 50)
    assert [pair for update in updates for pair in update.joined] == [(3, 2)]
    assert any(2 in update.current.tracks[update.current.merged] for update in updates)
    check_ids(updates)
    (track,) = (track for track in tracks if track.id == 2)
    boxes = {sighting.frame: sighting.box for sighting in track.sightings}
    assert sorted(boxes) == list(range(46))
    assert all(boxes[frame].overlap(on.box(frame)) > 0.9 for frame in range(26, 46))


def test_one_that_left_and_one_that_enters_are_two() -> None:
    left = Walker((220, 80), (5, 0), gone=range(30, 90), colour=RED)
    enters = Walker((330 + 5 * 20, 110), (-4, 0), gone=range(25), colour=RED)
    tracks, updates = tracked([left, enters], 60)
    assert not [pair for update in updates for pair in update.joined]
    assert len(tracks) == 2


def test_what_stands_still_and_becomes_background_piece_by_piece_stays_itself() -> None:
    # While it stands, the detector finds only its head, then only its feet.
    class Stands(Walker):
        def box(self, frame: int) -> Box | None:
            x = 20 + 5 * (min(frame, 15) + max(0, frame - 40))
            if not 25 <= frame < 40:
                return Box(x, 80, 16, 40)
            return Box(x, 80, 16, 9) if frame < 33 else Box(x, 112, 16, 8)

    (track,), _ = tracked([Stands((0, 0), (0, 0))], 60)
    assert [sighting.frame for sighting in track.sightings] == list(range(60))
    assert all(sighting.box.height > 35 for sighting in track.sightings)
    # Where a detector knows things, it is as small as it says.
    tracker = MotionTracker(TrackingOptions())
    for n in range(20):
        tracker.update(n, n * STEP_US, Detections.of([Box(50 + n // 9, 80, 16, 40)]))
    update = tracker.update(20, 20 * STEP_US, Detections.of([Box(52, 100, 16, 18)]))
    assert update.current.box(0) == Box(52, 100, 16, 18)


def test_a_sign_in_front_of_a_thing_makes_no_two_of_it() -> None:
    # For a second only what is above and below of the sign can be seen.
    others = [*range(10), *range(20, 40)]
    whole = Walker((10, 80), (3, 0), gone=range(10, 20))
    head = Walker((10, 80), (3, 0), size=(16, 14), gone=others)
    legs = Walker((10, 104), (3, 0), size=(16, 16), gone=others)
    tracks, _ = tracked([whole, head, legs], 40)
    assert [len(track.sightings) for track in tracks] == [40]


def test_a_pole_does_not_break_a_track() -> None:
    walker = Walker((10, 80), (5, 0), gone=range(20, 30))
    (track,), _ = tracked([walker], 50)
    assert [sighting.frame for sighting in track.sightings] == list(range(50))
    # In between it is on the line from where it was to where it came out.
    hidden = next(sighting for sighting in track.sightings if sighting.frame == 25)
    assert abs(hidden.box.x - 135) <= 3 and abs(hidden.box.y - 80) <= 3


def test_longer_than_allowed_out_of_sight_ends_a_track() -> None:
    walker = Walker((10, 80), (2, 0), gone=range(20, 45))
    tracks, _ = tracked([walker], 80)
    assert [len(track.sightings) for track in tracks] == [20, 35]
    (track,), _ = tracked([walker], 80, TrackingOptions(lost_seconds=4.0))
    assert len(track.sightings) == 80


def test_parts_of_one_thing_belong_to_it() -> None:
    # Head and legs are apart from frame 10 to 20.
    whole = Walker((10, 80), (5, 0), gone=range(10, 20))
    others = [*range(10), *range(20, 40)]
    head = Walker((10, 80), (5, 0), size=(16, 18), gone=others)
    legs = Walker((10, 102), (5, 0), size=(16, 18), gone=others)
    (track,), _ = tracked([whole, head, legs], 40)
    assert [sighting.frame for sighting in track.sightings] == list(range(40))
    assert all(sighting.box.height > 30 for sighting in track.sightings)


def test_what_trembles_and_what_flashes_are_no_tracks() -> None:
    rng = np.random.default_rng(3)

    class Tree(Walker):
        def box(self, frame: int) -> Box:
            x, y = rng.integers(-3, 4, 2)
            return Box(100 + int(x), 100 + int(y), 30, 30)

    flash = Walker((200, 20), (0, 0), gone=[*range(10), *range(12, 60)])
    tracks, updates = tracked([Tree((0, 0), (0, 0)), flash], 60)
    assert tracks == []
    assert {number for update in updates for number in update.dropped} == {1, 2}


def test_a_gap_in_the_footage_longer_than_allowed_ends_all() -> None:
    walker = Walker((10, 80), (2, 0))
    tracker = MotionTracker(TrackingOptions())
    for n in range(10):
        tracker.update(n, n * STEP_US, scene([walker], n))
    update = tracker.update(10, 60_000_000, scene([walker], 10))
    assert [len(track.sightings) for track in update.ended] == [10]
    assert update.current.tracks.tolist() == [2]


def test_pictures_join_what_motion_cannot() -> None:
    # It stops behind a wall and comes out somewhere else, in other light, while another one passes.
    before = Walker((10, 80), (5, 0), gone=range(20, 90), colour=RED)
    after = Walker((10, 155), (4, 0), gone=range(35), colour=DARK)
    other = Walker((100, 20), (3, 0))
    # The other one is higher up, and so the first.
    alike = {(2, 3): 0.95, (1, 3): 0.6}

    def appearance(earlier: int, later: int) -> float | None:
        return alike.get((earlier, later))

    tracks, updates = tracked([before, after, other], 60, appearance=appearance)
    joined = [pair for update in updates for pair in update.joined]
    assert joined == [(3, 2)]
    assert sorted(track.id for track in tracks) == [1, 2]
    (track,) = (track for track in tracks if track.id == 2)
    assert [sighting.frame for sighting in track.sightings] == list(range(60))
    # As alike as any other is not alike.
    alike[1, 3] = 0.94
    tracks, _ = tracked([before, after, other], 60, appearance=appearance)
    assert len(tracks) == 3


def test_without_foreground_each_detection_is_one_thing() -> None:
    walkers = [Walker((10, 90), (5, 0)), Walker((250, 80), (-5, 0.5))]
    tracker = MotionTracker(TrackingOptions())
    for n in range(48):
        boxes = [box for walker in walkers if (box := walker.box(n)) is not None]
        current = tracker.update(n, n * STEP_US, Detections.of(boxes)).current
        assert len(current) == 2 and not current.merged.any()
        assert UNTRACKED not in current.tracks
    assert len(tracker.finish().ended) == 2


def test_many_things_at_once() -> None:
    walkers = [Walker((5 + 24 * (n % 12), 5 + 26 * (n // 12)), (1, 0), (10, 20)) for n in range(96)]
    tracks, _ = tracked(walkers, 15)
    assert len(tracks) == 96
    assert all(len(track.sightings) == 15 for track in tracks)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    stops=st.lists(st.integers(1, 39), max_size=4),
    count=st.integers(1, 5),
)
def test_a_restored_tracker_continues_as_if_nothing_happened(
    seed: int, stops: list[int], count: int
) -> None:
    rng = np.random.default_rng(seed)
    walkers = [
        Walker(
            (rng.uniform(0, 300), rng.uniform(0, 200)), (rng.uniform(-6, 6), rng.uniform(-4, 4)),
            gone=set(rng.integers(0, 40, 6).tolist()), colour=rng.integers(0, 256, 3).tolist(),
        )
        for _ in range(count)
    ]  # fmt: skip
    whole, updates = tracked(walkers, 40)
    tracker, broken = MotionTracker(TrackingOptions()), []
    for n in range(40):
        if n in stops:
            state = tracker.state()
            tracker = MotionTracker(TrackingOptions())
            tracker.restore(state)
            assert tracker.state() == state
        broken += tracker.update(n, n * STEP_US, scene(walkers, n)).ended
    broken += tracker.finish().ended
    assert broken == whole
    for track in whole:
        frames = [sighting.frame for sighting in track.sightings]
        assert frames == sorted(set(frames)), "one sighting a frame"
    check_ids(updates)


def check_ids(updates: Sequence[TrackUpdate]) -> None:
    """An id is of one track: it ends once, is not used afterwards, and is on a frame once."""
    gone: set[int] = set()
    for update in updates:
        current = update.current.tracks.tolist()
        assert len(set(current)) == len(current)
        over = [later for later, _ in update.joined]
        over += [track.id for track in update.ended] + [*update.dropped]
        assert len(set(over)) == len(over)
        assert not gone & {*over, *current}
        assert not {*over} & {*current}
        assert not gone & {earlier for _, earlier in update.joined}
        gone |= {*over}
    # A track that is not dropped is ended in the end.
    assert {number for update in updates for number in update.current.tracks.tolist()} <= gone


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8), cut=st.integers(1, 60))
def test_ids_are_never_used_again(seed: int, count: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    tracker, updates = MotionTracker(TrackingOptions(lost_seconds=0.5)), []
    for n in range(60):
        # Blobs anywhere: what is likely does not matter.
        walkers = [
            Walker(rng.uniform(-20, 300, 2), (0, 0), rng.integers(4, 60, 2), colour=colour)
            for colour in rng.integers(0, 256, (rng.integers(0, count + 1), 3)).tolist()
        ]
        updates.append(tracker.update(n, n * STEP_US, scene(walkers, n)))
        if n == cut:
            updates.append(tracker.finish())
    updates.append(tracker.finish())
    check_ids(updates)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_missed_and_trembling_detections(share: float) -> None:
    rng = np.random.default_rng(5)
    walkers = [Walker((10, 30 + 45 * n), (4 + n, 0)) for n in range(4)]
    tracker, tracks = MotionTracker(TrackingOptions()), []
    for n in range(40):
        boxes = [
            np.array(walker.box(n)) + rng.normal(0, 1.5, 4)
            for walker in walkers
            if rng.random() >= share
        ]
        tracks += tracker.update(n, n * STEP_US, Detections.of(boxes)).ended
    tracks += tracker.finish().ended
    assert len(tracks) == 4
    for track, walker in zip(
        sorted(tracks, key=lambda t: t.sightings[0].box.y), walkers, strict=True
    ):
        assert len(track.sightings) >= 36
        assert follows(track, walker)
