"""Write real photos as JPEG files, for the demo, the tests and the benchmarks.

    python scripts/photos.py OUT                              the photos themselves
    python scripts/photos.py OUT --count 1000 --size 500x375  that many different crops of them

The photos come with scikit-image and scikit-learn; nothing is downloaded. The same arguments write
the same pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# The photos inside the packages; scikit-image downloads its others.
PHOTOS = (
    "astronaut", "chelsea", "china", "coffee", "flower", "hubble_deep_field",
    "immunohistochemistry", "motorcycle", "retina", "rocket",
)  # fmt: skip
QUALITY = 90

OutArgument = Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write to.")]


@cache
def photo(name: str) -> Image.Image:
    """One of PHOTOS, RGB."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image(f"{name}.jpg"))
    from skimage import data

    pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def crops(count: int, width: int, height: int, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """`count` different crops of the photos, in turn, with the name of the photo each comes from.

    Each shows 40 to 100% of what fits into its photo, every second one of a photo mirrored, scaled
    to width x height pixels.
    """
    random = np.random.default_rng(seed)
    images = [(name, photo(name)) for name in PHOTOS]
    boxes = set()
    while len(boxes) < count:
        name, image = images[len(boxes) % len(images)]
        mirrored = bool(len(boxes) // len(images) % 2)
        scale = random.uniform(0.4, 1) * min(image.width / width, image.height / height)
        left = random.uniform(0, image.width - scale * width)
        top = random.uniform(0, image.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        if (name, box) in boxes:
            continue
        boxes.add((name, box))
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
    if count is None:
        images = ((name, photo(name)) for name in PHOTOS)
    else:
        numbered = enumerate(crops(count, *size, seed=seed))
        width = len(str(count - 1))
        images = ((f"{number:0{width}}-{name}", image) for number, (name, image) in numbered)
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, image in images:
        paths.append(out / f"{name}.jpg")
        image.save(paths[-1], quality=QUALITY)
    return paths


def parse_size(
    text: str, allowed: Container[int] = range(1, 65536), example: str = "500x375"
) -> tuple[int, int]:
    """Width and height of "500x375", both among `allowed`. Raises typer.BadParameter."""
    width, _, height = text.partition("x")
    if not all(side.isdecimal() and int(side) in allowed for side in (width, height)):
        raise typer.BadParameter(f"{text} is not a size such as {example}.", param_hint="--size")
    return int(width), int(height)


def run_script(main: Callable[..., None]) -> None:
    """Run `main` as a program: its parameters are the options. A bad option exits with 2."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(main)
    app()


def main(
    out: OutArgument,
    count: Annotated[int | None, typer.Option(min=1, help="Crops. Default: whole photos.")] = None,
    size: Annotated[str, typer.Option(metavar="WIDTHxHEIGHT", help="Of the crops.")] = "500x375",
    seed: Annotated[int, typer.Option(min=0, help="Of the crops.")] = 0,
) -> None:
    """Write real photos as JPEG files."""
    paths = write_photos(out, count, parse_size(size), seed)
    print(f"{len(paths)} photos in {out}")


if __name__ == "__main__":
    run_script(main)
