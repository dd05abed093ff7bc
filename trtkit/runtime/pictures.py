"""Whatever is a picture as items to classify: paths, bytes, files, PIL images, arrays, tensors."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.errors import TrtkitError, first_line
from trtkit.photos.images import read_file
from trtkit.runtime.classifier import Item
from trtkit.tensors import Array

FORMS = (
    "give a path, the bytes of a file, an open file, a PIL image, or uint8 pixels of H x W x 3 or "
    "N x H x W x 3 (RGB)"
)


def is_several(value: Any) -> bool:
    """Whether it is a list of pictures or an array of several."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 3) == 4


def items_of(value: Any) -> list[Item]:
    """One item, or one for each picture of a list or array. Raises TrtkitError for what is no picture.

    Files are read, and pixels resized, when the items are prepared.
    """
    if isinstance(value, list | tuple):
        return [item for one in value for item in items_of(one)]
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        return [Item(str(path), partial(read_file, path))]
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return [Item("", lambda: data)]
    if callable(getattr(value, "read", None)):
        return [_file_item(value)]
    if hasattr(value, "getexif") and hasattr(value, "convert"):
        return [Item("", pixels=_pil_pixels(value))]
    return [Item("", pixels=pixels) for pixels in _images(value)]


def _file_item(file: Any) -> Item:
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise TrtkitError(
            f"A file cannot be read ({first_line(error)}); give it open, with mode 'rb'."
        ) from error
    if not isinstance(data, bytes):
        raise TrtkitError("A file of text is no picture; open it with mode 'rb'.")
    name = getattr(file, "name", "")
    return Item(name if isinstance(name, str) else "", lambda: data)


def _pil_pixels(image: Any) -> Array:
    """The pixels of a PIL image, turned and converted as its file would be."""
    from PIL import ImageOps

    from trtkit.photos.pillow import rgb

    # Pillow 11.0 declares that it may give None.
    upright: Any = ImageOps.exif_transpose(image)
    return rgb(upright)


def _images(value: Any) -> list[Array]:
    """The H x W x 3 pixels in an array or tensor."""
    array = _array(value)
    if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
        shape = " x ".join(map(str, array.shape)) or "no dimensions"
        raise TrtkitError(f"An array of {shape} is no picture; {FORMS}.")
    return [array] if array.ndim == 3 else list(array)


def _array(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        _check_dtype(value.dtype)
        return value
    # A torch tensor, which may lie on a GPU; torchvision's are 3 x H x W.
    if callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None)):
        # Before the copy: NumPy lacks some of torch's.
        _check_dtype(value.dtype)
        array = np.asarray(value.detach().cpu().numpy())
        if array.ndim in (3, 4) and array.shape[-1] != 3 and array.shape[-3] == 3:
            array = np.moveaxis(array, -3, -1)
        return array
    raise TrtkitError(f"An object of type {type(value).__name__} is no picture; {FORMS}.")


def _check_dtype(dtype: Any) -> None:
    name = str(dtype).removeprefix("torch.")
    if name != "uint8":
        raise TrtkitError(
            f"Pixels are uint8 from 0 to 255, not {name}; convert them, for example with "
            "(x * 255).round().astype('uint8')."
        )
