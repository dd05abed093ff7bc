"""What moves is found where it is, and nothing else is."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.video.pictures import Pixels
from trtkit.video.detections import Box
from trtkit.video.frames import Frame
from trtkit.video.motion import GMG_FRAMES, MotionDetector
from trtkit.video.options import IngestOptions, Method

METHODS: tuple[Method, ...] = ("mog2", "knn", "gmg")
# Four times as wide as the pictures that motion is looked for in.
WIDTH, HEIGHT, LOOKED_AT = 480, 320, 120
LEARNED = GMG_FRAMES + 5
PATCH = 80


@cache
def background() -> np.ndarray:
    rng = np.random.default_rng(5)
    coarse = rng.integers(40, 120, (8, 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@cache
def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-4, 5, (HEIGHT, WIDTH, 1), np.int16)


def frame(number: int, *places: tuple[int, int], size: int = PATCH, light: int = 0) -> Frame:
    """The background with noise, bright patches with their corners there, and so much more light."""
    pixels = background() + noise(number)
    for x, y in places:
        pixels[max(0, y) : y + size, max(0, x) : x + size] = (230, 240, 200)
    return Frame(40_000 * number, Pixels((pixels + light).clip(0, 255).astype(np.uint8)))


def detector(method: Method, **options: int) -> MotionDetector:
    found = MotionDetector(IngestOptions(motion=method, motion_width=LOOKED_AT, **options))
    for number in range(LEARNED):
        found.detect(frame(number))
    return found


def boxes_of(looking: MotionDetector, shown: Frame) -> list[Box]:
    detections = looking.detect(shown)
    return [detections.box(place) for place in range(len(detections))]


def close(box: Box, x: int, y: int, width: int, height: int, within: int) -> bool:
    edges = (box.x, box.y, box.x + box.width, box.y + box.height)
    asked = (x, y, x + width, y + height)
    return all(abs(one - other) <= within for one, other in zip(edges, asked, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_patch_is_found_where_it_is_in_pixels_of_the_frame(method: Method) -> None:
    looking = detector(method)
    # GMG blurs what it marks.
    within = 20 if method == "gmg" else 4
    for step in range(5):
        x, y = 60 + 24 * step, 100 + 8 * step
        boxes = boxes_of(looking, frame(LEARNED + step, (x, y)))
        # A slow model may leave a shade of where it was; there is one thing, though.
        assert len(boxes) == 1
        if step == 0 or method != "gmg":
            assert close(boxes[0], x, y, PATCH, PATCH, within)


def test_two_patches_are_two_from_top_to_bottom() -> None:
    looking = detector("mog2")
    boxes = boxes_of(looking, frame(LEARNED, (40, 200), (320, 40)))
    assert len(boxes) == 2
    assert close(boxes[0], 320, 40, PATCH, PATCH, 4)
    assert close(boxes[1], 40, 200, PATCH, PATCH, 4)


@pytest.mark.parametrize(
    ("place", "box"),
    [
        ((0, 0), (0, 0, 80, 80)),
        ((-40, 100), (0, 100, 40, 80)),
        ((WIDTH - 40, 100), (WIDTH - 40, 100, 40, 80)),
        ((100, HEIGHT - 40), (100, HEIGHT - 40, 80, 40)),
        ((WIDTH - 80, HEIGHT - 80), (WIDTH - 80, HEIGHT - 80, 80, 80)),
    ],
)
def test_what_comes_in_at_the_border_reaches_to_it(
    place: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    (found,) = boxes_of(detector("mog2"), frame(LEARNED, place))
    # Whole pixels of the small picture: exact.
    assert tuple(found) == box


@pytest.mark.parametrize("size", [(97, 61), (250, 131), (119, 120)])
def test_a_box_never_leaves_the_frame(size: tuple[int, int]) -> None:
    width, height = size
    looking = MotionDetector(IngestOptions(motion_width=60, min_size=1))
    base = np.full((height, width, 3), 90, np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(20):
        looking.detect(Frame(0, Pixels(base)))
    for _ in range(30):
        pixels = base.copy()
        x, y = rng.integers(0, width), rng.integers(0, height)
        pixels[y : y + 40, x : x + 40] = 250
        pixels[-12:, -12:] = 250
        for box in boxes_of(looking, Frame(0, Pixels(pixels))):
            assert min(box) >= 0
            assert min(box.width, box.height) >= 1
            assert box.x + box.width <= width
            assert box.y + box.height <= height


@pytest.mark.parametrize("method", METHODS)
def test_noise_alone_is_nothing(method: Method) -> None:
    looking = detector(method)
    assert [boxes_of(looking, frame(LEARNED + number)) for number in range(10)] == [[]] * 10


@pytest.mark.parametrize("method", METHODS)
def test_the_light_going_on_is_nothing(method: Method) -> None:
    looking = detector(method)
    assert boxes_of(looking, frame(LEARNED, light=90)) == []


@pytest.mark.parametrize("method", METHODS)
def test_the_first_frame_is_nothing(method: Method) -> None:
    assert boxes_of(MotionDetector(IngestOptions(motion=method)), frame(0)) == []


def test_small_things_are_dropped_by_their_longer_side() -> None:
    assert boxes_of(detector("mog2", min_size=48), frame(LEARNED, (100, 100), size=40)) == []
    (found,) = boxes_of(detector("mog2", min_size=40), frame(LEARNED, (100, 100), size=40))
    assert close(found, 100, 100, 40, 40, 0)


def test_a_speck_is_nothing() -> None:
    # Two pixels of the small picture.
    assert boxes_of(detector("mog2", min_size=1), frame(LEARNED, (100, 100), size=8)) == []


def test_a_shadow_is_nothing() -> None:
    looking, shadow = detector("mog2"), frame(LEARNED).picture.rgb().copy()
    shadow[100:180, 60:140] = shadow[100:180, 60:140] * 0.7
    assert boxes_of(looking, Frame(0, Pixels(shadow))) == []


def test_a_box_that_begins_and_is_as_wide_as_half_a_pixel_ends_at_the_border() -> None:
    looking = MotionDetector(IngestOptions(motion_width=30, min_size=1))
    base = np.full((45, 45, 3), 90, np.uint8)
    for _ in range(20):
        looking.detect(Frame(0, Pixels(base)))
    pixels = base.copy()
    pixels[15:30, 8:] = 250
    # From 7.5 on, 37.5 wide.
    assert boxes_of(looking, Frame(0, Pixels(pixels))) == [Box(8, 15, 37, 15)]


def test_parts_with_a_pixel_between_them_are_one() -> None:
    looking = detector("mog2")
    (found,) = boxes_of(looking, frame(LEARNED, (100, 100), (188, 100)))
    assert close(found, 100, 100, 168, 80, 4)


def test_a_frame_that_is_smaller_than_asked_for_is_looked_at_as_it_is() -> None:
    sizes = set()

    class Watched(Pixels):
        def shrunk(self, width: int, height: int) -> np.ndarray:
            sizes.add((width, height))
            return super().shrunk(width, height)

    looking = MotionDetector(IngestOptions(motion_width=1000))
    base = np.full((100, 150, 3), 90, np.uint8)
    for _ in range(20):
        looking.detect(Frame(0, Watched(base)))
    pixels = base.copy()
    pixels[20:60, 30:81] = 250
    assert boxes_of(looking, Frame(0, Watched(pixels))) == [Box(30, 20, 51, 40)]
    assert sizes == {(150, 100)}


@pytest.mark.parametrize("method", METHODS)
def test_what_it_finds_depends_on_the_frames_it_saw_alone(method: Method) -> None:
    rng = np.random.default_rng(3)

    # Noise that is as strong as to be taken for motion, so that every difference shows.
    def noisy() -> Frame:
        pixels = rng.normal(100, 14, (96, 128, 3)).clip(0, 255).astype(np.uint8)
        return Frame(0, Pixels(pixels))

    frames = [noisy() for _ in range(GMG_FRAMES + 15)]
    options = IngestOptions(motion=method, min_size=1, motion_width=128)
    one, other = MotionDetector(options), MotionDetector(options)
    said = [one._mask(each)[0] for each in frames]
    cv2.setRNGSeed(99)
    busy = MotionDetector(options)
    for number, each in enumerate(frames):
        busy.detect(each)
        assert np.array_equal(other._mask(each)[0], said[number])
    assert any(mask.any() for mask in said)


BOXES = st.builds(Box, st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))


@given(BOXES, BOXES)
def test_overlap_is_of_the_pixels(one: Box, other: Box) -> None:
    def pixels(box: Box) -> set[tuple[int, int]]:
        return {
            (x, y)
            for x in range(box.x, box.x + box.width)
            for y in range(box.y, box.y + box.height)
        }

    both = len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))
    assert one.overlap(other) == other.overlap(one) == both
