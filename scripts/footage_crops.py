"""Photos of cards as `trtkit ingest` cuts them out of the clips of footage.py, to train with.

A card may be at the border of the picture, partly outside of it, or another one may touch it: what
moves together is cut out as one. The label is the larger one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from scripts.cards import PARTS, SIDES, Random, card_for, draw, part_scans
from scripts.digits import CLASSES
from scripts.photos import PHOTOS, Pixels, crops
from trtkit.atomic import whole_file
from trtkit.video.motion import Box
from trtkit.video.objects import cut_out

MARGIN = (0.1, 0.3)  # of the longer side of what is cut out, around it
# How many are at the border, and how much of one is seen there.
AT_BORDER, SEEN = 0.3, (0.3, 1.0)
# How many have another card in front, over how much of the side, and how large that is beside them.
COVERED, COVER, SMALLER = 0.25, (0.0, 0.35), 0.8
LIGHT, NOISE, QUALITY = (0.7, 1.0), (1.0, 3.0), (70, 95)


def write_crops(
    folder: Path, count: int, classes: Sequence[int] = CLASSES, seed: int = 0, part: str = "train"
) -> list[Path]:
    """Write `count` photos of each class as folder/DIGIT/NUMBER-SCAN.jpg, and return them in order.

    Where `count` is more than the part has digits they come again, on other cards. Raises
    TrtkitError if they cannot be written.
    """
    backgrounds = [np.asarray(image) for _, image in crops(2 * len(PHOTOS), 640, 480, seed)]
    everyone = [scan for label in CLASSES for scan in part_scans(part, label)]
    paths = []
    for label in classes:
        indices = part_scans(part, label)
        for number in range(count):
            random = np.random.default_rng((seed, PARTS.index(part), label, number))
            scan = indices[number % len(indices)]
            paths.append(folder / str(label) / f"{number:04}-{scan:04}.jpg")
            background = backgrounds[random.integers(len(backgrounds))]
            pixels = _crop(scan, everyone, background, random)
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
        axis, hidden = int(random.integers(2)), round((1 - random.uniform(*SEEN)) * card.side)
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
    found = cut_out(pixels, _around(boxes), random.uniform(*MARGIN))
    noise = random.normal(0, random.uniform(*NOISE), found.shape)
    lit = random.uniform(*LIGHT) * found + noise
    return np.asarray(np.clip(np.rint(lit), 0, 255), np.uint8)


def _around(boxes: Sequence[Sequence[int]]) -> Box:
    """The box around those that are not empty."""
    seen = [Box(*box) for box in boxes if box[2] > 0 and box[3] > 0]
    left, top = min(box.x for box in seen), min(box.y for box in seen)
    right = max(box.x + box.width for box in seen)
    bottom = max(box.y + box.height for box in seen)
    return Box(left, top, right - left, bottom - top)
