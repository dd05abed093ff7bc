"""Cards with a handwritten digit on each, which move in the clips of footage.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from scripts.digits import INK, ink_of, scans
from scripts.photos import Pixels

# Of each five digits of a class, the first three are to train with.
PARTS, TRAIN, OF = ("train", "test"), 3, 5
SIDES = (40, 110)  # of a card, pixels; at most half of the picture's shorter side
PAPER = (150, 250)  # grey levels

Random = np.random.Generator


@dataclass(frozen=True)
class Card:
    """Digit `scan` in ink on plain paper, `side` pixels; `look` is the seed of its ink."""

    scan: int
    side: int
    paper: tuple[int, ...]
    look: int

    def pixels(self) -> Pixels:
        """The card without light and noise, RGB."""
        random = np.random.default_rng(self.look)
        pixels = np.full((self.side, self.side, 3), self.paper, np.float64)
        alpha = ink_of(scans()[0][self.scan], self.side, random)[..., None]
        pixels += alpha * (random.uniform(0, INK, 3) - pixels)
        # Paper may have the colour of what it passes; its edge is always seen.
        cv2.rectangle(pixels, (0, 0), (self.side - 1,) * 2, [part / 2 for part in self.paper])
        return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def part_scans(part: str, label: int) -> list[int]:
    """The indices, among scikit-learn's 1,797 digits, of `label` in `part`, "train" or "test"."""
    indices = np.flatnonzero(scans()[1] == label).tolist()
    return [i for place, i in enumerate(indices) if (place % OF < TRAIN) == (part == "train")]


def card_for(scan: int, behind: Pixels, random: Random, largest: int = SIDES[1]) -> Card:
    """A random card, its paper that of eight colours which differs most from all that is `behind`."""
    largest = min(largest, min(behind.shape[:2]) // 2)
    side = int(random.integers(min(SIDES[0], largest), largest + 1))
    papers = random.integers(*PAPER, (8, 3))
    others = behind[::8, ::8].reshape(-1, 3).astype(int)
    paper = max(papers.tolist(), key=lambda colour: int(np.square(others - colour).sum(1).min()))
    return Card(scan, side, tuple(paper), int(random.integers(2**32)))


def draw(pixels: Pixels, card: Pixels, corner: Sequence[int]) -> list[int]:
    """Draw what of a card is in the picture, and return that box; it is empty if nothing is."""
    x, y = corner
    left, top = max(x, 0), max(y, 0)
    place = pixels[top : max(y + len(card), 0), left : max(x + len(card), 0)]
    height, width = place.shape[:2]
    place[:] = card[top - y : top - y + height, left - x : left - x + width]
    return [left, top, width, height]
