"""The bundle in `data/format1`, which loads in milliseconds, and pictures of its size or larger."""

from __future__ import annotations

from pathlib import Path

from tests.pictures import PHOTOS, encoded, scaled

BUNDLE = Path(__file__).parent / "data" / "format1"
TAILS = ("resnet18", "resnet34")
CLASSES = ("ant", "bee", "cat")
# None is square, and none of the size that the engines take.
PIXELS = [
    scaled(name, 60 - 2 * place, 41 + 3 * place) for place, name in enumerate([*PHOTOS, *PHOTOS])
][:10]
FILES = [encoded(pixels, "PNG") for pixels in PIXELS]


def write_files(folder: Path) -> list[Path]:
    """The pictures as PNG files in `folder`."""
    paths = [folder / f"{place}.png" for place in range(len(FILES))]
    for path, content in zip(paths, FILES, strict=True):
        path.write_bytes(content)
    return paths
