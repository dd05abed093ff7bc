"""Augmentation: another view of a photo each time, drawn from a seed, in one interpolation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trtkit.photos.images import load_image
from trtkit.preprocessing import Preprocessing

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Augmentation:
    """How far a view may differ from the photo.

    A view shows a share of the photo's central part, `area` of it at least, with a ratio of its
    sides up to `aspect` either way, turned by up to `degrees`, mirrored every second time when `flip`;
    brightness, contrast and saturation change by up to `colour` of themselves, and a grey rectangle of
    up to `erase` of the area covers part of it.
    """

    area: float = 1.0
    aspect: float = 1.0
    degrees: float = 0.0
    flip: bool = False
    colour: float = 0.0
    erase: float = 0.0


# `standard` has the crops of Szegedy et al. 2015 (arXiv:1409.4842, section 6) with less zoom, as the
# photos of one's own classes are fewer and better framed than ImageNet's.
PRESETS: dict[str, Augmentation | None] = {
    "none": None,
    "light": Augmentation(area=0.7, flip=True),
    "standard": Augmentation(area=0.35, aspect=4 / 3, flip=True, colour=0.2),
    "strong": Augmentation(area=0.2, aspect=4 / 3, degrees=15, flip=True, colour=0.4, erase=0.25),
}


def preset(name: str, *, flip: bool = True) -> Augmentation | None:
    """The preset of that name, without mirroring where `flip` is off; None for `none`."""
    chosen = PRESETS[name]
    return chosen if chosen is None or flip else replace(chosen, flip=False)


def augmented(
    data: bytes, image: Preprocessing, how: Augmentation, random: np.random.Generator
) -> Pixels:
    """A view of the photo in `data`: uint8, height x width x 3, RGB. Raises ImageError.

    Decoded and resized as `load_image` does; the view is cut out of the central square of
    `image.resize` pixels, of which `load_image` takes the middle, or out of the whole squashed photo.
    One that is not resized or not cropped has no margin: the view is cut out of the image.
    """
    whole = image
    if image.crop != "none" and image.resize is not None:
        size = image.resize if isinstance(image.resize, tuple) else (image.resize, image.resize)
        whole = replace(image, height=size[0], width=size[1])
    canvas = load_image(data, whole)
    view = _view(canvas, image, how, random)
    if how.colour:
        view = _recoloured(view, how.colour, random)
    if how.erase:
        _erase(view, how.erase, random)
    return view


def _view(
    canvas: Pixels, image: Preprocessing, how: Augmentation, random: np.random.Generator
) -> Pixels:
    import cv2

    rows, columns = canvas.shape[:2]
    area = random.uniform(how.area, 1.0)
    stretch = math.exp(random.uniform(-1, 1) * math.log(how.aspect) / 2) if how.aspect > 1 else 1.0
    # The shape of the input, the share drawn, and no more than the canvas has.
    ratio = math.sqrt(image.width / image.height / (columns / rows)) * stretch
    shrink = min(1.0, 1 / ratio / math.sqrt(area), ratio / math.sqrt(area))
    width = columns * math.sqrt(area) * shrink * ratio
    height = rows * math.sqrt(area) * shrink / ratio
    centre_x = columns / 2 + random.uniform(-1, 1) * max(0.0, columns - width) / 2
    centre_y = rows / 2 + random.uniform(-1, 1) * max(0.0, rows - height) / 2
    mirrored = -1.0 if how.flip and random.random() < 0.5 else 1.0
    angle = math.radians(random.uniform(-how.degrees, how.degrees))
    step_x, step_y = mirrored * width / image.width, height / image.height
    # From pixel centres of the view to those of the canvas.
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.diag([step_x, step_y])
    middle = np.array([(image.width - 1) / 2, (image.height - 1) / 2])
    offset = np.array([centre_x - 0.5, centre_y - 0.5]) - linear @ middle
    view = cv2.warpAffine(
        canvas,
        np.column_stack([linear, offset]),
        (image.width, image.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(view, np.uint8)


def _recoloured(view: Pixels, amount: float, random: np.random.Generator) -> Pixels:
    import cv2

    brightness, contrast, saturation = random.uniform(1 - amount, 1 + amount, 3)
    grey = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    mixed = cv2.addWeighted(view, saturation, grey, 1 - saturation, 0)
    levels = (np.arange(256) * brightness - 128) * contrast + 128
    table = np.clip(levels.round(), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(mixed, table), np.uint8)


def _erase(view: Pixels, most: float, random: np.random.Generator) -> None:
    rows, columns = view.shape[:2]
    share = math.sqrt(random.uniform(0, most))
    height, width = int(rows * share), int(columns * share)
    top, left = random.integers(rows - height + 1), random.integers(columns - width + 1)
    view[top : top + height, left : left + width] = 128
