"""Which colours a thing has: a small histogram of its foreground, which tells tracks that met apart.

Hue, saturation and value, of the upper and of the lower half: a jacket and trousers. Sources: Swain and
Ballard, Color indexing, 1991; for the distance Comaniciu et al., Real-time tracking of non-rigid objects
using mean shift, 2000.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtkit.tensors import Array
from trtkit.video.detections import Detections

# Bins of hue, saturation and value, powers of 2: all numbers of both halves fit into a byte.
_BINS = (8, 4, 4)
_COUNT = 8 * 4 * 4
_BANDS = 2
# A track's colours are known from so many pictures on. Later, the mean is about that of so many last ones.
_KNOWN = 5
_MEMORY = 30
# With fewer pixels of foreground, colours are chance.
_LEAST_PIXELS = 20
# A colour that a track never showed is taken for half as frequent as a colour by chance.
_CHANCE = 0.5
# The difference that says nothing. Of people 30 pixels wide, half the pictures of one person differ from
# its mean by less than 0.33 and 95% by less than 0.45; half those of other people by more than 0.68.
UNSURE = 0.5


def colours_of(detections: Detections) -> Array:
    """The share of each colour in the foreground of each of N boxes, float32 N x D; zeros where unknown."""
    shares = np.zeros((len(detections), _BANDS * _COUNT), np.float32)
    foreground, picture = detections.foreground, detections.picture
    if foreground is None or picture is None:
        return shares
    for place, box in enumerate(detections.boxes):
        window = detections.window(box)
        own = foreground[window] > 0
        if np.count_nonzero(own) < _LEAST_PIXELS:
            continue
        bands = np.arange(len(own)) * _BANDS // len(own)
        places = (
            colour_numbers(picture[window]) + np.uint8(_COUNT) * bands.astype(np.uint8)[:, None]
        )
        counts = np.bincount(places[own], minlength=_BANDS * _COUNT)
        shares[place] = counts / counts.sum()
    return shares


def colour_numbers(pixels: Array) -> Array:
    """The bin of each pixel's colour, uint8 h x w, of uint8 h x w x 3 in RGB."""
    import cv2

    channels = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2HSV_FULL)
    numbers = np.zeros(channels.shape[:2], np.uint8)
    for channel, bins in enumerate(_BINS):
        numbers = numbers * np.uint8(bins) + channels[:, :, channel] // np.uint8(256 // bins)
    return numbers


def differences(first: Array, second: Array) -> Array:
    """How far each of N shares of colours is from each of M, 0 to 1; `UNSURE` where one is all zeros.

    The Hellinger distance: the root of 1 less the sum of the roots of products.
    """
    alike = np.sqrt(first) @ np.sqrt(second).T
    known = np.outer(first.any(axis=1), second.any(axis=1))
    return np.asarray(np.where(known, np.sqrt(np.clip(1 - alike, 0, 1)), UNSURE))


@dataclass
class Colours:
    """The mean colours of a track. `mean`: float32 as bytes, so that it is handed over without loss."""

    mean: bytes = b""
    pictures: int = 0

    @property
    def shares(self) -> Array:
        """The share of each colour, float32; zeros while that is not known."""
        if self.pictures < _KNOWN:
            return np.zeros(_BANDS * _COUNT, np.float32)
        return np.frombuffer(self.mean, np.float32)

    def learn(self, shares: Array) -> bool:
        """Take in the colours of a picture on which nothing else is; whether they are known from now on.

        Zeros teach nothing.
        """
        if not shares.any():
            return False
        self.pictures += 1
        before = np.frombuffer(self.mean, np.float32) if self.mean else np.zeros_like(shares)
        weight = np.float32(1 / min(self.pictures, _MEMORY))
        self.mean = (before + weight * (shares - before)).astype(np.float32).tobytes()
        return self.pictures == _KNOWN

    def likelihood(self, numbers: Array) -> Array:
        """How much likelier each of N colours is here than by chance, as logarithms; zeros if unknown."""
        shares = self.shares.reshape(_BANDS, _COUNT).sum(axis=0, dtype=np.float64)
        if not shares.any():
            return np.zeros(len(numbers))
        return np.asarray(np.log(shares * _COUNT + _CHANCE)[numbers])
