"""How a photo becomes the uint8 image that an engine takes: the one definition of it.

Training, export and serving all read these parameters from the model's metadata. Mean and standard
deviation are not here: normalisation is part of the prefix graph.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from blake3 import blake3

from trtkit.errors import TrtkitError
from trtkit.serialization import to_plain

# Raised whenever decoding or resizing changes the bytes it yields for the same file, so that feature
# maps computed from the old bytes are never found again.
REVISION = 1

# Mean and standard deviation of ImageNet's RGB values in 0 to 1, as torchvision's weights use them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` pixels, then take the central `height` x `width`.

    The result is uint8, height x width x 3, RGB. The defaults are torchvision's for ImageNet
    evaluation (resize 256, crop 224).
    """

    height: int = 224
    width: int = 224
    resize: int = 256

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or self.resize < max(self.height, self.width):
            raise TrtkitError(
                f"An image of {self.height} x {self.width} cannot be cropped from photos whose "
                f"shorter side is resized to {self.resize}; give a resize of at least "
                f"{max(self.height, self.width)}."
            )

    @classmethod
    def for_image_size(cls, size: int) -> Preprocessing:
        """A square crop of `size` pixels with ImageNet's 256 : 224 margin around it."""
        return cls(height=size, width=size, resize=round(size * 256 / 224))

    @property
    def digest(self) -> str:
        """BLAKE3 (hex) of the parameters and the revision of the code that applies them."""
        content = json.dumps({**to_plain(self), "revision": REVISION}, sort_keys=True)
        return blake3(content.encode()).hexdigest()
