"""Cards with a handwritten digit on each: for the clips of footage.py, and photos of them to train with.

The photos are cut out as `trtkit ingest` cuts them out of the clips. A card may be at the border of the
picture, partly outside of it, or another one may touch it: what moves together is cut out as one, with
the label of the larger card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from scripts.digits import CLASSES, INK, draw_ink, scans
from scripts.photos import PHOTOS, Pixels, crops
from trtkit.atomic import whole_file
from trtkit.video.detections import Box
from trtkit.video.evidence import cut_out

# Of each five digits of a class, the first three are for training.
PARTS, TRAIN, OF = ("train", "test"), 3, 5
SIDES = (40, 110)  # of a card, pixels; at most half of the picture's shorter side
PAPER = (150, 250)  # grey levels

# Of the photos: the margin around what is cut out, as a share of its longer side.
MARGIN = (0.1, 0.3)
# The share of cards at the border, and how much of each such card is visible.
AT_BORDER, VISIBLE = 0.3, (0.3, 1.0)
# The share of cards with another one in front, the share of the side that it covers, and its size.
COVERED, COVER, SMALLER = 0.25, (0.0, 0.35), 0.8
LIGHT, NOISE, QUALITY = (0.7, 1.0), (1.0, 3.0), (70, 95)

Random = np.random.Generator


@dataclass(frozen=True)
class DigitCard:
    """Digit `scan` in ink on plain paper, `side` pixels; `look` is the seed of its ink."""

    scan: int
    side: int
    paper: tuple[int, ...]
    look: int

    def pixels(self) -> Pixels:
        """The card without light and noise, RGB."""
        random = np.random.default_rng(self.look)
        pixels = np.full((self.side, self.side, 3), self.paper, np.float64)
        alpha = draw_ink(scans()[0][self.scan], self.side, random)[..., None]
        pixels += alpha * (random.uniform(0, INK, 3) - pixels)
        # An edge that is visible in front of anything of the paper's colour.
        cv2.rectangle(pixels, (0, 0), (self.side - 1,) * 2, [part / 2 for part in self.paper])
        return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def part_scans(part: str, label: int) -> list[int]:
    """The indices, among scikit-learn's 1,797 digits, of `label` in `part`, "train" or "test"."""
    indices = np.flatnonzero(scans()[1] == label).tolist()
    return [i for place, i in enumerate(indices) if (place % OF < TRAIN) == (part == "train")]


def card_for(scan: int, behind: Pixels, random: Random, largest: int = SIDES[1]) -> DigitCard:
    """A random card; of eight colours its paper has the one that differs most from `behind`."""
    largest = min(largest, min(behind.shape[:2]) // 2)
    side = int(random.integers(min(SIDES[0], largest), largest + 1))
    papers = random.integers(*PAPER, (8, 3))
    others = behind[::8, ::8].reshape(-1, 3).astype(int)
    paper = max(papers.tolist(), key=lambda colour: int(np.square(others - colour).sum(1).min()))
    return DigitCard(scan, side, tuple(paper), int(random.integers(2**32)))


def draw(pixels: Pixels, card: Pixels, corner: Sequence[int]) -> list[int]:
    """Draw a card's part inside the picture, and return the part's box, which may be empty."""
    x, y = corner
    left, top = max(x, 0), max(y, 0)
    place = pixels[top : max(y + len(card), 0), left : max(x + len(card), 0)]
    height, width = place.shape[:2]
    place[:] = card[top - y : top - y + height, left - x : left - x + width]
    return [left, top, width, height]


def write_crops(
    folder: Path, count: int, classes: Sequence[int] = CLASSES, seed: int = 0, part: str = "train"
) -> list[Path]:
    """Write `count` photos of each class as folder/DIGIT/NUMBER-SCAN.jpg, and return them in order.

    When `count` exceeds the number of digits, they are repeated on other cards. Raises TrtkitError if
    a file cannot be written.
    """
    backgrounds = [np.asarray(image) for _, image in crops(2 * len(PHOTOS), 640, 480, seed)]
    others = [scan for label in CLASSES for scan in part_scans(part, label)]
    paths = []
    for label in classes:
        indices = part_scans(part, label)
        for number in range(count):
            random = np.random.default_rng((seed, PARTS.index(part), label, number))
            scan = indices[number % len(indices)]
            paths.append(folder / str(label) / f"{number:04}-{scan:04}.jpg")
            background = backgrounds[random.integers(len(backgrounds))]
            pixels = _crop(scan, others, background, random)
            quality = int(random.integers(*QUALITY))
            with whole_file(paths[-1]) as file:
                Image.fromarray(pixels).save(file, quality=quality)
    return paths


def _crop(scan: int, others: list[int], background: Pixels, random: Random) -> Pixels:
    card, pixels = card_for(scan, background, random), background.copy()
    height, width = pixels.shape[:2]
    ends = (width - card.side, height - card.side)
    corner = [int(random.integers(end + 1)) for end in ends]
    kind = random.random()
    if kind < AT_BORDER:
        axis, hidden = int(random.integers(2)), round((1 - random.uniform(*VISIBLE)) * card.side)
        corner[axis] = -hidden if random.integers(2) else ends[axis] + hidden
    boxes = [draw(pixels, card.pixels(), corner)]
    if kind > 1 - COVERED:
        largest = max(SIDES[0], round(SMALLER * card.side))
        front = card_for(int(random.choice(others)), background, random, largest)
        over = round(random.uniform(*COVER) * card.side)
        along = over - front.side if random.integers(2) else card.side - over
        across = int(random.integers(over - front.side, card.side - over))
        dx, dy = (along, across) if random.integers(2) else (across, along)
        boxes.append(draw(pixels, front.pixels(), (corner[0] + dx, corner[1] + dy)))
    crop = cut_out(pixels, _around(boxes), random.uniform(*MARGIN))
    noise = random.normal(0, random.uniform(*NOISE), crop.shape)
    lit = random.uniform(*LIGHT) * crop + noise
    return np.asarray(np.clip(np.rint(lit), 0, 255), np.uint8)


def _around(boxes: Sequence[Sequence[int]]) -> Box:
    """The box around those that are not empty."""
    x, y, width, height = np.array([box for box in boxes if box[2] > 0 and box[3] > 0]).T
    left, top = int(x.min()), int(y.min())
    return Box(left, top, int((x + width).max()) - left, int((y + height).max()) - top)
