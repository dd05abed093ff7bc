"""Colours of drawn things: differences, unknown colours, and a mean that is handed over without loss."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trtkit.video.detections import Detections
from trtkit.video.tracking.colours import UNSURE, Colours, colours_of, differences

RED, BLUE, BLACK = (180, 40, 40), (40, 60, 170), (20, 20, 20)


def person(jacket: tuple[int, ...], trousers: tuple[int, ...], noise: int = 0) -> Detections:
    """A thing of 20 x 60 pixels on a picture of 80 x 90, in a frame of twice that size."""
    rng = np.random.default_rng(noise)
    mask = np.zeros((90, 80), np.uint8)
    picture = np.full((90, 80, 3), 128, np.int64)
    mask[10:70, 30:50] = 255
    picture[10:40, 30:50], picture[40:70, 30:50] = jacket, trousers
    picture += rng.integers(-noise, noise + 1, picture.shape)
    boxes = [(60, 20, 40, 120)]
    pixels = picture.clip(0, 255).astype(np.uint8)
    return Detections.of(boxes, foreground=mask, size=(160, 180), picture=pixels)


def apart(first: Detections, second: Detections) -> float:
    return float(differences(colours_of(first), colours_of(second))[0, 0])


def test_things_of_other_colours_differ_and_those_of_the_same_do_not() -> None:
    here = person(RED, BLUE)
    assert apart(here, here) < 1e-3
    assert apart(here, person(RED, BLUE, noise=5)) < UNSURE
    assert apart(here, person(BLACK, BLACK)) > 0.99
    # Half of it is the same.
    assert UNSURE < apart(here, person(RED, BLACK)) < 0.8
    assert apart(here, person(BLUE, RED)) > 0.99, "a jacket is no trousers"


def test_nothing_is_known_of_detectors_without_pictures_or_of_specks() -> None:
    boxes = [(60, 20, 40, 120), (61, 21, 4, 4)]
    bare = Detections.of(boxes)
    assert colours_of(bare).shape[0] == 2 and not colours_of(bare).any()
    whole = person(RED, BLUE)
    shares = colours_of(
        Detections.of(boxes, foreground=whole.foreground, size=whole.size, picture=whole.picture)
    )
    assert np.isclose(shares[0].sum(), 1) and not shares[1].any()
    assert differences(shares, shares)[0, 1] == UNSURE
    # Beside the picture there is nothing either.
    assert not colours_of(Detections.of([(-90, 20, 40, 60), (300, 20, 9, 9)], foreground=whole.foreground,
                                        size=whole.size, picture=whole.picture)).any()  # fmt: skip


def test_colours_are_known_after_some_pictures() -> None:
    (shares,) = colours_of(person(RED, BLUE))
    colours = Colours()
    for _ in range(4):
        colours.learn(shares)
        assert not colours.shares.any()
        assert not colours.likelihood(np.arange(3)).any()
    colours.learn(np.zeros_like(shares))
    assert not colours.shares.any()
    colours.learn(shares)
    assert np.allclose(colours.shares, shares)
    both = colours.likelihood(np.arange(128))
    assert both.max() > 3 and both.min() < 0


def test_they_follow_a_thing_that_looks_different_now() -> None:
    (before,), (after,) = colours_of(person(RED, BLUE)), colours_of(person(BLACK, BLUE))
    colours = Colours()
    for shares in [before] * 100 + [after] * 60:
        colours.learn(shares)
    assert differences(colours.shares[None], after[None]) < UNSURE


SHARES = hnp.arrays(np.float32, (3, 256), elements=st.floats(0, 1, width=32)).map(
    lambda counts: counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-6)
)


@given(SHARES, SHARES)
def test_a_difference_is_the_same_both_ways_and_from_0_to_1(
    first: np.ndarray, second: np.ndarray
) -> None:
    there = differences(first, second)
    assert np.allclose(there, differences(second, first).T, atol=1e-3)
    assert there.min() >= 0 and there.max() <= 1


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 40))
def test_a_mean_that_was_handed_over_goes_on_as_if_nothing_happened(
    choices: list[int], stop: int
) -> None:
    pictures = [colours_of(person(*own))[0] for own in ((RED, BLUE), (BLUE, RED), (BLACK, RED))]
    whole, broken = Colours(), Colours()
    for number, choice in enumerate(choices):
        if number == stop:
            broken = Colours(bytes(broken.mean), broken.pictures)
        whole.learn(pictures[choice])
        broken.learn(pictures[choice])
    assert (whole.mean, whole.pictures) == (broken.mean, broken.pictures)
    if len(choices) >= 5:
        assert np.isclose(whole.shares.sum(), 1, atol=1e-4)
