"""A picture of a frame that is pixels in memory."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Pixels:
    """uint8 height x width x 3, RGB."""

    pixels: np.ndarray

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    def rgb(self) -> np.ndarray:
        return self.pixels

    def shrunk(self, width: int, height: int) -> np.ndarray:
        return cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_AREA)
