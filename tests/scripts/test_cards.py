"""scripts/cards.py: that crops are what ingest would cut out, of the digits to train with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("skimage", reason="scikit-image is not installed")

from scripts import cards
from scripts.cards import SIDES, part_scans, write_crops
from trtkit.video.detections import Box
from trtkit.video.evidence import cut_out

RANDOM = np.random.default_rng
WIDTH, HEIGHT = 640, 480


def test_crops(tmp_path: Path) -> None:
    paths = write_crops(tmp_path / "once", 12, classes=[0, 4])
    assert [path.parent.name for path in paths] == ["0"] * 12 + ["4"] * 12
    indices = [int(path.stem.split("-")[1]) for path in paths]
    assert indices == part_scans("train", 0)[:12] + part_scans("train", 4)[:12]
    sides = []
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert min(image.size) >= 12 and max(image.size) <= 350
            sides.append(image.size)
    assert len(set(sides)) > 12
    again = write_crops(tmp_path / "again", 12, classes=[4, 0])
    assert {p.name: p.read_bytes() for p in paths} == {p.name: p.read_bytes() for p in again}
    test = write_crops(tmp_path / "test", 2, classes=[0], part="test")
    assert [int(p.stem.split("-")[1]) for p in test] == part_scans("test", 0)[:2]
    other = write_crops(tmp_path / "other", 12, classes=[0], seed=1)
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(paths, other, strict=False))


class RecordedCrop:
    """The cards that a crop is made of, each with its side and corner, and the box that is cut out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cards: list[tuple[int, int, int]] = []
        self.box, self.margin = Box(0, 0, 0, 0), 0.0
        draw = cards.draw

        def drawn(pixels: np.ndarray, card: np.ndarray, corner: tuple[int, int]) -> list[int]:
            self.cards.append((len(card), *corner))
            return draw(pixels, card, corner)

        def cut(pixels: np.ndarray, box: Box, margin: float) -> np.ndarray:
            self.box, self.margin = box, margin
            return cut_out(pixels, box, margin)

        monkeypatch.setattr(cards, "draw", drawn)
        monkeypatch.setattr(cards, "cut_out", cut)

    def make(self, seed: int) -> np.ndarray:
        self.cards.clear()
        background = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
        return cards._crop(0, [1, 2], background, RANDOM(seed))


def test_what_is_cut_out_is_around_all_that_is_seen_of_the_cards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crop = RecordedCrop(monkeypatch)
    for seed in range(120):
        pixels = crop.make(seed)
        inside = np.zeros((HEIGHT, WIDTH), bool)
        for side, x, y in crop.cards:
            inside[max(y, 0) : max(y + side, 0), max(x, 0) : max(x + side, 0)] = True
        down, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert crop.box == (
            across[0], down[0], across[-1] - across[0] + 1, down[-1] - down[0] + 1,
        )  # fmt: skip
        assert 0.1 <= crop.margin <= 0.3
        assert max(pixels.shape[:2]) == round(max(crop.box[2:]) * (1 + 2 * crop.margin))


def test_some_are_at_the_border_and_some_have_a_smaller_card_in_front(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crop = RecordedCrop(monkeypatch)
    outside = touched = 0
    for seed in range(200):
        crop.make(seed)
        side, left, top = crop.cards[0]
        visible = [
            min(start + side, length) - max(start, 0)
            for start, length in ((left, WIDTH), (top, HEIGHT))
        ]
        assert max(visible) == side, "it is in a corner"
        assert min(visible) >= 0.29 * side
        outside += min(visible) < side
        if len(crop.cards) == 1:
            continue
        touched += 1
        assert min(visible) == side
        other, x, y = crop.cards[1]
        assert other <= max(SIDES[0], 0.81 * side)
        over = [min(a + other, b + side) - max(a, b) for a, b in ((x, left), (y, top))]
        assert min(over) >= 0, "it does not touch"
        assert min(over) <= 0.36 * side
    assert 30 < outside < 90
    assert 30 < touched < 70


def test_more_crops_than_digits_are_drawn_anew(tmp_path: Path) -> None:
    have = len(part_scans("test", 8))
    paths = write_crops(tmp_path, have + 2, classes=[8], part="test")
    assert len(set(paths)) == have + 2
    assert paths[0].stem[5:] == paths[have].stem[5:]
    assert paths[0].read_bytes() != paths[have].read_bytes()
