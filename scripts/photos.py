"""Write real photos as JPEG files, for the demo, the tests and the benchmarks.

    python scripts/photos.py OUT                              the photos themselves
    python scripts/photos.py OUT --count 1000 --size 500x375  that many different crops of them

The photos come with scikit-image and scikit-learn; nothing is downloaded. The same arguments write
the same pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# Those that lie inside the packages; scikit-image downloads its others.
PHOTOS = (
    "astronaut", "chelsea", "china", "coffee", "flower", "hubble_deep_field",
    "immunohistochemistry", "motorcycle", "retina", "rocket",
)  # fmt: skip
QUALITY = 90


def photo(name: str) -> Pixels:
    """One of PHOTOS, uint8, height x width x 3, RGB."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return np.ascontiguousarray(load_sample_image(f"{name}.jpg"))
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return np.ascontiguousarray(pixels[..., :3])


def crops(count: int, width: int, height: int, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """`count` different crops of the photos, in turn, with the name of the photo each comes from.

    Each shows 40 to 100% of what fits into its photo, every second one of a photo mirrored, scaled
    to width x height pixels.
    """
    random = np.random.default_rng(seed)
    images = [(name, Image.fromarray(photo(name))) for name in PHOTOS]
    seen = set()
    while len(seen) < count:
        name, image = images[len(seen) % len(images)]
        mirrored = bool(len(seen) // len(images) % 2)
        scale = random.uniform(0.4, 1) * min(image.width / width, image.height / height)
        left = random.uniform(0, image.width - scale * width)
        top = random.uniform(0, image.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        if (name, box) in seen:
            continue
        seen.add((name, box))
        crop = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
        if mirrored:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield name, crop


def write_photos(
    out: Path, count: int | None = None, size: tuple[int, int] = (500, 375), seed: int = 0
) -> list[Path]:
    """Write `count` crops of `size` (width, height), or the photos as they are without `count`.

    `out` is created if needed. Returns the files in order.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    if count is None:
        for name in PHOTOS:
            paths.append(out / f"{name}.jpg")
            Image.fromarray(photo(name)).save(paths[-1], quality=QUALITY)
        return paths
    for number, (name, image) in enumerate(crops(count, *size, seed=seed)):
        paths.append(out / f"{number:0{len(str(count - 1))}}-{name}.jpg")
        image.save(paths[-1], quality=QUALITY)
    return paths


def picture_size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        size = int(width), int(height)
    except ValueError:
        size = (0, 0)
    if min(size) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 500x375")
    return size


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of photos, 1 or more")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Write real photos as JPEG files.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument(
        "--count", type=_count, help="crops to write; the photos themselves if not given"
    )
    parser.add_argument(
        "--size", type=picture_size, default=(500, 375), help="WIDTHxHEIGHT, 500x375"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the crops, 0")
    arguments = parser.parse_args()
    paths = write_photos(arguments.out, arguments.count, arguments.size, arguments.seed)
    print(f"{len(paths)} photos in {arguments.out}")


if __name__ == "__main__":
    main()
