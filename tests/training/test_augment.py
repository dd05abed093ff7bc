"""Augmented views: of the asked size, drawn from their seed, and never more than was asked for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import encoded, scaled
from trtkit.errors import ImageError
from trtkit.photos.images import load_image
from trtkit.preprocessing import Preprocessing
from trtkit.training.augment import PRESETS, Augmentation, augmented, preset

SIZE = Preprocessing(48, 48, 64)
WHOLE = Preprocessing(64, 64, 64)
AUGMENTING = [name for name, how in PRESETS.items() if how is not None]


def view(pixels, how, seed=0, image=SIZE, kind="PNG", **options):
    return augmented(encoded(pixels, kind, **options), image, how, np.random.default_rng(seed))


def apart(a, b) -> int:
    """The largest difference in levels."""
    return int(np.abs(a.astype(int) - b).max())


def ramp(side: int = 64):
    """Red grows from left to right and green from top to bottom, so that a view tells its place."""
    levels = np.linspace(0, 255, side)
    across = np.broadcast_to(levels, (side, side))
    pixels = np.dstack([across, across.T, np.full((side, side), 60)])
    return pixels.round().astype(np.uint8)


def shown(pixels) -> tuple[float, float]:
    """Width and height of the part of `ramp` that a view shows, as shares, signed."""
    rows, columns = pixels.shape[:2]
    red, green = pixels[..., 0].mean(0), pixels[..., 1].mean(1)
    # Slopes of the middle, where nothing is clipped or reflected.
    across = np.polyfit(np.arange(columns), red, 1)[0] * columns
    down = np.polyfit(np.arange(rows), green, 1)[0] * rows
    return across / 255 * 63 / 64, down / 255 * 63 / 64


@given(
    name=st.sampled_from(AUGMENTING),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    margin=st.integers(0, 20),
    photo_width=st.integers(5, 120),
    photo_height=st.integers(5, 120),
    seed=st.integers(0, 2**64 - 1),
    flip=st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_view_has_the_input_s_shape_and_depends_on_its_seed_alone(
    name, height, width, margin, photo_width, photo_height, seed, flip
):
    image = Preprocessing(height, width, max(height, width) + margin)
    how = preset(name, flip=flip)
    data = encoded(scaled("chelsea", photo_width, photo_height), "PNG")
    one, again = (augmented(data, image, how, np.random.default_rng(seed)) for _ in range(2))
    assert (one.shape, one.dtype) == ((height, width, 3), np.uint8)
    assert one.tobytes() == again.tobytes()


@pytest.mark.parametrize("name", AUGMENTING)
def test_another_seed_gives_another_view(name):
    pixels = scaled("coffee", 90, 70)
    views = {view(pixels, preset(name), seed).tobytes() for seed in range(30)}
    assert len(views) == 30


@given(
    side=st.integers(4, 80),
    width=st.integers(4, 200),
    height=st.integers(4, 200),
    kind=st.sampled_from(["PNG", "JPEG"]),
    orientation=st.sampled_from([1, 3, 6, 8]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_no_augmentation_is_load_image_bit_for_bit(side, width, height, kind, orientation, seed):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = scaled("rocket", width, height)
    data = encoded(pixels, kind, exif=exif.tobytes())
    image = Preprocessing(side, side, side)
    found = augmented(data, image, Augmentation(), np.random.default_rng(seed))
    np.testing.assert_array_equal(found, load_image(data, image))


@pytest.mark.parametrize("side", [20, 48, 64])
def test_the_whole_square_is_shown_to_a_fraction_of_a_pixel(side):
    pixels = view(ramp(), Augmentation(), image=Preprocessing(side, side, 64)).astype(float)
    source = 31.5 + (np.arange(side) - (side - 1) / 2) * 64 / side
    expected = source * 255 / 63
    assert np.abs(pixels[..., 0].mean(0) - expected).max() < 1.5
    assert np.abs(pixels[..., 1].mean(1) - expected).max() < 1.5


@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 64), (20, 60)])
def test_inputs_that_are_no_squares_show_all_of_their_longer_side(height, width):
    image = Preprocessing(height, width, 64)
    for seed in range(20):
        across, down = shown(view(ramp(), Augmentation(), seed, image))
        # A pixel is as wide as it is high.
        assert across == pytest.approx(width / max(height, width), rel=0.05)
        assert down == pytest.approx(height / max(height, width), rel=0.05)


@pytest.mark.parametrize("name", AUGMENTING)
def test_a_view_shows_as_much_as_its_preset_says(name):
    how = replace(preset(name), degrees=0, colour=0, erase=0)
    parts = np.array([shown(view(ramp(), how, seed)) for seed in range(200)])
    share = np.abs(parts[:, 0] * parts[:, 1])
    ratio = np.abs(parts[:, 0] / parts[:, 1])
    # Slopes of 8-bit levels are off by up to about 2%.
    assert how.area * 0.96 < share.min() < how.area + 0.1
    assert 0.72 < share.max() < 1.02
    assert 1 / how.aspect * 0.96 < ratio.min() <= ratio.max() < how.aspect * 1.04
    if how.aspect > 1:
        assert ratio.min() < 0.87
        assert ratio.max() > 1.15
    assert (parts[:, 1] > 0).all()
    assert 70 < (parts[:, 0] < 0).sum() < 130


def test_views_are_anywhere_in_the_square():
    how = Augmentation(area=0.25)
    middles = np.array([view(ramp(), how, seed)[24, 24, :2] for seed in range(200)])
    assert (middles.min(0) < 85).all()
    assert (middles.max(0) > 170).all()
    assert np.abs(middles.mean(0) - 127.5).max() < 10


@pytest.mark.parametrize("image", [SIZE, WHOLE, Preprocessing(40, 40, 64)])
def test_the_whole_photo_with_flips_is_itself_or_its_mirror(image):
    pixels = scaled("astronaut", 64, 64)
    plain = view(pixels, Augmentation(), image=image)
    seen = set()
    for seed in range(20):
        found = view(pixels, Augmentation(flip=True), seed, image)
        straight, mirrored = apart(found, plain), apart(found, plain[:, ::-1])
        # Interpolation rounds its positions a little differently from the right.
        assert min(straight, mirrored) <= (0 if image == WHOLE else 2)
        assert max(straight, mirrored) > 50
        seen.add(straight < mirrored)
    assert seen == {True, False}


@pytest.mark.parametrize("seed", range(12))
def test_a_flip_mirrors_the_very_crop(seed):
    pixels = scaled("astronaut", 80, 64)
    how = Augmentation(area=0.5, aspect=4 / 3, flip=True)
    found, plain = view(pixels, how, seed), view(pixels, replace(how, flip=False), seed)
    assert min(apart(found, plain), apart(found, plain[:, ::-1])) <= 3


@pytest.mark.parametrize("name", AUGMENTING)
def test_no_flip_never_mirrors(name):
    def mirrored(flip: bool, seed: int) -> bool:
        slope = np.diff(view(ramp(), preset(name, flip=flip), seed)[..., 0].astype(int), axis=1)
        return (slope < 0).sum() > (slope > 0).sum()

    assert not any(mirrored(False, seed) for seed in range(150))
    assert 45 < sum(mirrored(True, seed) for seed in range(150)) < 105


@given(
    level=st.tuples(*[st.integers(0, 255)] * 3),
    how=st.builds(
        Augmentation,
        area=st.floats(0.05, 1),
        aspect=st.floats(1, 3),
        degrees=st.floats(0, 180),
        flip=st.booleans(),
    ),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    photo=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_views_of_an_even_photo_are_even(level, how, size, photo, seed):
    pixels = np.broadcast_to(np.array(level, np.uint8), (*photo, 3))
    image = Preprocessing(*size, max(size))
    found = view(np.ascontiguousarray(pixels), how, seed, image)
    assert (found == np.array(level)).all()


def test_a_view_is_turned_by_up_to_the_degrees_asked_for():
    angles = []
    for seed in range(100):
        found = view(ramp(), Augmentation(area=0.3, degrees=20), seed)[..., 0].astype(float)
        down, across = (np.median(slope) for slope in np.gradient(found))
        angles.append(np.degrees(np.arctan2(down, across)))
    assert -26 < min(angles) < -12
    assert 12 < max(angles) < 26


def test_colour_changes_by_up_to_the_amount():
    grey = np.full((64, 64, 3), 100, np.uint8)
    found = [view(grey, Augmentation(colour=0.2), seed) for seed in range(200)]
    for pixels in found:
        # Grey stays grey and even; saturation does nothing to it.
        assert apart(pixels, np.full_like(pixels, pixels[0, 0, 0])) <= 1
    levels = [int(pixels[0, 0, 0]) for pixels in found]
    # 100 x 0.8 = 80, which is 48 below the middle: x 1.2 that is 70; the other way 128 - 8 x 0.8.
    assert 70 <= min(levels) < 80
    assert 117 < max(levels) <= 122
    red = np.zeros((64, 64, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    spread = [int(np.ptp(view(red, Augmentation(colour=0.2), seed)[0, 0])) for seed in range(200)]
    # Brightness, contrast and saturation all scale it.
    assert 150 * 0.8**3 - 3 <= min(spread) < 95
    assert max(spread) > 220


def test_a_rectangle_is_erased_and_no_more_than_asked_for():
    black = np.zeros((64, 64, 3), np.uint8)
    shares = []
    for seed in range(100):
        found = view(black, Augmentation(erase=0.25), seed)
        erased = (found == 128).all(2)
        assert ((found == 0).all(2) | erased).all()
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        if len(rows):
            assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(erased.mean())
    assert max(shares) <= 0.25
    assert 0.08 < np.mean(shares) < 0.16


def test_presets():
    assert preset("none") is None
    assert preset("none", flip=False) is None
    for name in AUGMENTING:
        assert preset(name) == PRESETS[name]
        assert preset(name, flip=False) == replace(PRESETS[name], flip=False)


def test_a_damaged_photo_is_an_image_error():
    data = encoded(scaled("coffee", 90, 70), "PNG")[:500]
    with pytest.raises(ImageError, match="damaged or cut short"):
        augmented(data, SIZE, Augmentation(), np.random.default_rng(0))
