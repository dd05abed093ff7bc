"""How a photo becomes the uint8 image that an engine takes: the one definition of it.

Training, export and serving all read these parameters from the model's metadata. Mean and standard
deviation are not here: normalisation is part of the prefix graph.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Literal

from blake3 import blake3

from trtkit.errors import ImageError, TrtkitError, listed
from trtkit.serialization import to_plain

# Raised whenever decoding or resizing changes the bytes it yields for the same file and parameters, so
# that feature maps computed from the old bytes are never found again.
REVISION = 1

# Mean and standard deviation of ImageNet's RGB values in 0 to 1, as torchvision's weights use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Weights of red, green and blue in grey (ITU-R BT.601), as Pillow and OpenCV have them.
LUMA = (0.299, 0.587, 0.114)

Size = tuple[int, int]
Crop = Literal["center", "none"]
Channels = Literal["rgb", "bgr", "gray"]
Resampling = Literal["bilinear", "bicubic", "fast"]
CHOICES: dict[str, tuple[str, ...]] = {
    "crop": ("center", "none"),
    "channels": ("rgb", "bgr", "gray"),
    "resampling": ("bilinear", "bicubic", "fast"),
}
# What photos were prepared with before cards said it.
_BEFORE = {"crop": "center", "channels": "rgb", "resampling": "fast"}


@dataclass(frozen=True)
class Placement:
    """A photo of any size resized to `height` x `width`; the image begins at `top` and `left` of it."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True, init=False)
class Preprocessing:
    """Resize a photo, take the central `height` x `width` of it, and put its channels in order.

    The result is uint8, height x width x 3. `resize`: the shorter side in pixels, or the height and width
    that the whole photo is squashed to, or None for photos that stay as they are. `crop`: `center`, or
    `none` where a resized photo has the image's size already. `channels`: `rgb`, `bgr`, or `gray` (the
    luma of Pillow's mode L, three times). `resampling`: `bilinear` and `bicubic` are torchvision's
    antialiased filters and Pillow's, `fast` comes close to `bilinear` in half the time.

    The defaults are torchvision's for ImageNet evaluation (resize 256, crop 224).

    >>> Preprocessing(height=240, width=240, resize=(240, 240)).describe()
    'squashed to 240 x 240, RGB, bilinear'
    """

    height: int = 224
    width: int = 224
    resize: int | Size | None = 256
    crop: Crop = "center"
    channels: Channels = "rgb"
    # Of files that do not say. They are read field by field, without __init__ and its defaults.
    resampling: Resampling = "fast"

    def __init__(
        self,
        height: int = 224,
        width: int = 224,
        resize: int | Size | None = 256,
        crop: Crop = "center",
        channels: Channels = "rgb",
        resampling: Resampling = "bilinear",
    ) -> None:
        values = locals()
        for name in self.__dataclass_fields__:
            object.__setattr__(self, name, values[name])
        self.__post_init__()

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            # Reading leaves defaults to the class, where writing would not see them.
            object.__setattr__(self, name, getattr(self, name))
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrtkitError(
                    f"--{name} {getattr(self, name)} is unknown; available: {listed(choices)}."
                )
        if min(self.height, self.width) < 1:
            raise TrtkitError(
                f"An image of {self.height} x {self.width} cannot be cropped from any photo; give 1 pixel "
                "or more."
            )
        if self.resize is None:
            return
        if isinstance(self.resize, tuple):
            fits = self.resize[0] >= self.height and self.resize[1] >= self.width
            exact = self.resize == (self.height, self.width)
            least = f"{self.height}x{self.width}"
            photos = f"are squashed to {self.resize[0]} x {self.resize[1]}"
        else:
            fits = self.resize >= max(self.height, self.width)
            exact = self.resize == min(self.height, self.width)
            least = str(max(self.height, self.width))
            photos = f"have their shorter side resized to {self.resize}"
        if self.crop == "none" and not exact:
            raise TrtkitError(
                f"Photos that {photos} do not become {self.height} x {self.width} without a crop; give "
                f"--resize {self.height}x{self.width}, or --crop center."
            )
        if self.crop == "center" and not fits:
            raise TrtkitError(
                f"An image of {self.height} x {self.width} cannot be cropped from photos that {photos}; "
                f"give a resize of at least {least}, or another --image-size."
            )

    @classmethod
    def for_image_size(cls, size: int) -> Preprocessing:
        """A square crop of `size` pixels with ImageNet's 256 : 224 margin around it."""
        return cls().sized(size)

    def sized(self, size: int) -> Preprocessing:
        """The same kind for a square image of `size` pixels.

        A crop has ImageNet's 256 : 224 margin around it; what is squashed keeps its own margin.
        """
        resize: int | Size | None = self.resize
        if isinstance(resize, tuple):
            resize = (round(resize[0] * size / self.height), round(resize[1] * size / self.width))
        elif resize is not None:
            resize = size if self.crop == "none" else round(size * 256 / 224)
        return replace(self, height=size, width=size, resize=resize)

    @property
    def side(self) -> int:
        """Pixels of a photo's shorter side that are enough: a larger photo is resized to them anyway."""
        if isinstance(self.resize, int):
            return self.resize
        return max(self.resize or (self.height, self.width))

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of the parameters and the revision of the code that applies them."""
        content = {**to_plain(self), "revision": REVISION}
        for name, value in _BEFORE.items():
            # As before there was a choice, so that maps and footage of that time are found.
            if content[name] == value:
                del content[name]
        return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def place(self, height: int, width: int) -> Placement:
        """Where the image lies in a photo of `height` x `width`, by torchvision's rounding.

        Raises ImageError for a photo that does not have the size that it must have.
        """
        resized = self._resized(height, width)
        if (self.crop == "none" and resized != (self.height, self.width)) or (
            resized[0] < self.height or resized[1] < self.width
        ):
            raise ImageError(
                f"The photo has {height} x {width} pixels, from which the model does not get its "
                f"{self.height} x {self.width} (photos are {self.describe()}); resize the photo, or export "
                "the model with another --resize or --crop."
            )
        top, left = (
            round((have - want) / 2)
            for have, want in zip(resized, (self.height, self.width), strict=True)
        )
        return Placement(*resized, top, left)

    def _resized(self, height: int, width: int) -> Size:
        if self.resize is None:
            return height, width
        if isinstance(self.resize, tuple):
            return self.resize
        shorter = min(height, width)
        return self.resize * height // shorter, self.resize * width // shorter

    def describe(self) -> str:
        """In a few words, as messages say it: `shorter side to 256, center 224 x 224, RGB, bilinear`."""
        size = f"{self.height} x {self.width}"
        if self.resize is None:
            parts = ["not resized"]
        elif isinstance(self.resize, tuple):
            parts = [f"squashed to {self.resize[0]} x {self.resize[1]}"]
        else:
            parts = [f"shorter side to {self.resize}"]
        if self.crop == "none":
            parts += ["not cropped"] if not isinstance(self.resize, tuple) else []
        elif self.resize != (self.height, self.width):
            parts.append(f"center {size}")
        parts.append(self.channels if self.channels == "gray" else self.channels.upper())
        parts.append("fast resampling" if self.resampling == "fast" else self.resampling)
        return ", ".join(parts)


def parse_resize(text: str | int | Size) -> int | Size | None:
    """The resize that `text` stands for: `256`, `240x320` (height x width) or `none`. Raises TrtkitError.

    >>> parse_resize("256"), parse_resize("240x320"), parse_resize("none")
    (256, (240, 320), None)
    """
    if isinstance(text, tuple):
        text = "x".join(map(str, text))
    match = re.fullmatch(r"([1-9]\d{0,4})(?:\s*x\s*([1-9]\d{0,4}))?", str(text).strip().lower())
    if str(text).strip().lower() == "none":
        return None
    if match is None:
        raise TrtkitError(
            f"--resize {text} is no size; give N for the shorter side, HxW for a photo that is squashed, "
            "or none."
        )
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


@dataclass(frozen=True)
class PhotoOptions:
    """What an author's preprocessing is, where it is not the default: see `Preprocessing`.

    `resize` is `N`, `HxW` or `none`; each is None where it is not given.
    """

    resize: str | int | Size | None = None
    crop: Crop | None = None
    channels: Channels | None = None
    resampling: Resampling | None = None

    def __post_init__(self) -> None:
        # Before weights are looked for, which may take a download.
        if self.resize is not None:
            parse_resize(self.resize)

    def applied_to(self, image: Preprocessing, *, any_size: bool) -> Preprocessing:
        """`image` with these options. `any_size`: the model takes any, and nobody has chosen one.

        Then a photo that is squashed and not cropped sets the size. A crop of `none` alone squashes the
        photo to the image. Raises TrtkitError for options that do not go together.
        """
        resize, crop = image.resize, self.crop or image.crop
        height, width = image.height, image.width
        if self.resize is not None:
            resize = parse_resize(self.resize)
            crop = self.crop or "center"
            if isinstance(resize, tuple) and any_size and self.crop != "center":
                height, width = resize
        elif self.crop == "none":
            resize = (height, width)
        return Preprocessing(
            height,
            width,
            resize,
            crop,
            self.channels or image.channels,
            self.resampling or image.resampling,
        )
