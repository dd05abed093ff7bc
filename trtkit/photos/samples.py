"""Images to compare models on: the workspace's own photos, or generated ones when there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3

from trtkit.errors import ImageError
from trtkit.identity import file_digest
from trtkit.photos.files import photo_paths
from trtkit.photos.images import load_image, read_file
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

GENERATED = "generated"


@dataclass(frozen=True)
class SampleImages:
    """Prepared images, uint8 N x H x W x 3; `source` is the folder they are from or `generated`.

    `files` are the photos they were read from, as many, or none.
    """

    images: Array
    source: str
    files: tuple[Path, ...] = ()

    def some(self, count: int) -> SampleImages:
        """`count` of them, evenly spread, all of them where there are not more."""
        total = len(self.images)
        rows = sorted({number * total // count for number in range(count)})
        files = tuple(self.files[row] for row in rows) if self.files else ()
        return SampleImages(self.images[rows], self.source, files)

    def photos(self, folder: Path) -> tuple[Path, ...]:
        """The files; where the images were generated, they are written to `folder` as JPEG.

        Those have twice the width and height, so that decoding them takes about what it does for a
        photo: of 224 x 224 images they have 448 x 448 pixels, ImageNet's photos 500 x 375.
        """
        if self.files:
            return self.files
        from PIL import Image

        paths = tuple(folder / f"generated-{number}.jpg" for number in range(len(self.images)))
        for path, image in zip(paths, self.images, strict=True):
            height, width, _ = image.shape
            Image.fromarray(image).resize((2 * width, 2 * height)).save(path, quality=90)
        return paths

    def describe(self) -> str:
        count = len(self.images)
        if self.source == GENERATED:
            return f"{count} generated images"
        return f"{count} photos of {self.source}"


@dataclass(frozen=True)
class Samples:
    """Which images a comparison would use, before any is decoded.

    `files` is empty when there are no photos and images are generated; `digest` (hex) changes
    whenever the images would.
    """

    files: tuple[Path, ...]
    folder: Path
    count: int

    @property
    def digest(self) -> str:
        content = blake3(str(self.count).encode())
        for path in self.files:
            entry = f"{path.name}\0{_content(path)}\0"
            content.update(entry.encode("utf-8", "surrogateescape"))
        return content.hexdigest()

    def load(self, preprocessing: Preprocessing) -> SampleImages:
        """Decode and prepare them. A photo that cannot be read is left out."""
        images, read = [], []
        for path in self.files:
            try:
                images.append(load_image(read_file(path), preprocessing))
            except ImageError:
                # Which photos of the folder are damaged is what calibrating on them reports.
                continue
            read.append(path)
        if images:
            return SampleImages(np.stack(images), str(self.folder), tuple(read))
        return SampleImages(generate_images(self.count, preprocessing), GENERATED)


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        # A link that leads nowhere, say: once it is mended it is another photo.
        return "unreadable"


def choose_samples(folder: Path, count: int) -> Samples:
    """`count` photos of `folder`, evenly spread over it; none when it has none."""
    paths = photo_paths(folder)
    step = max(1, len(paths) / count)
    chosen = tuple(paths[int(index * step)] for index in range(min(count, len(paths))))
    return Samples(chosen, folder, count)


def generate_images(count: int, preprocessing: Preprocessing, seed: int = 0) -> Array:
    """Noise with the amplitude spectrum of natural images, uint8 N x H x W x 3.

    Amplitudes fall as 1/frequency (Field 1987, doi:10.1364/JOSAA.4.002379), so that every scale a
    convolution looks at has content.
    """
    height, width = preprocessing.height, preprocessing.width
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1.0
    generator = np.random.default_rng(seed)
    images = np.empty((count, height, width, 3), dtype=np.uint8)
    for image in images:
        for channel in range(3):
            phase = generator.uniform(0, 2 * np.pi, frequency.shape)
            values = np.fft.irfft2(np.exp(1j * phase) / frequency, s=(height, width))
            low, high = np.percentile(values, [1, 99])
            scaled = (values - low) / max(high - low, 1e-12) * 255.0
            image[:, :, channel] = np.clip(scaled, 0, 255).round()
    return images
