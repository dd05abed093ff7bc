"""The memory of decoding: known from headers, shared by threads, refused where it does not suffice."""

from __future__ import annotations

import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pictures import encoded, scaled
from trtkit.errors import ImageError, TrtkitError
from trtkit.photos import decode, memory, pillow
from trtkit.photos.images import load_image
from trtkit.photos.markers import read_markers
from trtkit.photos.memory import ENVIRONMENT, MemoryBudget, decoding_budget
from trtkit.preprocessing import Preprocessing

SMALL = Preprocessing(32, 32, 36)
FRAMES = [Image.new("RGB", (900, 700), colour) for colour in ("red", "blue")]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    decoding_budget.cache_clear()
    yield
    decoding_budget.cache_clear()


def blank_fax(side: int) -> bytes:
    """A blank TIFF: a row of a fax that repeats the one before takes one bit."""
    return encoded(Image.new("1", (side, side), 1), "TIFF", compression="group4")


def png_header(side: int) -> bytes:
    """The beginning of a PNG with transparency."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(200_000))


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(FRAMES[0]),
    "progressive jpeg": lambda: encoded(FRAMES[0], progressive=True),
    "cmyk jpeg": lambda: encoded(FRAMES[0].convert("CMYK")),
    "png": lambda: encoded(FRAMES[0], "PNG"),
    "png with transparency": lambda: encoded(FRAMES[0].convert("RGBA"), "PNG"),
    "tiff": lambda: encoded(FRAMES[0], "TIFF", compression="tiff_lzw"),
    "webp": lambda: encoded(FRAMES[0], "WEBP"),
    "bmp": lambda: encoded(FRAMES[0], "BMP"),
    "gif": lambda: encoded(FRAMES[0], "GIF"),
    "animated gif": lambda: encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
    "animated webp": lambda: encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
    "pages": lambda: encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]),
}


@pytest.mark.parametrize("resampling", ["bilinear", "fast"])
@pytest.mark.parametrize("kind", FILES)
def test_a_photo_that_takes_too_much_is_not_decoded(
    kind: str, resampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import simplejpeg

    data = FILES[kind]()
    how = Preprocessing(512, 512, 512, resampling=resampling)
    assert load_image(data, how).shape == (512, 512, 3)
    monkeypatch.setenv(ENVIRONMENT, "1M")
    decoding_budget.cache_clear()
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    with pytest.raises(
        ImageError, match=r"takes about .* MiB of memory, more than the 1\.0 MiB .*\.$"
    ):
        load_image(data, how)


def test_a_blank_file_of_gigabytes_is_refused() -> None:
    data = blank_fax(13_000)
    assert len(data) < 12_000
    with pytest.raises(ImageError, match="describes 13000 x 13000 pixels"):
        load_image(data, SMALL)
    # A blank page as scanners write them.
    assert (load_image(blank_fax(4_000), SMALL) == 255).all()


def test_a_large_photo_with_transparency_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    with pytest.raises(ImageError, match=r"about 1\.\d GiB of memory, more than the 1\.0 GiB"):
        load_image(png_header(13_300), SMALL)


def test_tiles_larger_than_the_image_count() -> None:
    # Width, length, bits, LZW, RGB, samples; then width, length, offset and bytes of a tile.
    tags = {
        256: 64,
        257: 64,
        258: 8,
        259: 5,
        262: 2,
        277: 3,
        322: 40_000,
        323: 40_000,
        324: 200,
        325: 50,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(300)
    with pytest.raises(ImageError, match="GiB of memory"):
        load_image(data, SMALL)


def test_memory_is_at_least_what_is_held() -> None:
    for kind in ("png", "tiff", "webp", "gif"):
        with pillow.opened(FILES[kind](), 10**9) as image:
            assert pillow.memory_of(image) >= 900 * 700 * 4


def test_scans_that_are_kept_count() -> None:
    assert read_markers(FILES["jpeg"]()).coefficients == 0
    assert read_markers(FILES["progressive jpeg"]()).coefficients == 900 * 700 * 3 * 2


def test_large_pictures_are_converted_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Image.fromarray(scaled("coffee", 301, 222))
    kinds = [
        photo,
        photo.convert("L"),
        photo.quantize(16),
        photo.convert("I;16"),
        photo.convert("RGBA"),
    ]
    kinds[-1].putalpha(photo.convert("L"))
    for kind in kinds:
        whole = pillow.rgb(kind)
        with monkeypatch.context() as patch:
            patch.setattr(pillow, "_BAND", 5000)
            np.testing.assert_array_equal(pillow.rgb(kind), whole)


@pytest.mark.parametrize(
    ("available", "text", "limit"),
    [
        (10**9, None, 5 * 10**8),
        (10**6, None, 1 << 28),
        (10**12, None, 1 << 30),
        (None, None, 1 << 30),
        (10**9, "3G", 3 << 30),
    ],
)
def test_the_budget(
    available: int | None, text: str | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: available)
    if text is not None:
        monkeypatch.setenv(ENVIRONMENT, text)
    assert decoding_budget().limit == limit


def test_a_variable_that_is_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "plenty")
    with pytest.raises(TrtkitError, match=f"'plenty' is not a size for decoding .{ENVIRONMENT}."):
        load_image(FILES["jpeg"](), SMALL)


def test_threads_share_it_and_large_photos_get_their_turn() -> None:
    budget, lock = MemoryBudget(100), threading.Lock()
    used = most = 0
    done = []

    def work(size: int) -> None:
        nonlocal used, most
        with budget.reserved(size):
            with lock:
                used += size
                most = max(most, used)
            time.sleep(0.001)
            with lock:
                used -= size
                done.append(size)

    sizes = [100, 7, 60, 33, 100, 1, 50, 50] * 4
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 100
    assert sorted(done) == sorted(sizes)
    with (
        pytest.raises(ImageError, match="101 B of memory, more than the 100 B"),
        budget.reserved(101),
    ):
        pass


def test_a_failure_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = MemoryBudget(1 << 26)
    monkeypatch.setattr(decode, "decoding_budget", lambda: budget)
    data = encoded(scaled("coffee", 500, 375), "PNG")
    for _ in range(40):
        with pytest.raises(ImageError, match="damaged or cut short"):
            load_image(data[:2000], SMALL)
    with budget.reserved(1 << 26):
        pass
