"""Whatever is a picture gives what its file gives; what is none is refused before anything runs."""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import trtkit
from tests.pictures import PHOTOS, encoded, scaled
from tests.small import BUNDLE, FILES, PIXELS, write_files
from trtkit import CacheOptions, TrtkitError
from trtkit.runtime.pictures import FORMS
from trtkit.runtime.results import Result
from trtkit.runtime.runner import Planner

SAME_SIZE = [scaled(name, 48, 40) for name in [*PHOTOS][:3]]
# EXIF's tag of the orientation, and what turned or mirrored a picture may have there.
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def pipeline():
    with trtkit.load(BUNDLE) as pipeline:
        yield pipeline


@pytest.fixture
def paths(tmp_path):
    return write_files(tmp_path)


@pytest.fixture
def passes(monkeypatch):
    """The rows of the passes that are planned from now on."""
    rows = []
    plan = Planner.plan

    def recording(self, *arguments):
        work = plan(self, *arguments)
        rows.append(work.rows)
        return work

    monkeypatch.setattr(Planner, "plan", recording)
    return rows


def as_torch(pixels, *, first: bool = False):
    tensor = torch.from_numpy(pixels.copy())
    return tensor.movedim(-1, -3) if first else tensor


FORMS_OF_ONE = {
    "path": lambda path, pixels: path,
    "path as text": lambda path, pixels: str(path),
    "bytes": lambda path, pixels: path.read_bytes(),
    "bytearray": lambda path, pixels: bytearray(path.read_bytes()),
    "memoryview": lambda path, pixels: memoryview(path.read_bytes()),
    "BytesIO": lambda path, pixels: io.BytesIO(path.read_bytes()),
    "PIL": lambda path, pixels: Image.open(path),
    "PIL from pixels": lambda path, pixels: Image.fromarray(pixels),
    "PIL RGBA": lambda path, pixels: Image.fromarray(pixels).convert("RGBA"),
    "pixels": lambda path, pixels: pixels,
    "pixels of every second row": lambda path, pixels: np.repeat(pixels, 2, axis=0)[::2],
    "pixels that are not C-ordered": lambda path, pixels: np.asfortranarray(pixels),
    "torch H x W x 3": lambda path, pixels: as_torch(pixels),
    "torch 3 x H x W": lambda path, pixels: as_torch(pixels, first=True),
    "torch that requires nothing": lambda path, pixels: as_torch(pixels, first=True).clone(),
}


def assert_same(results, expected) -> None:
    assert isinstance(results, list)
    assert all(isinstance(result, Result) for result in results)
    assert [result.error for result in results] == [None] * len(expected)
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.scores, wanted.scores, rtol=1e-5)
        assert [best.label for best in result.predictions] == [
            best.label for best in wanted.predictions
        ]


@pytest.mark.parametrize("form", FORMS_OF_ONE.values(), ids=FORMS_OF_ONE)
def test_every_form_gives_what_the_file_gives(pipeline, paths, form):
    expected = list(pipeline.infer(paths, top=2, batch=1))
    for number in (0, 7):
        result = pipeline(form(paths[number], PIXELS[number]), top=2)
        assert isinstance(result, Result), "one picture gives one result"
        # PNG keeps every pixel, so nothing differs.
        np.testing.assert_array_equal(result.scores, expected[number].scores)
        assert result.predictions == expected[number].predictions
    assert_same(pipeline([form(paths[3], PIXELS[3])], top=2), [expected[3]])
    assert not np.array_equal(expected[0].scores, expected[7].scores)


def test_an_open_file(pipeline, paths):
    with paths[4].open("rb") as file:
        result = pipeline(file)
    assert result.path == str(paths[4])
    assert result.predictions == pipeline(paths[4]).predictions
    with tempfile.TemporaryFile() as file:
        file.write(FILES[4])
        file.seek(0)
        nameless = pipeline(file)
    # `name` of a file that was opened by its descriptor is a number.
    assert (nameless.path, nameless.predictions) == ("", result.predictions)


def test_paths_are_those_of_the_results(pipeline, paths):
    assert [result.path for result in pipeline([paths[1], str(paths[2]), FILES[0], PIXELS[0]])] == [
        str(paths[1]),
        str(paths[2]),
        "",
        "",
    ]


SEVERAL = {
    "N x H x W x 3": lambda: np.stack(SAME_SIZE),
    "torch N x H x W x 3": lambda: as_torch(np.stack(SAME_SIZE)),
    "torch N x 3 x H x W": lambda: as_torch(np.stack(SAME_SIZE), first=True),
    "list": lambda: list(SAME_SIZE),
    "tuple": lambda: tuple(SAME_SIZE),
    "list of arrays of one and two": lambda: [SAME_SIZE[0], np.stack(SAME_SIZE[1:])],
}


@pytest.mark.parametrize("form", SEVERAL.values(), ids=SEVERAL)
def test_several_give_a_list(pipeline, form):
    expected = [pipeline(encoded(pixels, "PNG")) for pixels in SAME_SIZE]
    assert_same(pipeline(form()), expected)


def test_a_list_of_a_mix(pipeline, paths):
    forms = list(FORMS_OF_ONE.values())

    def pictures():
        return [form(paths[n % 10], PIXELS[n % 10]) for n, form in enumerate(forms)]

    expected = [pipeline(paths[n % 10]) for n in range(len(forms))]
    assert_same(pipeline(pictures()), expected)
    assert_same(list(pipeline.stream(iter(pictures()))), expected)


def test_an_array_of_one_and_an_empty_list(pipeline, passes):
    (result,) = pipeline(np.stack(SAME_SIZE[:1]))
    assert result.predictions == pipeline(SAME_SIZE[0]).predictions
    passes.clear()
    assert pipeline([]) == []
    assert pipeline(()) == []
    assert list(pipeline.stream([])) == []
    assert passes == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_as_its_file_is(pipeline, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(SAME_SIZE[0], "PNG", exif=exif)
    file = pipeline(content)
    image = Image.open(io.BytesIO(content))
    np.testing.assert_array_equal(pipeline(image).scores, file.scores)
    assert image.size == (48, 40), "the caller's image stays as it is"
    if orientation > 1:
        assert not np.array_equal(pipeline(SAME_SIZE[0]).scores, file.scores)


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_a_pil_image_of_another_mode_is_made_rgb(pipeline, mode):
    image = Image.fromarray(SAME_SIZE[0]).convert(mode)
    rgb = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pipeline(image).scores, pipeline(rgb).scores)


class Reader:
    """An object that can be read, but not now."""

    def __init__(self, error) -> None:
        self.error = error

    def read(self):
        raise self.error


def closed_file():
    file = io.BytesIO(FILES[0])
    file.close()
    return file


NO_PICTURES = {
    "float array": (
        lambda: PIXELS[0].astype(np.float32) / 255,
        "Pixels are uint8 from 0 to 255, not float32; convert them, for example with "
        "(x * 255).round().astype('uint8').",
    ),
    "float tensor": (
        lambda: as_torch(PIXELS[0], first=True).float(),
        "Pixels are uint8 from 0 to 255, not float32; convert them, for example with "
        "(x * 255).round().astype('uint8').",
    ),
    "bool array": (
        lambda: PIXELS[0] > 9,
        "Pixels are uint8 from 0 to 255, not bool; convert them, for example with "
        "(x * 255).round().astype('uint8').",
    ),
    "bfloat16 tensor": (
        lambda: as_torch(PIXELS[0]).bfloat16(),
        "Pixels are uint8 from 0 to 255, not bfloat16; convert them, for example with "
        "(x * 255).round().astype('uint8').",
    ),
    "2-D array": (
        lambda: PIXELS[0][..., 0],
        f"An array of 41 x 60 is no picture; {FORMS}.",
    ),
    "H x W x 4": (
        lambda: np.zeros((5, 6, 4), np.uint8),
        f"An array of 5 x 6 x 4 is no picture; {FORMS}.",
    ),
    "3 x H x W array": (
        lambda: np.zeros((3, 5, 6), np.uint8),
        f"An array of 3 x 5 x 6 is no picture; {FORMS}.",
    ),
    "5-D array": (
        lambda: np.zeros((1, 1, 5, 6, 3), np.uint8),
        f"An array of 1 x 1 x 5 x 6 x 3 is no picture; {FORMS}.",
    ),
    "no rows": (
        lambda: np.zeros((0, 6, 3), np.uint8),
        f"An array of 0 x 6 x 3 is no picture; {FORMS}.",
    ),
    "a scalar": (
        lambda: np.array(3, np.uint8),
        f"An array of no dimensions is no picture; {FORMS}.",
    ),
    "text file": (
        lambda: io.StringIO("text"),
        "A file of text is no picture; open it with mode 'rb'.",
    ),
    "closed file": (
        closed_file,
        "A file cannot be read (I/O operation on closed file); give it open, with mode 'rb'.",
    ),
    "file that is only written": (
        lambda: Reader(io.UnsupportedOperation("not readable")),
        "A file cannot be read (not readable); give it open, with mode 'rb'.",
    ),
    "int": (lambda: 3, f"An object of type int is no picture; {FORMS}."),
    "None": (lambda: None, f"An object of type NoneType is no picture; {FORMS}."),
    "dict": (lambda: {"a": FILES[0]}, f"An object of type dict is no picture; {FORMS}."),
    "generator": (lambda: iter(FILES), f"An object of type list_iterator is no picture; {FORMS}."),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_said_before_anything_runs(pipeline, passes, make, sentence):
    images = pipeline.stats.images
    for pictures in (make, lambda: [FILES[0], make()], lambda: [PIXELS[1], [FILES[0], make()]]):
        with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
            pipeline(pictures())
    with pytest.raises(TrtkitError, match=f"^{re.escape(sentence)}$"):
        next(pipeline.stream([make()]))
    assert passes == []
    assert pipeline.stats.images == images


@pytest.mark.parametrize("top", [0, -1])
def test_top_is_one_at_least(pipeline, passes, top):
    sentence = f"^The number of best classes must be 1 or more, not {top}.$"
    with pytest.raises(TrtkitError, match=sentence):
        pipeline(FILES[0], top=top)
    with pytest.raises(TrtkitError, match=sentence):
        next(pipeline.stream(FILES, top=top))
    assert passes == []


def test_a_broken_picture_gives_a_result_with_its_error(pipeline, paths, tmp_path):
    (tmp_path / "broken.png").write_bytes(FILES[0][:200])
    missing = tmp_path / "missing.png"
    results = pipeline([FILES[0], tmp_path / "broken.png", PIXELS[1], b"", missing, tmp_path])
    assert [result.error is None for result in results] == [True, False, True, False, False, False]
    assert_same([results[0], results[2]], [pipeline(paths[0]), pipeline(paths[1])])
    for result in results:
        if result.error is not None:
            assert result.predictions == ()
            assert result.scores is None
            assert "\n" not in result.error
    one = pipeline(missing)
    assert (one.path, one.predictions) == (str(missing), ())
    with pytest.raises(TrtkitError, match=f"^{re.escape(f'{missing}: {one.error}')}$"):
        _ = one.top1


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_pixels_of_extreme_sizes_are_as_their_file(pipeline, size):
    pixels = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    file, array = pipeline([encoded(pixels, "PNG"), pixels])
    assert file.error == array.error
    if file.error is None:
        np.testing.assert_allclose(array.scores, file.scores, rtol=1e-6)


def test_an_array_may_change_after_the_call(pipeline):
    pixels = PIXELS[0].copy()
    first = pipeline(pixels)
    pixels[:] = 0
    assert pipeline(PIXELS[0]).predictions == first.predictions


def test_calls_use_the_cache(paths, passes):
    with trtkit.load(BUNDLE, cache=CacheOptions(mode="always")) as pipeline:
        assert [result.cached for result in pipeline(paths[:3])] == [False] * 3
        pipeline.cache.store.flush()
        passes.clear()
        results = pipeline([FILES[1], paths[5], io.BytesIO(FILES[2]), PIXELS[0]])
        assert [result.cached for result in results] == [True, False, True, False]
        assert passes[0]["prefix"] == 2
        assert (pipeline.stats.hits, pipeline.stats.misses) == (2, 5)


def test_a_stream_may_be_endless(pipeline):
    def endless():
        while True:
            yield from FILES

    stream = pipeline.stream(endless(), batch=4, workers=2)
    first = [next(stream) for _ in range(25)]
    stream.close()
    expected = pipeline(FILES)
    assert_same(first, [expected[number % 10] for number in range(25)])


def test_calls_from_many_threads_share_batches(pipeline, passes):
    expected = pipeline(FILES)
    passes.clear()

    def work(number):
        return [pipeline(FILES[(number + turn) % 10]) for turn in range(10)]

    with ThreadPoolExecutor(8) as threads:
        for number, results in enumerate(threads.map(work, range(8))):
            assert_same(results, [expected[(number + turn) % 10] for turn in range(10)])
    assert len(passes) < 80
    assert max(rows["prefix"] for rows in passes) <= pipeline.manifest.batch[1]
    assert sum(rows["prefix"] for rows in passes) == 80


def test_several_calls_without_blocking_the_event_loop(pipeline, passes):
    expected = pipeline(FILES)

    async def classify():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        one, *several = await asyncio.gather(
            pipeline.aclassify(FILES, top=2), *map(pipeline.aclassify, FILES)
        )
        with pytest.raises(TrtkitError, match="^An object of type int is no picture; "):
            await pipeline.aclassify(3)
        ticking.cancel()
        return one, several, ticks

    one, several, ticks = asyncio.run(classify())
    assert_same(
        one, [Result("", best.predictions[:2], None, False, "", best.scores) for best in expected]
    )
    assert_same(several, expected)
    assert ticks > 1


def test_a_bare_path_object(pipeline, paths):
    class Place:
        def __fspath__(self):
            return str(paths[0])

    assert pipeline(Place()).path == str(paths[0])
    assert pipeline(Path(paths[0])).predictions == pipeline(Place()).predictions
