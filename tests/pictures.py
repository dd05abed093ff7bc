"""Real photos, and ways to turn them into files of every kind, for the tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from scripts.photos import PHOTOS, Pixels, photo, write_photos

__all__ = ["PHOTOS", "Pixels", "encoded", "photo", "scaled", "write_photos"]


def scaled(name: str, width: int, height: int) -> Pixels:
    """The photo `name` at exactly width x height pixels, uint8 height x width x 3 RGB."""
    image = photo(name)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def encoded(image: Pixels | Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """A file's bytes; `kind` and `options` are those of Pillow's `save`."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if kind == "JPEG":
        options = {"quality": 90, **options}
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
