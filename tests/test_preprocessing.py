from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtkit.errors import ImageError, TrtkitError
from trtkit.preprocessing import CHOICES, PhotoOptions, Preprocessing, parse_resize
from trtkit.serialization import from_plain, to_plain

sides = st.integers(1, 40)
resizes = st.one_of(st.none(), st.integers(1, 80), st.tuples(sides, sides))
values: dict[str, Any] = {
    "height": sides,
    "width": sides,
    "resize": resizes,
    **{name: st.sampled_from(choices) for name, choices in CHOICES.items()},
}


@st.composite
def preprocessings(draw: st.DrawFn) -> Preprocessing:
    while True:
        try:
            return Preprocessing(**{name: draw(value) for name, value in values.items()})
        except TrtkitError:
            continue


@given(a=preprocessings(), b=preprocessings(), name=st.sampled_from(sorted(values)))
def test_digests_differ_whenever_a_field_differs(
    a: Preprocessing, b: Preprocessing, name: str
) -> None:
    assert (a.digest == b.digest) == (a == b)
    try:
        changed = replace(a, **{name: getattr(b, name)})
    except TrtkitError:
        return
    assert (changed.digest == a.digest) == (changed == a)


@given(image=preprocessings())
def test_a_file_keeps_every_field(image: Preprocessing) -> None:
    assert from_plain(to_plain(image), Preprocessing) == image


def test_choices_are_those_of_the_types() -> None:
    hints = get_type_hints(Preprocessing)
    assert {name: get_args(hints[name]) for name in CHOICES} == CHOICES


def test_what_older_files_mean_stays_as_it_was() -> None:
    """They have three fields; their photos were resized fast, and their digest names stored maps."""
    old = from_plain({"height": 224, "width": 224, "resize": 256}, Preprocessing)
    assert old == Preprocessing(224, 224, 256, "center", "rgb", "fast")
    assert old.digest == "ed746b2edc66041f759e43e19c9bbb8b135695c452b74ad0f617962f4459d537"
    assert Preprocessing().resampling == "bilinear"


@given(image=preprocessings(), height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_image_lies_inside_the_resized_photo(
    image: Preprocessing, height: int, width: int
) -> None:
    try:
        place = image.place(height, width)
    except ImageError:
        assert image.resize is None or image.crop == "none"
        return
    assert 0 <= place.top <= place.height - image.height
    assert 0 <= place.left <= place.width - image.width


def test_a_photo_of_the_wrong_size_is_refused_in_a_sentence() -> None:
    with pytest.raises(ImageError, match=r"has 30 x 40 pixels.* 20 x 20 .*--resize or --crop\.$"):
        Preprocessing(20, 20, None, "none").place(30, 40)
    with pytest.raises(ImageError, match="has 19 x 40 pixels"):
        Preprocessing(20, 20, None).place(19, 40)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (64, 64, 73, "center")),
        ({"resize": "80"}, (64, 64, 80, "center")),
        ({"resize": 64, "crop": "none"}, (64, 64, 64, "none")),
        ({"resize": "64x64"}, (64, 64, (64, 64), "center")),
        ({"resize": (70, 80)}, (64, 64, (70, 80), "center")),
        ({"crop": "none"}, (64, 64, (64, 64), "none")),
        ({"resize": "none"}, (64, 64, None, "center")),
        ({"resize": "none", "crop": "none"}, (64, 64, None, "none")),
    ],
)
def test_options(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    image = PhotoOptions(**options).applied_to(Preprocessing.for_image_size(64), any_size=False)
    assert image == Preprocessing(*expected)


@pytest.mark.parametrize("crop", [None, "none"])
def test_a_squash_sets_the_size_of_a_model_that_takes_any(crop: Any) -> None:
    image = PhotoOptions(resize="32x48", crop=crop).applied_to(Preprocessing(), any_size=True)
    assert (image.height, image.width, image.resize) == (32, 48, (32, 48))
    image = PhotoOptions(resize="232x240", crop="center").applied_to(Preprocessing(), any_size=True)
    assert (image.height, image.width, image.resize) == (224, 224, (232, 240))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "60"}, "at least 64"),
        ({"resize": "60x70"}, "at least 64x64"),
        ({"resize": "80", "crop": "none"}, "--resize 64x64, or --crop center"),
        ({"resize": "64 by 64"}, "HxW"),
        ({"resize": "0"}, "HxW"),
        ({"channels": "cmyk"}, "available: rgb, bgr, gray"),
        ({"resampling": "lanczos"}, "available: bilinear, bicubic, fast"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrtkitError, match=message):
        PhotoOptions(**options).applied_to(Preprocessing.for_image_size(64), any_size=False)


def test_another_size_keeps_the_kind() -> None:
    assert Preprocessing.for_image_size(112) == Preprocessing(112, 112, 128)
    squashed = Preprocessing(64, 64, (64, 64), channels="bgr", resampling="fast")
    assert squashed.sized(32) == replace(squashed, height=32, width=32, resize=(32, 32))
    assert Preprocessing(64, 64, None).sized(32) == Preprocessing(32, 32, None)


def test_parse_resize_takes_what_a_card_holds() -> None:
    assert parse_resize(256) == 256
    assert parse_resize((240, 320)) == (240, 320)
