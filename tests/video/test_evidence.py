"""The pictures of a track: sharp, whole, large, apart in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
import simplejpeg

from tests.video.pictures import Pixels
from trtkit.tensors import Array
from trtkit.video.detections import Box, Detections
from trtkit.video.evidence import APART_US, Evidence, Likeness, cut_out
from trtkit.video.frames import Frame

WIDTH, HEIGHT = 320, 240


def frame(number: int, box: Box, contrast: float = 100.0) -> Frame:
    """A checkered thing of so much contrast before grey, ten frames a second."""
    pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    rows, columns = np.indices((box.height, box.width))
    checks = 128 + contrast * (((rows // 4 + columns // 4) % 2) - 0.5)
    part = pixels[max(0, box.y) : box.y + box.height, max(0, box.x) : box.x + box.width]
    part[:] = checks.astype(np.uint8)[-part.shape[0] :, -part.shape[1] :, None]
    return Frame(number * 100_000, Pixels(pixels))


def look(
    evidence: Evidence, number: int, box: Box, *, contrast=100.0, merged=False, track=1
) -> None:
    current = Detections.of([box], tracks=[track], merged=[merged], size=(WIDTH, HEIGHT))
    evidence.look(frame(number, box, contrast), number, current)


def frames(evidence: Evidence, track: int = 1) -> list[int]:
    return [picture.sighting.frame for picture in evidence.best(track)]


def test_the_best_come_first_and_are_apart_in_time() -> None:
    evidence = Evidence(3, 320, 0.2)
    for number in range(40):
        # Larger until frame 20, smaller from then on.
        side = 30 + 2 * (20 - abs(number - 20))
        look(evidence, number, Box(100, 60, side, side))
    times = sorted(picture.sighting.time_us for picture in evidence.best(1))
    assert len(times) == 3 and frames(evidence)[0] in range(17, 24)
    assert all(later - earlier >= APART_US for earlier, later in pairwise(times))
    values = [picture.value for picture in evidence.best(1)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({"contrast": 4.0}, {}),
        ({"merged": True}, {}),
        ({"box": Box(0, 60, 60, 60)}, {}),
        ({"box": Box(100, 60, 40, 40)}, {}),
    ],
)
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_what_a_picture_is_worth(worse: dict, better: dict, order: tuple[int, int]) -> None:
    """Blurred, mixed with others, cut off and small ones give way, whichever comes first."""
    evidence = Evidence(1, 320, 0.2)
    for number in (1, 2):
        look(
            evidence,
            number,
            **{"box": Box(100, 60, 60, 60), **(worse if number == order[0] else better)},
        )
    assert frames(evidence) == [order[1]]


def test_a_picture_is_the_thing_with_a_margin_at_a_size_worth_looking_at() -> None:
    evidence = Evidence(1, 48, 0.25)
    look(evidence, 0, Box(100, 60, 80, 60))
    (picture,) = evidence.take(1)
    assert picture.sighting.box == Box(100, 60, 80, 60)
    assert simplejpeg.decode_jpeg(picture.jpeg).shape == (48, 48, 3)
    assert evidence.best(1) == []


def test_joined_tracks_share_their_pictures() -> None:
    evidence = Evidence(2, 320, 0.2)
    look(evidence, 0, Box(100, 60, 60, 60), track=1)
    look(evidence, 10, Box(100, 60, 70, 70), track=2)
    look(evidence, 20, Box(100, 60, 80, 80), track=2)
    evidence.join(2, 1)
    assert frames(evidence, 1) == [20, 10] and frames(evidence, 2) == []


def test_a_restored_one_continues_alike() -> None:
    whole, broken = Evidence(2, 320, 0.2), Evidence(2, 320, 0.2)
    for number in range(30):
        side = 30 + (number * 7) % 40
        look(whole, number, Box(100, 60, side, side))
        look(broken, number, Box(100, 60, side, side))
        if number % 10 == 3:
            state = broken.state()
            broken = Evidence(2, 320, 0.2)
            broken.restore(state)
    assert broken.best(1) == whole.best(1)


def test_likeness_is_the_highest_of_any_two_pictures() -> None:
    evidence = Evidence(2, 320, 0.2)
    look(evidence, 0, Box(100, 60, 60, 60), track=1)
    look(evidence, 10, Box(100, 60, 60, 60), track=1, contrast=20)
    look(evidence, 20, Box(100, 60, 60, 60), track=2, contrast=30)
    vectors = {0: [1.0, 0.0], 10: [0.6, 0.8], 20: [0.0, 1.0]}
    by_jpeg = {
        picture.jpeg: vectors[picture.sighting.frame]
        for track in (1, 2)
        for picture in evidence.best(track)
    }
    likeness = Likeness(evidence, Listed(by_jpeg))
    assert likeness(1, 2) == pytest.approx(0.8)
    assert likeness(1, 3) is None


def test_a_cut_out_is_square_and_inside() -> None:
    pixels = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32).reshape(HEIGHT, WIDTH, 3) % 251
    assert cut_out(pixels, Box(10, 20, 30, 60), 0.0).shape == (60, 60, 3)
    np.testing.assert_array_equal(cut_out(pixels, Box(0, 0, 40, 40), 0.5), pixels[:80, :80])
    assert cut_out(pixels, Box(0, 0, 300, 230), 0.5).shape == (HEIGHT, WIDTH, 3)


def test_each_picture_is_embedded_once() -> None:
    evidence = Evidence(3, 320, 0.2)
    for track, left in ((1, 40), (2, 180)):
        for number in (0, 10):
            look(evidence, number + track, Box(left, 60, 60 - number, 60), track=track)
    embedder = Counting()
    likeness = Likeness(evidence, embedder)
    first = likeness(1, 2)
    assert first == pytest.approx(1.0) and len(embedder.crops) == 4
    assert likeness(1, 2) == first and len(embedder.crops) == 4
    look(evidence, 20, Box(40, 60, 55, 55))
    likeness(1, 2)
    assert len(embedder.crops) == 5, "only the new picture"
    likeness.forget(1)
    likeness(1, 2)
    assert len(embedder.crops) == 8, "the three of the track that was forgotten"


class Listed:
    """An embedder with the vector of each picture."""

    def __init__(self, vectors: Mapping[bytes, Sequence[float]]) -> None:
        self._vectors = vectors

    def embed(self, crops: Sequence[bytes]) -> Array:
        return np.float32([self._vectors[crop] for crop in crops])


class Counting:
    """An embedder to which all pictures are alike, and which keeps what it was asked."""

    def __init__(self) -> None:
        self.crops: list[bytes] = []

    def embed(self, crops: Sequence[bytes]) -> Array:
        self.crops += crops
        return np.full((len(crops), 4), 0.5, np.float32)
