"""Write photos of handwritten digits, in class folders, to train and to test on.

    python scripts/digits.py OUT                      all 1,797 as OUT/0/0000.jpg ..., 96 x 96
    python scripts/digits.py OUT --size 64 --classes 0-4 --count 50
    python scripts/digits.py OUT --split              OUT/train and OUT/val, 4 : 1 in each class

The digits are the 8 x 8 scans that come with scikit-learn, each drawn in ink of a random colour on
a pale piece of a real photo. Nothing is downloaded. The same arguments write the same pictures, and
a digit looks the same whichever others are written with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

# Run as a file, Python looks in scripts/ only.
sys.path.append(str(Path(__file__).resolve().parents[1]))
from scripts.photos import PHOTOS, QUALITY, OutArgument, Pixels, photo, run_script

CLASSES = range(10)
SMALLEST = 64
# Every fifth photo of a class is for validation.
SPLIT = 5

# The share of the picture's side that the 8 x 8 scan covers.
SCAN = 0.74
SCALE = (0.85, 1.1)
SHIFT = 0.05
DEGREES = 10
# Grey values: ink is always darker than paper.
PAPER = (180, 225)
PAPER_RANGE = 30
PAPER_CONTRAST = 0.3
INK = 90
NOISE = 4


@cache
def scans() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The 1,797 scans, N x 8 x 8 with ink from 0 to 1, and the digit on each."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target


def digit(index: int, size: int = 96, seed: int = 0) -> Pixels:
    """The picture of scan `index`: uint8, size x size x 3, RGB.

    Everything but the shape of the ink depends on `seed` and `index` alone, not on the digit.
    """
    random = np.random.default_rng((seed, index))
    pixels = _paper(size, random)
    alpha = draw_ink(scans()[0][index], size, random)[..., None]
    pixels += alpha * (random.uniform(0, INK, 3) - pixels)
    pixels += random.normal(0, NOISE, pixels.shape)
    return np.asarray(np.clip(np.rint(pixels), 0, 255), np.uint8)


def write_digits(
    out: Path,
    size: int = 96,
    classes: Iterable[int] = CLASSES,
    count: int | None = None,
    seed: int = 0,
    split: bool = False,
) -> list[Path]:
    """Write the first `count` digits of each of `classes` as out/DIGIT/INDEX.jpg.

    With `split` four of five go to out/train/DIGIT and the fifth to out/val/DIGIT. Folders are
    created if needed. Returns the files in order of their class and index.
    """
    labels = scans()[1]
    paths = []
    for label in classes:
        for number, index in enumerate(np.flatnonzero(labels == label)[:count].tolist()):
            folder = out
            if split:
                folder /= "val" if number % SPLIT == SPLIT - 1 else "train"
            paths.append(folder / str(label) / f"{index:04}.jpg")
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digit(index, size, seed)).save(paths[-1], quality=QUALITY)
    return paths


def _paper(size: int, random: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random piece of a random photo, made pale: size x size x 3."""
    image = photo(PHOTOS[random.integers(len(PHOTOS))])
    side = random.uniform(0.15, 0.5) * min(image.size)
    left = random.uniform(0, image.width - side)
    top = random.uniform(0, image.height - side)
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box), np.float64)
    mean = pixels.mean((0, 1))
    tint = PAPER_CONTRAST * (mean - mean.mean())
    relief = np.clip(PAPER_CONTRAST * (pixels - mean), -PAPER_RANGE, PAPER_RANGE)
    return np.asarray(random.uniform(*PAPER) + np.clip(tint, -PAPER_RANGE, PAPER_RANGE) + relief)


def draw_ink(
    scan: npt.NDArray[np.float64], size: int, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """The amount of ink, 0 to 1, size x size: the scan enlarged, shifted and turned."""
    zoom = SCAN * random.uniform(*SCALE) * size / len(scan)
    # OpenCV does not interpolate well over the edge.
    scan = np.pad(scan, 2)
    angle = math.radians(random.uniform(-DEGREES, DEGREES))
    x, y = size * (0.5 + random.uniform(-SHIFT, SHIFT, 2))
    turn = zoom * np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    # OpenCV's pixel centres lie at whole numbers: the centre of the padded scan is at 5.5.
    origin = np.array([x - 0.5, y - 0.5]) - turn @ np.full(2, (len(scan) - 1) / 2)
    ink = cv2.warpAffine(
        scan, np.column_stack([turn, origin]), (size, size), flags=cv2.INTER_CUBIC, borderValue=0
    )
    # The edge of a pen's stroke; the scan is blurred.
    ink = np.clip((ink - 0.2) / 0.6, 0, 1)
    return np.asarray(ink * ink * (3 - 2 * ink))


def parse_classes(text: str) -> list[int]:
    """The digits of "0-4" or "0,3,7", sorted. Raises typer.BadParameter."""
    classes: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < len(CLASSES)):
            raise typer.BadParameter(
                f"{text} is not a list of digits such as 0-4 or 0,3,7.", param_hint="--classes"
            )
        classes.update(range(int(first), int(last) + 1))
    return sorted(classes)


ClassesOption = Annotated[str, typer.Option(help="Such as 0-4 or 0,3,7.")]


def main(
    out: OutArgument,
    size: Annotated[int, typer.Option(min=SMALLEST, help="Pixels along each side.")] = 96,
    classes: ClassesOption = "0-9",
    count: Annotated[int | None, typer.Option(min=1, help="Of each class. Default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything but the shapes.")] = 0,
    split: Annotated[bool, typer.Option(help="Write OUT/train and OUT/val, 4 : 1.")] = False,
) -> None:
    """Write photos of handwritten digits."""
    paths = write_digits(out, size, parse_classes(classes), count, seed, split)
    print(f"{len(paths)} photos in {out}")


if __name__ == "__main__":
    run_script(main)
