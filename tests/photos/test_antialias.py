"""The default resampling: torchvision's and Pillow's pixels, within one grey level."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.pictures import Pixels, encoded, scaled
from trtkit.photos import antialias
from trtkit.photos.decoded import DecodedPhoto
from trtkit.photos.images import load_image, resize_and_crop
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.pictures import items_of

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def most(a: Pixels, b: Pixels) -> int:
    assert a.shape == b.shape
    return int(np.abs(a.astype(int) - b).max())


def pillow(photo: Image.Image, wanted: Preprocessing) -> Pixels:
    """What a training script does: resize by Pillow, then crop the centre."""
    height, width = photo.height, photo.width
    if isinstance(wanted.resize, tuple):
        height, width = wanted.resize
    elif wanted.resize is not None:
        shorter = min(height, width)
        height, width = (int(wanted.resize * side / shorter) for side in (height, width))
    kernel = BICUBIC if wanted.resampling == "bicubic" else BILINEAR
    resized = photo.resize((width, height), kernel)
    top, left = round((height - wanted.height) / 2), round((width - wanted.width) / 2)
    return np.asarray(resized.crop((left, top, left + wanted.width, top + wanted.height)))


def noise(width: int, height: int, seed: int) -> Pixels:
    """Black and white pixels at random: the hardest edges there are."""
    values = np.random.default_rng(seed).integers(0, 2, (height, width, 3))
    return (values * 255).astype(np.uint8)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Pixels, Preprocessing]:
    long, short = draw(st.integers(1, 900)), draw(st.integers(1, 300))
    width, height = draw(st.permutations((long, short)))
    pixels = (
        noise(width, height, draw(st.integers(0, 9)))
        if draw(st.booleans())
        else scaled(draw(st.sampled_from(["coffee", "hubble_deep_field"])), width, height)
    )
    wanted = (draw(st.integers(1, 260)), draw(st.integers(1, 260)))
    margin = draw(st.integers(0, 40))
    resize = draw(st.sampled_from([max(wanted) + margin, (wanted[0] + margin, wanted[1]), wanted]))
    resampling = draw(st.sampled_from(["bilinear", "bicubic"]))
    return pixels, Preprocessing(*wanted, resize, resampling=resampling)


@settings(deadline=None, max_examples=60)
@given(
    case=cases(), kind=st.sampled_from(["JPEG", "PNG"]), band=st.sampled_from([1, 5000, 1 << 22])
)
def test_any_photo_has_the_pixels_of_pillow(
    case: tuple[Pixels, Preprocessing], kind: str, band: int
) -> None:
    pixels, wanted = case
    data = encoded(pixels, kind)
    reference = pillow(Image.open(io.BytesIO(data)).convert("RGB"), wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(antialias, "_BAND", band)
        image = load_image(data, wanted)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    if wanted.resampling == "bicubic":
        np.testing.assert_array_equal(image, reference)
    # Of noise, where half a level is common, two roundings may go the other way.
    assert most(image, reference) <= (
        1 if pixels.size < 3 << 17 and not is_long(pixels, wanted) else 2
    )


def is_long(pixels: Pixels, wanted: Preprocessing) -> bool:
    """Whether the whole photo resized would be much larger than the image."""
    height, width = pixels.shape[:2]
    place = wanted.place(height, width)
    return max(height, place.height) * max(width, place.width) > 1 << 17


@pytest.mark.parametrize(
    "size",
    [(500, 375), (375, 500), (340, 256), (512, 512), (1500, 1000), (90, 60), (4000, 3), (2, 900)],
)
def test_a_jpeg_has_the_pixels_of_torchvision(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    transforms = pytest.importorskip("torchvision.transforms.v2")
    prepare = transforms.Compose(
        [transforms.Resize(256, antialias=True), transforms.CenterCrop(224)]
    )
    data = encoded(scaled("motorcycle", *size))
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    image = load_image(data, Preprocessing())
    assert most(image, np.asarray(prepare(photo))) <= 1
    tensor = prepare(torch.from_numpy(np.array(photo)).permute(2, 0, 1)).permute(1, 2, 0)
    assert most(image, tensor.numpy()) <= 1


@pytest.mark.parametrize(
    "options", [{"subsampling": "4:4:4"}, {"progressive": True}, {"quality": 30}]
)
def test_a_large_jpeg_is_decoded_in_full(options: dict[str, Any]) -> None:
    data = encoded(scaled("rocket", 1400, 1100), **options)
    reference = pillow(Image.open(io.BytesIO(data)), Preprocessing())
    assert most(load_image(data, Preprocessing()), reference) <= 1


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA"])
def test_other_kinds_of_pixels(mode: str) -> None:
    photo = Image.fromarray(scaled("coffee", 301, 222)).convert(mode)
    data = encoded(photo, "TIFF" if mode == "CMYK" else "PNG")
    assert (
        most(load_image(data, Preprocessing()), pillow(photo.convert("RGB"), Preprocessing())) <= 1
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photo(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scaled("coffee", 301, 222), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert most(load_image(data, Preprocessing()), pillow(upright, Preprocessing())) <= 1


def test_a_squashed_photo_has_exactly_the_pixels_of_its_author() -> None:
    data = encoded(scaled("flower", 640, 427))
    photo = Image.open(io.BytesIO(data))
    for resampling, kernel in (("bilinear", BILINEAR), ("bicubic", BICUBIC)):
        wanted = Preprocessing(240, 200, (240, 200), resampling=resampling)  # type: ignore[arg-type]
        np.testing.assert_array_equal(
            load_image(data, wanted), np.asarray(photo.resize((200, 240), kernel))
        )


def test_pixels_and_pictures_in_memory_are_prepared_as_files_are() -> None:
    photo = Image.fromarray(scaled("coffee", 301, 222))
    wanted = Preprocessing(64, 48, 70, channels="bgr")
    image = load_image(encoded(photo, "PNG"), wanted)
    for picture in (photo, np.asarray(photo)):
        (item,) = items_of(picture)
        assert item.pixels is not None
        prepared = resize_and_crop(DecodedPhoto(item.pixels, 222, 301), wanted)
        np.testing.assert_array_equal(prepared, image)


@pytest.mark.parametrize("resampling", ["bilinear", "fast"])
def test_the_order_of_channels(resampling: Any) -> None:
    data = encoded(scaled("coffee", 301, 222), "PNG")
    rgb, bgr, grey = (
        load_image(data, Preprocessing(48, 64, 70, channels=channels, resampling=resampling))
        for channels in ("rgb", "bgr", "gray")
    )
    np.testing.assert_array_equal(bgr, rgb[:, :, ::-1])
    assert (grey == grey[:, :, :1]).all()
    luma = np.asarray(Image.fromarray(rgb).convert("L"))
    assert most(grey[:, :, 0], luma) <= 1
    assert bgr.flags.c_contiguous
    assert grey.flags.c_contiguous


def test_grey_has_exactly_the_pixels_of_an_author_who_converts_first() -> None:
    photo = Image.fromarray(scaled("coffee", 301, 222))
    image = load_image(encoded(photo, "PNG"), Preprocessing(28, 28, (28, 28), channels="gray"))
    reference = np.asarray(photo.convert("L").resize((28, 28), BILINEAR))
    for channel in range(3):
        np.testing.assert_array_equal(image[:, :, channel], reference)


@pytest.mark.parametrize("resampling", ["bilinear", "fast"])
def test_a_photo_that_is_not_resized(resampling: Any) -> None:
    pixels = scaled("coffee", 100, 80)
    for crop, size in (("none", (80, 100)), ("center", (60, 70))):
        wanted = Preprocessing(*size, None, crop, resampling=resampling)  # type: ignore[arg-type]
        image = load_image(encoded(pixels, "PNG"), wanted)
        top, left = (80 - size[0]) // 2, (100 - size[1]) // 2
        np.testing.assert_array_equal(image, pixels[top : top + size[0], left : left + size[1]])


@pytest.mark.parametrize("size", [(100, 80), (300, 200), (33, 470)])
def test_the_fast_way_squashes_too(size: tuple[int, int]) -> None:
    pixels = scaled("coffee", *size)
    image = load_image(encoded(pixels, "PNG"), Preprocessing(40, 64, (40, 64), resampling="fast"))
    reference = np.asarray(Image.fromarray(pixels).resize((64, 40), BILINEAR))
    assert np.abs(image.astype(int) - reference).mean() < 4
