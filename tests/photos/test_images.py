from __future__ import annotations

import io
import logging
import os
import re
import socket
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from tests.pictures import Pixels, encoded, photo, scaled
from trtkit.errors import ImageError
from trtkit.photos import fast
from trtkit.photos.decode import decode
from trtkit.photos.decoded import DecodedPhoto
from trtkit.photos.images import load_image, read_file, resize_and_crop
from trtkit.preprocessing import Preprocessing

DEFAULT = Preprocessing()
FAST = Preprocessing(resampling="fast")
# Nothing is resized or cropped, so that pixels can be compared one by one.
ASIS = Preprocessing(height=64, width=64, resize=64)


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever the file: nothing is printed and nothing is warned about."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")


def difference(a: Pixels, b: Pixels) -> float:
    """Mean absolute difference in levels of 255."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


def torchvision_like(pixels: Pixels, wanted: Preprocessing) -> Pixels:
    """Resize(resize, antialias) and CenterCrop((height, width)) by Pillow."""
    height, width = pixels.shape[:2]
    shorter = min(height, width)
    height, width = (int(wanted.resize * side / shorter) for side in (height, width))
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - wanted.height) / 2), round((width - wanted.width) / 2)
    return np.asarray(image.crop((left, top, left + wanted.width, top + wanted.height)))


def small() -> Pixels:
    return scaled("chelsea", 64, 64)


class TestFastResampling:
    @pytest.mark.parametrize(
        "size", [(500, 375), (375, 500), (340, 256), (511, 511), (720, 540), (1000, 750)]
    )
    def test_close_to_antialiased_bilinear(self, size: tuple[int, int]) -> None:
        differences = []
        for name in ("astronaut", "coffee", "rocket", "china", "flower", "motorcycle"):
            pixels = scaled(name, *size)
            image = load_image(encoded(pixels, "PPM"), FAST)
            differences.append(difference(image, torchvision_like(pixels, FAST)))
        # Plain bilinear interpolation, without antialiasing, is at 1.4 to 4 levels here.
        assert np.mean(differences) < 1.5
        assert max(differences) < 3

    @pytest.mark.parametrize(
        ("wanted", "size"),
        [
            (FAST, (90, 60)),
            (replace(FAST, height=100, width=260, resize=300), (1000, 700)),
            (replace(FAST, height=96, width=32, resize=97), (1411, 1200)),
            (replace(FAST, height=299, width=299, resize=299), (299, 450)),
            (replace(FAST, height=7, width=5, resize=9), (300, 200)),
        ],
    )
    def test_other_sizes(self, wanted: Preprocessing, size: tuple[int, int]) -> None:
        pixels = scaled("retina", *size)
        image = load_image(encoded(pixels, "PNG"), wanted)
        assert image.shape == (wanted.height, wanted.width, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert difference(image, torchvision_like(pixels, wanted)) < 1.5

    def test_no_resize_keeps_every_pixel(self) -> None:
        pixels = scaled("coffee", 400, 256)
        image = load_image(encoded(pixels, "PNG"), FAST)
        np.testing.assert_array_equal(image, pixels[16:240, 88:312])

    def test_position_is_exact_to_a_fraction_of_a_pixel(self) -> None:
        """A brightness ramp shows where each pixel comes from, at every reduction."""
        for width in (256, 300, 375, 512, 700, 1500, 3000):
            ramp = np.linspace(0, 255, width).round().astype(np.uint8)
            pixels = np.repeat(np.tile(ramp, (width, 1))[:, :, None], 3, axis=2)
            image = load_image(encoded(pixels, "PNG"), FAST)
            source = (np.arange(16, 240) + 0.5) * width / 256 - 0.5
            expected = source * 255 / (width - 1)
            assert np.abs(image[:, :, 0] - expected).max() < 1.1
            turned = load_image(encoded(pixels.transpose(1, 0, 2), "PNG"), FAST)
            np.testing.assert_array_equal(turned, image.transpose(1, 0, 2))

    @pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (1, 4000), (6000, 2)])
    def test_extreme_shapes(self, size: tuple[int, int]) -> None:
        pixels = scaled("flower", *size)
        image = load_image(encoded(pixels, "PNG"), FAST)
        assert image.shape == (224, 224, 3)
        middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
        if size == (1, 1):
            assert (image == middle).all()

    @pytest.mark.parametrize("size", [(500, 375), (601, 1203), (1411, 2000), (2311, 1301)])
    def test_the_pixels_left_out_change_nothing(
        self, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = encoded(scaled("hubble_deep_field", *size), "PPM")
        image = load_image(data, FAST)
        monkeypatch.setattr(fast, "_MARGIN", 10_000)
        whole = load_image(data, FAST)
        # Interpolation rounds its positions a little differently.
        assert np.abs(image.astype(int) - whole).max() <= 2
        assert difference(image, whole) < 0.05

    def test_a_photo_that_fills_the_crop_keeps_its_edges(self) -> None:
        whole = replace(FAST, height=64, width=64, resize=64)
        for side in (127, 128, 129, 131, 255, 257):
            pixels = scaled("coffee", side, side)
            image = load_image(encoded(pixels, "PNG"), whole)
            reference = torchvision_like(pixels, whole)
            assert difference(image[:, -2:], reference[:, -2:]) < 4
            assert difference(image[-2:], reference[-2:]) < 4


class TestJpeg:
    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_same_pixels_as_pillow(self, subsampling: str, progressive: bool) -> None:
        data = encoded(small(), subsampling=subsampling, progressive=progressive)
        reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        assert difference(load_image(data, ASIS), reference) < 0.5

    def test_grey(self) -> None:
        grey = Image.fromarray(small()).convert("L")
        image = load_image(encoded(grey, quality=100), ASIS)
        assert difference(image, np.asarray(grey.convert("RGB"))) < 1

    @pytest.mark.parametrize("name", ["retina", "hubble_deep_field", "astronaut", "china"])
    @pytest.mark.parametrize("side", [512, 640, 1030, 1411, 2200])
    def test_scaled_decoding_deviates_little_from_full_decoding(self, name: str, side: int) -> None:
        data = encoded(scaled(name, side * 5 // 4, side))
        photo = decode(data, shorter=256)
        assert photo.halvings == {512: 1, 640: 1, 1030: 2, 1411: 2, 2200: 3}[side]
        assert min(photo.pixels.shape[:2]) >= 256
        full = decode(data, shorter=side)
        assert full.halvings == 0
        assert (photo.height, photo.width) == (full.height, full.width) == full.pixels.shape[:2]
        image, reference = resize_and_crop(photo, FAST), resize_and_crop(full, FAST)
        assert difference(image, reference) < 1.5
        # Single pixels: at the sharpest edges, such as stars.
        assert np.quantile(np.abs(image.astype(int) - reference), 0.999) <= 24

    def test_cmyk(self) -> None:
        cmyk = Image.fromarray(small()).convert("CMYK")
        image = load_image(encoded(cmyk, quality=100), ASIS)
        assert difference(image, small()) < 3

    def test_an_rgb_jpeg(self) -> None:
        data = encoded(small(), quality=100, keep_rgb=True)
        assert simplejpeg.decode_jpeg_header(data)[2] == "RGB"
        assert difference(load_image(data, ASIS), small()) < 1

    def test_extra_bytes_before_the_end_are_harmless(self) -> None:
        data = encoded(small())
        image = load_image(data[:-2] + bytes(200) + data[-2:], ASIS)
        np.testing.assert_array_equal(image, load_image(data, ASIS))

    def test_bytes_behind_the_end_are_ignored(self) -> None:
        data = encoded(small())
        np.testing.assert_array_equal(load_image(data + b"trail" * 9, ASIS), load_image(data, ASIS))

    def test_an_unknown_jfif_revision_is_harmless(self) -> None:
        data = bytearray(encoded(small()))
        assert data[6:10] == b"JFIF"
        data[11] = 0
        np.testing.assert_array_equal(
            load_image(bytes(data), ASIS), load_image(encoded(small()), ASIS)
        )

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("kept", [-1, -2])
    def test_without_its_end_marker(self, kept: int, progressive: bool) -> None:
        """Small cameras write such files. All pixels are there."""
        data = encoded(scaled("coffee", 500, 375), progressive=progressive)
        image = load_image(data[:kept], DEFAULT)
        np.testing.assert_array_equal(image, load_image(data, DEFAULT))

    def test_without_its_last_scans(self) -> None:
        data = encoded(scaled("coffee", 500, 375), progressive=True)
        scans = [match.start() for match in re.finditer(b"\xff\xda", data)]
        assert len(scans) > 5
        # The tables of a scan stand before it.
        for scan in scans[1:]:
            with pytest.raises(ImageError, match="cut short"):
                load_image(data[: data.rindex(b"\xff\xc4", 0, scan)], DEFAULT)

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("kept", [-4, -30, 0.9, 0.5, 0.3])
    def test_cut_short(self, kept: float, progressive: bool) -> None:
        data = encoded(scaled("coffee", 500, 375), progressive=progressive)
        with pytest.raises(ImageError, match="cut short"):
            load_image(data[: kept if kept < 0 else int(len(data) * kept)], DEFAULT)

    def test_cut_short_but_ended_by_a_marker(self) -> None:
        data = encoded(scaled("coffee", 500, 375))
        with pytest.raises(ImageError, match="cut short"):
            load_image(data[: len(data) // 2] + b"\xff\xd9", DEFAULT)

    def test_cut_short_cmyk(self) -> None:
        data = encoded(Image.fromarray(small()).convert("CMYK"))
        with pytest.raises(ImageError, match="cut short"):
            load_image(data[: len(data) // 2], ASIS)

    def test_pixels_lost_before_a_restart_marker(self) -> None:
        data = bytearray(encoded(scaled("coffee", 500, 375), restart_marker_rows=1))
        middle = data.index(b"\xff\xd3")
        data[middle - 400 : middle - 200] = b"\xff\x00" * 100
        with pytest.raises(ImageError, match=r"^The JPEG data are damaged \(.*\)\.$"):
            load_image(bytes(data), DEFAULT)

    def test_damaged_in_the_middle(self) -> None:
        data = bytearray(encoded(scaled("coffee", 500, 375)))
        data[len(data) // 2 : len(data) // 2 + 200] = bytes([0x55]) * 200
        with pytest.raises(ImageError, match=r"damaged|cut short"):
            load_image(bytes(data), DEFAULT)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("size", [(90, 64), (64, 90), (300, 200)])
    def test_turned_upright(self, orientation: int, kind: str, size: tuple[int, int]) -> None:
        exif = Image.Exif()
        exif[0x0110] = "a camera with a name so long that it lies behind the directory"
        exif[0x0112] = orientation
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(scaled("astronaut", *size), kind, exif=exif, **options)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        image = load_image(data, ASIS)
        reference = resize_and_crop(DecodedPhoto(upright, *upright.shape[:2]), ASIS)
        assert difference(image, reference) < (2 if kind == "JPEG" else 0.01)
        if orientation != 1:
            plain = load_image(encoded(scaled("astronaut", *size), "PNG"), ASIS)
            assert difference(image, plain) > 5

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize(
        ("exif", "turns"),
        [
            ((8, 1, 0x0112, 3, 6), True),
            ((8, 1, 0x0112, 4, 6), True),
            ((8, 1, 0x0112, 3, 0), False),
            ((8, 1, 0x0112, 3, 9), False),
            ((8, 1, 0x0111, 3, 6), False),
            ((8, 65535, 0x0111, 3, 6), False),
            ((8, 0, 0x0112, 3, 6), False),
            ((4_000_000_000, 1, 0x0112, 3, 6), False),
        ],
    )
    def test_odd_exif(self, order: str, exif: tuple[int, ...], turns: bool) -> None:
        at, count, tag, kind, value = exif
        tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", at, count)
        tiff += struct.pack(f"{order}HHI", tag, kind, 1)
        tiff += struct.pack(
            f"{order}I" if kind == 4 else f"{order}HH", *([value] + [0] * (kind == 3))
        )
        plain = load_image(encoded(small()), ASIS)
        image = load_image(encoded(small(), exif=b"Exif\0\0" + tiff), ASIS)
        np.testing.assert_array_equal(image, np.rot90(plain, -1) if turns else plain)

    def test_exif_behind_other_segments(self) -> None:
        data = encoded(
            small(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0"
        )
        other = b"\xff\xff\xe2\x01\x00" + b"\xff\xd8\xff\xe1" + bytes(250) + b"\xff\xfe\0\x04hi"
        plain = load_image(encoded(small()), ASIS)
        image = load_image(data[:2] + other + data[2:], ASIS)
        np.testing.assert_array_equal(image, np.rot90(plain, 2))


class TestFormats:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "tiff_deflate"}),
            ("BMP", {}),
            ("PPM", {}),
            ("JPEG2000", {"irreversible": False}),
        ],
    )
    def test_lossless(self, kind: str, options: dict[str, object]) -> None:
        image = load_image(encoded(small(), kind, **options), ASIS)
        np.testing.assert_array_equal(image, small())

    @pytest.mark.parametrize(
        ("kind", "mode"),
        [
            ("PNG", "L"),
            ("PNG", "1"),
            ("PNG", "P"),
            ("GIF", "P"),
            ("GIF", "L"),
            ("BMP", "1"),
            ("TIFF", "1"),
            ("TIFF", "CMYK"),
            ("TIFF", "P"),
        ],
    )
    def test_other_colours(self, kind: str, mode: str) -> None:
        odd = Image.fromarray(small()).convert(mode)
        image = load_image(encoded(odd, kind), ASIS)
        assert difference(image, np.asarray(odd.convert("RGB"))) < 1.5

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
    def test_transparency_is_laid_on_white(self, mode: str) -> None:
        pixels = np.dstack([small(), np.full((64, 64), 255, np.uint8)])
        pixels[:32, :, 3] = 0
        pixels[32:48, :, 3] = 128
        odd = Image.fromarray(pixels).convert("LA" if mode == "LA" else "RGBA")
        if mode in ("P", "PA"):
            odd = Image.fromarray(pixels).quantize(200)
        image = load_image(encoded(odd, "PNG"), ASIS)
        colour = np.asarray(odd.convert("RGB"))
        assert (image[:32] >= 254).all()
        np.testing.assert_array_equal(image[48:], colour[48:])
        if mode == "RGBA":
            half = (colour[32:48].astype(float) * 128 + 255 * 127) / 255
            assert np.abs(image[32:48] - half).max() <= 1

    def test_a_transparent_colour_is_laid_on_white(self) -> None:
        pixels = small().copy()
        pixels[:8] = (1, 2, 3)
        image = load_image(encoded(pixels, "PNG", transparency=(1, 2, 3)), ASIS)
        assert (image[:8] == 255).all()
        np.testing.assert_array_equal(image[8:], pixels[8:])

    def test_palette_transparency_as_bytes(self) -> None:
        odd = Image.fromarray(small()).quantize(16)
        image = load_image(encoded(odd, "PNG", transparency=bytes(8)), ASIS)
        clear = np.asarray(odd) < 8
        assert (image[clear] == 255).all()
        np.testing.assert_array_equal(image[~clear], np.asarray(odd.convert("RGB"))[~clear])

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled_not_clipped(self, kind: str) -> None:
        ramp = np.linspace(0, 65535, 64).round().astype(np.uint16)
        data = encoded(Image.fromarray(np.tile(ramp, (64, 1))), kind)
        image = load_image(data, ASIS)
        np.testing.assert_array_equal(image[5, :, 1], np.rint(ramp / 257))
        assert image[0, 0, 0] == 0
        assert image[0, -1, 2] == 255

    def test_16_bit_big_endian_tiff(self) -> None:
        tifffile = pytest.importorskip("tifffile")
        ramp = np.tile(np.linspace(0, 65535, 64).round().astype(np.uint16), (64, 1))
        file = io.BytesIO()
        tifffile.imwrite(file, ramp, byteorder=">")
        np.testing.assert_array_equal(
            load_image(file.getvalue(), ASIS)[..., 0], np.rint(ramp / 257)
        )

    def test_16_bit_colour_png(self) -> None:
        rows = (small().astype(">u2") * 257).reshape(64, -1)
        raw = b"".join(b"\0" + row.tobytes() for row in rows)
        np.testing.assert_array_equal(load_image(png(64, 64, 16, 2, raw), ASIS), small())

    def test_16_bit_pgm(self) -> None:
        ramp = np.tile(np.linspace(0, 65535, 64).round().astype(">u2"), (64, 1))
        data = b"P5 64 64 65535\n" + ramp.tobytes()
        np.testing.assert_array_equal(load_image(data, ASIS)[..., 0], np.rint(ramp / 257))

    def test_floats_from_0_to_1(self) -> None:
        values = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
        image = load_image(encoded(Image.fromarray(values), "TIFF"), ASIS)
        np.testing.assert_array_equal(image[..., 0], np.rint(values * 255))

    @pytest.mark.parametrize(("low", "high"), [(0, 2), (-0.1, 1), (np.nan, 1), (0, np.inf)])
    def test_other_floats_have_no_brightness(self, low: float, high: float) -> None:
        values = np.full((64, 64), high, np.float32)
        values[0] = low
        with pytest.raises(ImageError, match="brightness is not defined"):
            load_image(encoded(Image.fromarray(values), "TIFF"), ASIS)

    @pytest.mark.parametrize("extreme", [-1, 65536])
    def test_32_bit_numbers_beyond_16_bits(self, extreme: int) -> None:
        values = np.full((64, 64), 65535, np.int32)
        assert (load_image(encoded(Image.fromarray(values), "TIFF"), ASIS) == 255).all()
        values[3, 3] = extreme
        with pytest.raises(ImageError, match="brightness is not defined"):
            load_image(encoded(Image.fromarray(values), "TIFF"), ASIS)

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_the_first_picture_of_several(self, kind: str) -> None:
        first, second = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(
            first, kind, save_all=True, append_images=[Image.fromarray(second)], **options
        )
        with Image.open(io.BytesIO(data)) as image:
            assert image.n_frames == 2
        assert (load_image(data, ASIS) == 0).all()

    def test_several_pictures_in_a_jpeg(self) -> None:
        data = encoded(
            small(), "MPO", save_all=True, append_images=[Image.fromarray(255 - small())]
        )
        assert difference(load_image(data, ASIS), small()) < 6


def png(width: int, height: int, bits: int, colour: int, raw: bytes) -> bytes:
    """A PNG built by hand; `raw` are its rows, each behind its filter byte."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    data = encoded(small())
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


class TestRefused:
    def test_empty(self) -> None:
        with pytest.raises(ImageError, match=r"^The file is empty\.$"):
            load_image(b"", DEFAULT)

    @pytest.mark.parametrize(
        "data",
        [
            b"\0",
            b"hello, this is no image",
            bytes(5000),
            b"\xff\xd8",
            b"\xff\xd8\xff\xe0" + bytes(40),
            b"\x89PNG\r\n\x1a\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%PDF-1.7\n",
            b"PK\x03\x04",
        ],
    )
    def test_no_image(self, data: bytes) -> None:
        with pytest.raises(ImageError, match=r"not an image.*JPEG, PNG, .*can be read\.$"):
            load_image(data, DEFAULT)

    def test_heic_says_what_to_do(self) -> None:
        with pytest.raises(ImageError, match="convert it to JPEG"):
            load_image(b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(100), DEFAULT)

    def test_colours_without_a_conversion(self) -> None:
        tifffile = pytest.importorskip("tifffile")
        file = io.BytesIO()
        tifffile.imwrite(file, np.zeros((64, 64, 5), np.float64))
        with pytest.raises(ImageError):
            load_image(file.getvalue(), ASIS)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("WEBP", {}),
            ("GIF", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("TIFF", {"compression": "jpeg"}),
            ("BMP", {}),
            ("PPM", {}),
            ("JPEG2000", {}),
        ],
    )
    @pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
    def test_cut_short(self, kind: str, options: dict[str, object], kept: float) -> None:
        data = encoded(photo("chelsea"), kind, **options)
        with pytest.raises(ImageError):
            load_image(data[: int(len(data) * kept)], DEFAULT)

    @pytest.mark.parametrize(
        "data",
        [
            png(60_000, 60_000, 1, 0, bytes(100)),
            png(14_000, 14_000, 1, 0, bytes(100)),
            jpeg_of_claimed_size(60_000, 60_000),
            jpeg_of_claimed_size(14_000, 14_000),
            b"P6 60000 60000 255\n" + bytes(100),
            b"GIF89a\x60\xea\x60\xea" + encoded(Image.new("P", (8, 8)), "GIF")[10:],
        ],
    )
    def test_bombs_by_their_header(self, data: bytes) -> None:
        with pytest.raises(ImageError, match=r"more than the 178956970|too large"):
            load_image(data, DEFAULT)

    def test_what_pillow_or_libtiff_would_print(self) -> None:
        """The fixture above sees to it that nothing is; both files are known to cause output."""
        tiff = bytearray(encoded(small(), "TIFF", compression="tiff_lzw"))
        at = tiff.index(struct.pack("<HHI", 277, 3, 1)) + 8  # samples per pixel
        tiff[at] = 255
        with pytest.raises(ImageError, match="header"):
            load_image(bytes(tiff), ASIS)
        # pytest handles the logs, which hides what Python would print without it.
        handlers = logging.getLogger("PIL").handlers
        assert [type(handler) for handler in handlers].count(logging.NullHandler) == 1
        tiff[at] = 3
        tiff[8:200] = bytes([0xF1]) * 192
        with pytest.raises(ImageError, match="TIFF data"):
            load_image(bytes(tiff), ASIS)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_another_limit(self, kind: str) -> None:
        data = encoded(small(), kind)
        with pytest.raises(ImageError, match="64 x 64 pixels, more than the 4095 that are"):
            load_image(data, ASIS, max_pixels=4095)
        assert load_image(data, ASIS, max_pixels=4096).shape == (64, 64, 3)

    def test_large_but_allowed_photos_are_not_warned_about(self) -> None:
        data = png(9_500, 9_500, 1, 0, b"".join([bytes(1189)] * 9_500))
        assert (load_image(data, ASIS) == 0).all()


class TestDamaged:
    """Random damage yields an image or an ImageError, and nothing else."""

    files = (
        encoded(small()),
        encoded(small(), progressive=True, subsampling="4:4:4"),
        encoded(Image.fromarray(small()).convert("CMYK")),
        encoded(small(), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"),
        encoded(small(), "PNG"),
        encoded(Image.fromarray(small()).quantize(16), "PNG", transparency=bytes(4)),
        encoded(Image.fromarray(small()).convert("I;16"), "PNG"),
        encoded(Image.fromarray(small()).quantize(16), "GIF", transparency=3),
        encoded(small(), "WEBP"),
        encoded(small(), "TIFF"),
        encoded(small(), "TIFF", compression="tiff_lzw"),
        encoded(small(), "TIFF", compression="jpeg"),
        encoded(Image.fromarray(small()).convert("F"), "TIFF"),
        encoded(small(), "BMP"),
        encoded(small(), "PPM"),
        encoded(small(), "JPEG2000"),
    )

    @settings(
        deadline=None,
        max_examples=500,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_mutations(self, data: st.DataObject) -> None:
        content = bytearray(data.draw(st.sampled_from(self.files)))
        # Half of the damage goes to the headers, where it matters most.
        for _ in range(data.draw(st.integers(1, 8))):
            end = len(content) - 1 if data.draw(st.booleans()) else min(200, len(content) - 1)
            content[data.draw(st.integers(0, end))] = data.draw(st.integers(0, 255))
        kept = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
        try:
            image = load_image(bytes(content[:kept]), ASIS, max_pixels=4_000_000)
        except ImageError as error:
            assert "\n" not in str(error)
            assert str(error).endswith(".")
        else:
            assert image.shape == (64, 64, 3)
            assert image.dtype == np.uint8

    @settings(
        deadline=None,
        max_examples=100,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        magic=st.sampled_from(
            [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"GIF89a", b"BM"]
        ),
        rest=st.binary(max_size=300),
    )
    def test_noise(self, magic: bytes, rest: bytes) -> None:
        try:
            load_image(magic + rest, ASIS, max_pixels=4_000_000)
        except ImageError:
            return


def test_threads_agree_and_leave_the_warning_filters_alone() -> None:
    large = encoded(scaled("coffee", 500, 375))
    palette = encoded(photo("chelsea").quantize(16), "PNG", transparency=bytes(4))
    expected = [load_image(data, DEFAULT) for data in (large, palette)]
    filters = list(warnings.filters)
    wrong = []

    def work() -> None:
        for _ in range(15):
            for data, image in zip((large, palette), expected, strict=True):
                if not np.array_equal(load_image(data, DEFAULT), image):
                    wrong.append(data)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert list(warnings.filters) == filters


class TestReadFile:
    def test_the_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"abc" * 100_000)
        assert read_file(tmp_path / "a.jpg") == b"abc" * 100_000
        assert read_file(str(tmp_path / "a.jpg"), max_bytes=300_000) == b"abc" * 100_000
        (tmp_path / "link").symlink_to("a.jpg")
        assert read_file(tmp_path / "link") == b"abc" * 100_000
        (tmp_path / "empty").touch()
        assert read_file(tmp_path / "empty") == b""

    def test_too_many_bytes(self, tmp_path: Path) -> None:
        with (tmp_path / "huge.jpg").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(ImageError, match="1099511627776 bytes, more than the 536870912"):
            read_file(tmp_path / "huge.jpg")

    def test_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="no such file"):
            read_file(tmp_path / "gone.jpg")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ImageError, match="folder"):
            read_file(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_a_pipe_does_not_hang(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(ImageError, match="regular"):
            read_file(tmp_path / "pipe.jpg")
        # Even one that takes the file's place after it was looked at.
        (tmp_path / "a.jpg").touch()
        regular = (tmp_path / "a.jpg").stat()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", lambda self, **_: regular)
            with pytest.raises(ImageError, match="regular"):
                read_file(tmp_path / "pipe.jpg")

    def test_devices(self) -> None:
        devices = [name for name in ("/dev/zero", "/dev/null") if Path(name).is_char_device()]
        if not devices:
            pytest.skip("no device files here")
        for device in devices:
            with pytest.raises(ImageError, match="regular"):
                read_file(device)

    def test_a_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.jpg")
            with pytest.raises(ImageError, match="regular"):
                read_file("s.jpg")

    def test_not_allowed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        (tmp_path / "a.jpg").touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refused)
            with pytest.raises(ImageError, match=r"cannot be read: Permission denied\.$"):
                read_file(tmp_path / "a.jpg")

    @pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root reads everything")
    def test_not_readable(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").touch(mode=0)
        with pytest.raises(ImageError, match="Permission denied"):
            read_file(tmp_path / "a.jpg")

    @pytest.mark.parametrize("name", ["nul\0l.jpg", "x" * 5000, "\ud800.jpg"])
    def test_impossible_names(self, name: str) -> None:
        with pytest.raises(ImageError):
            read_file(name)

    @pytest.mark.parametrize("change", [b"more", b""])
    def test_a_file_that_changes(
        self, change: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(b"abc")
        fstat = os.fstat

        def then_changed(descriptor: int) -> os.stat_result:
            status = fstat(descriptor)
            path.write_bytes(b"abc" + change if change else b"")
            return status

        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", then_changed)
            with pytest.raises(ImageError, match="changed"):
                read_file(path)

    def test_short_reads_are_continued(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.jpg").write_bytes(b"abcdefgh")
        read = os.read
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", lambda descriptor, count: read(descriptor, min(count, 3)))
            assert read_file(tmp_path / "a.jpg") == b"abcdefgh"
