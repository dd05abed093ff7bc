"""What is at the border of a frame, and whether one picture is a part of another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.video.detections import Box
from trtkit.video.objects import at_border, grown, part_difference, shrunk

sides = st.integers(1, 60)
boxes = st.builds(Box, st.integers(0, 40), st.integers(0, 40), sides, sides)


@pytest.mark.parametrize(
    ("box", "slack", "there"),
    [
        (Box(10, 10, 20, 20), 2, False),
        (Box(2, 10, 20, 20), 2, True),
        (Box(3, 10, 20, 20), 2, False),
        (Box(10, 0, 20, 20), 0, True),
        (Box(77, 10, 20, 20), 2, False),
        (Box(78, 10, 20, 20), 2, True),
        (Box(10, 28, 20, 20), 2.5, True),
    ],
)
def test_the_border_of_a_frame_of_100_by_50(box: Box, slack: float, there: bool) -> None:
    assert at_border(box, 100, 50, slack) is there


def test_grown_and_shrunk_by_hand() -> None:
    small, large = Box(0, 10, 10, 10), Box(0, 10, 20, 10)
    assert grown(small, large)
    assert shrunk(large, small)
    # Of 100 pixels 70 are enough, and 60 are not.
    assert grown(small, Box(3, 10, 20, 10))
    assert not grown(small, Box(4, 10, 20, 10))
    assert not grown(large, small)
    assert grown(small, small)
    assert not shrunk(small, small)


@given(boxes, boxes)
def test_a_box_never_both_grows_and_shrinks(before: Box, now: Box) -> None:
    assert not (grown(before, now) and shrunk(before, now))
    if shrunk(before, now):
        assert grown(now, before)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    tiles = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return tiles.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)


@pytest.mark.parametrize("size", [(24, 24), (64, 64), (160, 80)])
@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_part_is_found_wherever_it_lies_and_nothing_else(
    size: tuple[int, int], share: float
) -> None:
    whole = texture(*size)
    across = max(4, round(share * size[1]))
    for left in (0, size[1] - across):
        assert part_difference(whole[:, left : left + across], whole) < 12
    assert part_difference(texture(size[0], across, seed=1), whole) > 12


def test_the_difference_is_in_grey_levels() -> None:
    whole = np.full((40, 40, 3), 100, np.uint8)
    assert part_difference(whole[:, :10], whole) == pytest.approx(0, abs=0.1)
    assert part_difference(whole[:, :10] + 30, whole) == pytest.approx(30, abs=0.1)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_any_two_sizes_can_be_compared(a: int, b: int, c: int, d: int) -> None:
    small, large = sorted([np.zeros((a, b, 3), np.uint8), np.zeros((c, d, 3), np.uint8)], key=len)
    assert part_difference(small, large) == 0
