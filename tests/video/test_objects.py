"""Cutting objects out of frames, and knowing them again on the next."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from tests.video.pictures import Pixels
from trtkit.video.detections import Box, Sighting
from trtkit.video.frames import Frame
from trtkit.video.objects import MovingObject, ObjectFinder, cut_out
from trtkit.video.options import IngestOptions

WIDTH, HEIGHT, SIDE = 120, 80, 32


def numbered(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Every pixel says where it is: red its column, green its row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.full_like(rows, 7)], axis=2).astype(np.uint8)


def scene(*places: Box, value: int = 200) -> np.ndarray:
    """A grey frame with a block of that brightness at each place."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for x, y, width, height in places:
        pixels[y : y + height, x : x + width] = value
    return pixels


def frame(pixels: np.ndarray, time_us: int = 0) -> Frame:
    return Frame(time_us, Pixels(pixels))


def finder(duplicate: float = 6.0, margin: float = 0.2) -> ObjectFinder:
    return ObjectFinder(IngestOptions(duplicate=duplicate, margin=margin), SIDE)


def decoded(found: MovingObject) -> np.ndarray:
    return simplejpeg.decode_jpeg(found.crop, colorspace="RGB")


def corner(view: np.ndarray) -> tuple[int, int]:
    """Column and row of a cut-out's first pixel in `numbered`."""
    return int(view[0, 0, 0]), int(view[0, 0, 1])


@pytest.mark.parametrize(
    ("box", "margin", "left_top", "across_down"),
    [
        (Box(50, 30, 10, 10), 0.0, (50, 30), (10, 10)),
        (Box(50, 30, 10, 10), 0.5, (45, 25), (20, 20)),  # as much on each side
        (Box(50, 30, 20, 10), 0.0, (50, 25), (20, 20)),  # square around the middle
        (Box(50, 30, 10, 20), 0.0, (45, 30), (20, 20)),
        (Box(50, 30, 20, 10), 0.2, (46, 21), (28, 28)),  # a share of the longer side
        (Box(0, 0, 10, 10), 0.5, (0, 0), (20, 20)),  # moved into the frame, not cut off
        (Box(110, 70, 10, 10), 0.5, (100, 60), (20, 20)),
        (Box(115, 30, 5, 20), 0.0, (100, 30), (20, 20)),
        (Box(10, 0, 70, 80), 0.2, (0, 0), (112, 80)),  # no more than the frame has
        (Box(0, 0, 120, 80), 0.2, (0, 0), (120, 80)),
        (Box(60, 40, 1, 1), 0.0, (60, 40), (1, 1)),
    ],
)
def test_cutting_out(
    box: Box, margin: float, left_top: tuple[int, int], across_down: tuple[int, int]
) -> None:
    view = cut_out(numbered(), box, margin)
    assert (view.shape[1], view.shape[0]) == across_down
    assert corner(view) == left_top


@given(st.data(), st.floats(0, 2))
def test_a_cut_out_lies_in_the_frame_and_holds_the_object(
    data: st.DataObject, margin: float
) -> None:
    x, y = data.draw(st.integers(0, 119)), data.draw(st.integers(0, 79))
    box = Box(x, y, data.draw(st.integers(1, 120 - x)), data.draw(st.integers(1, 80 - y)))
    pixels = numbered()
    view = cut_out(pixels, box, margin)
    left, top = corner(view)
    right, bottom = left + view.shape[1], top + view.shape[0]
    assert 0 <= left <= x
    assert 0 <= top <= y
    assert x + box.width <= right <= 120
    assert y + box.height <= bottom <= 80
    side = round(max(box.width, box.height) * (1 + 2 * margin))
    assert view.shape[:2] == (min(side, 80), min(side, 120))
    assert np.shares_memory(view, pixels)


def test_an_object_that_stays_the_same_is_one_with_all_its_sightings() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    new = [
        looking.find(frame(scene(place), 1000 * number), 7 + number, [place]) for number in range(4)
    ]
    assert [len(found) for found in new] == [1, 0, 0, 0]
    assert new[0][0].sightings == [Sighting(7 + n, 1000 * n, place) for n in range(4)]


def test_an_object_that_moves_a_little_is_seen_where_it_is_then() -> None:
    looking = finder()
    places = [Box(40 + number, 30, 20, 20) for number in range(3)]
    (found,) = looking.find(frame(scene(places[0])), 0, places[:1])
    for number, place in enumerate(places[1:], 1):
        assert looking.find(frame(scene(place)), number, [place]) == []
    assert [each.box for each in found.sightings] == places


def test_an_object_may_go_far_in_small_steps() -> None:
    looking = finder()
    places = [Box(30 + 5 * number, 30, 20, 20) for number in range(6)]
    new = [looking.find(frame(scene(place)), n, [place]) for n, place in enumerate(places)]
    assert [len(found) for found in new] == [1, 0, 0, 0, 0, 0]


def test_it_keeps_its_first_picture() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    (found,) = looking.find(frame(scene(place)), 0, [place])
    crop = found.crop
    looking.find(frame(scene(place, value=203)), 1, [place])
    assert len(found.sightings) == 2
    assert found.crop is crop


def test_changed_pixels_make_another_object() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    (first,) = looking.find(frame(scene(place, value=200)), 0, [place])
    (second,) = looking.find(frame(scene(place, value=250)), 1, [place])
    assert (len(first.sightings), len(second.sightings)) == (1, 1)


def test_a_slow_change_is_a_change_in_the_end() -> None:
    looking, place = finder(duplicate=5.0, margin=0), Box(40, 30, 20, 20)
    found = [
        looking.find(frame(scene(place, value=200 - 2 * number)), number, [place])
        for number in range(8)
    ]
    # Steps of 2, and 6 from the first sight is too much.
    assert [len(new) for new in found] == [1, 0, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize(("offset", "same"), [(0, True), (6, True), (7, False), (30, False)])
def test_what_overlaps_too_little_is_another_object(offset: int, same: bool) -> None:
    # Each looks the same in its place. Of 14 x 20 pixels in 26 x 20 more than half, of 13 in 27 less.
    looking, first, second = finder(), Box(40, 30, 20, 20), Box(40 + offset, 30, 20, 20)
    looking.find(frame(scene(first)), 0, [first])
    assert (looking.find(frame(scene(second)), 1, [second]) == []) is same


def test_what_was_gone_for_a_frame_is_another_object() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    looking.find(frame(scene(place)), 0, [place])
    assert looking.find(frame(scene()), 1, []) == []
    assert len(looking.find(frame(scene(place)), 2, [place])) == 1


def test_duplicate_0_keeps_every_sight() -> None:
    looking, place = finder(duplicate=0), Box(40, 30, 20, 20)
    assert [len(looking.find(frame(scene(place)), n, [place])) for n in range(3)] == [1, 1, 1]


def test_two_at_one_place_never_are_the_same_earlier_one() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    pixels = scene(place)
    (only,) = looking.find(frame(pixels), 0, [place])
    beside = Box(41, 30, 20, 20)
    (other,) = looking.find(frame(pixels), 1, [place, beside])
    assert [each.box for each in only.sightings] == [place, place]
    assert [each.box for each in other.sightings] == [beside]


def test_two_that_look_alike_at_one_place_each_stay_themselves() -> None:
    looking, place = finder(), Box(40, 30, 20, 20)
    pixels = scene(place)
    one, other = looking.find(frame(pixels), 0, [place, place])
    for number in (1, 2):
        assert looking.find(frame(pixels), number, [place, place]) == []
    assert len(one.sightings) == len(other.sightings) == 3
    assert one != other


def test_of_two_before_the_one_that_overlaps_more_is_it() -> None:
    looking, near, far = finder(), Box(40, 30, 20, 20), Box(45, 30, 20, 20)
    pixels = scene(Box(40, 30, 25, 20))
    first, second = looking.find(frame(pixels), 0, [far, near])
    assert looking.find(frame(pixels), 1, [Box(41, 30, 20, 20)]) == []
    assert (len(first.sightings), len(second.sightings)) == (1, 2)


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=6))
def test_every_box_is_one_sighting_of_one_object(frames: list[list[int]]) -> None:
    looking, all_found, boxes = finder(), [], []
    for number, columns in enumerate(frames):
        places = [Box(30 * column, 10 + 2 * row, 20, 20) for row, column in enumerate(columns)]
        all_found += looking.find(frame(scene(*places)), number, places)
        boxes += [(number, place) for place in places]
    all_found += looking.rest()
    seen = [(each.frame, each.box) for found in all_found for each in found.sightings]
    assert sorted(seen) == sorted(boxes)
    for found in all_found:
        numbers = [each.frame for each in found.sightings]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# At the border

CARD = np.random.default_rng(4).integers(0, 256, (5, 5, 3)).repeat(6, 0).repeat(6, 1)
CARD_SIDE = len(CARD)


def passing(x: int, y: int, card: np.ndarray = CARD) -> tuple[np.ndarray, Box]:
    """A frame with the card's corner there, maybe outside, and the box of what is seen of it."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    left, top = max(0, x), max(0, y)
    right, bottom = min(WIDTH, x + CARD_SIDE), min(HEIGHT, y + CARD_SIDE)
    pixels[top:bottom, left:right] = card[top - y : bottom - y, left - x : right - x]
    return pixels, Box(left, top, right - left, bottom - top)


def follow(looking: ObjectFinder, corners: list[tuple[int, int]]) -> list[list[MovingObject]]:
    """What is found frame by frame, and in the end the rest."""
    found = []
    for number, corner_ in enumerate(corners):
        pixels, box = passing(*corner_)
        found.append(looking.find(frame(pixels, 1000 * number), number, [box]))
    return [*found, looking.rest()]


WAYS = {
    "from the left": [(x, 25) for x in range(-24, 31, 6)],
    "from the right": [(x, 25) for x in range(114, 60, -6)],
    "from above": [(45, y) for y in range(-24, 25, 6)],
    "from below": [(45, y) for y in range(74, 30, -6)],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_comes_into_the_picture_is_one_object_shown_whole(way: list[tuple[int, int]]) -> None:
    *found, rest = follow(finder(), way)
    (only,) = (each for new in found for each in new)
    assert rest == []
    assert [each.frame for each in only.sightings] == list(range(len(way)))
    # Given as soon as it is whole.
    whole = [n for n, (x, y) in enumerate(way) if 1 < x < 89 and 1 < y < 49]
    assert [len(new) for new in found].index(1) == whole[0]
    pixels, box = passing(*way[whole[0]])
    assert only.crop_box == box
    assert decoded(only).shape[0] == SIDE
    expected = decoded(finder().find(frame(pixels), 0, [box])[0])
    assert np.array_equal(decoded(only), expected)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_leaves_the_picture_stays_the_object_that_it_was(way: list[tuple[int, int]]) -> None:
    back = way[::-1]
    *found, rest = follow(finder(), back)
    (only,) = found[0]
    assert [len(new) for new in found] == [1] + [0] * (len(back) - 1)
    assert rest == []
    assert len(only.sightings) == len(back)
    assert only.crop_box == only.sightings[0].box


def test_what_is_never_whole_is_shown_where_most_is_seen_of_it() -> None:
    looking = finder()
    way = [(40, y) for y in (-24, -18, -12, -16, -20, -25)]
    *found, rest = follow(looking, way)
    assert [*found] == [[]] * len(way)
    (only,) = rest
    assert only.crop_box == passing(40, -12)[1]
    # And it is given when it is gone.
    assert looking.find(frame(scene()), len(way), []) == [only]
    assert looking.rest() == []


def test_at_the_border_another_thing_is_another_object() -> None:
    looking = finder()
    other = np.random.default_rng(9).integers(0, 256, (5, 5, 3)).repeat(6, 0).repeat(6, 1)
    pixels, box = passing(-12, 25)
    assert looking.find(frame(pixels), 0, [box]) == []
    pixels, grown = passing(-6, 25, other)
    (first,) = looking.find(frame(pixels), 1, [grown])
    (second,) = looking.rest()
    assert ([each.box for each in first.sightings], second.crop_box) == ([box], grown)


def test_what_steps_out_of_a_thing_at_the_border_is_another_object() -> None:
    looking = finder()
    pixels, both = passing(-4, 25)
    looking.find(frame(pixels), 0, [both])
    # A part of what was seen, but not at the border: nothing is hidden of it.
    inner = Box(8, 30, 12, 12)
    (stepped,) = looking.find(frame(pixels), 1, [both, inner])
    assert stepped.crop_box == inner
    assert [len(each.sightings) for each in looking.rest()] == [2]
    # Also where nothing else is left of it.
    gone, alone = looking.find(frame(pixels), 2, [Box(9, 32, 6, 6)])
    assert (len(gone.sightings), alone.crop_box) == (2, Box(9, 32, 6, 6))


def test_what_grows_away_from_the_border_is_another_object() -> None:
    looking = finder()
    pixels = passing(40, 25)[0]
    looking.find(frame(pixels), 0, [Box(40, 25, 12, 12)])
    assert len(looking.find(frame(pixels), 1, [Box(40, 25, 30, 30)])) == 1


def test_what_came_in_grows_no_more_once_it_is_inside() -> None:
    looking, way = finder(), WAYS["from the left"]
    *found, _ = follow(looking, way)
    assert sum(map(len, found)) == 1
    pixels, box = passing(*way[-1])
    larger = Box(box.x, box.y - 14, 60, 60)
    (other,) = looking.find(frame(pixels), len(way), [larger])
    assert other.crop_box == larger


def test_duplicate_0_keeps_every_sight_at_the_border_too() -> None:
    *found, rest = follow(finder(duplicate=0), WAYS["from the left"])
    assert sum(map(len, found)) + len(rest) == len(WAYS["from the left"])


@pytest.mark.parametrize(
    ("box", "size"),
    [
        (Box(40, 30, 20, 20), (20, 20)),  # smaller than the classifier looks: as it is
        (Box(40, 30, 32, 32), (32, 32)),
        (Box(20, 10, 50, 40), (32, 32)),
        (Box(0, 0, 120, 80), (48, 32)),  # the shorter side is what the classifier looks at
    ],
)
def test_a_picture_is_no_larger_than_the_classifier_looks(box: Box, size: tuple[int, int]) -> None:
    looking = finder(margin=0)
    (found,) = looking.find(frame(numbered()), 0, [box]) or looking.rest()
    height, width = decoded(found).shape[:2]
    assert (width, height) == size


def test_a_picture_keeps_its_colours_in_their_order() -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = (220, 120, 20)
    (found,) = finder().find(frame(pixels), 0, [Box(40, 30, 20, 20)])
    assert np.abs(decoded(found).astype(int) - (220, 120, 20)).max() <= 4


def test_a_picture_is_of_its_place() -> None:
    (found,) = finder(margin=0).find(frame(numbered()), 0, [Box(60, 30, 16, 16)])
    assert np.abs(decoded(found).astype(int) - numbered()[30:46, 60:76]).max() <= 6
