"""What is measured: photos, exported models and bundles, made once in a workspace, and loaded.

Exports and builds run in processes of their own, so that torch and onnx, with their memory and
threads, are not in the process that measures.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import progress, timed

from trtkit.bundle import Manifest, Stage, read_manifest
from trtkit.photos.images import load_image, read_file
from trtkit.runtime.chain import Chain
from trtkit.runtime.loading import backend_of, load_chain
from trtkit.runtime.pipeline import Pipeline
from trtkit.store.cache import CacheOptions, PrefixCache
from trtkit.tensors import Array
from trtkit.workspace import Workspace

PHOTOS_SCRIPT = Path(__file__).resolve().parents[1] / "photos.py"
PHOTO_SIZE = "500x375"
CALIBRATION_PHOTOS = 16
# Photos that an int8 bundle is calibrated on where only its speed counts.
INT8_PHOTOS = 64


def photos(root: Path, count: int, size: str = PHOTO_SIZE) -> Path:
    """A folder of `count` real JPEG photos, all different."""
    return _write_photos(root / "photos" / f"{count}-{size}", count, size)


def _write_photos(folder: Path, count: int, size: str) -> Path:
    if len(list(folder.glob("*.jpg"))) != count:
        progress(f"Writing {count} photos of {size}")
        command = [
            sys.executable,
            str(PHOTOS_SCRIPT),
            str(folder),
            "--count",
            str(count),
            "--size",
            size,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def trtkit(*arguments: object) -> str:
    """Run the command line in a process of its own; what it prints."""
    command = [sys.executable, "-m", "trtkit", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def exported(root: Path, architecture: str, image_size: int = 224) -> str:
    """The name of the export of `architecture` with random weights, verified on real photos."""
    name = f"{architecture}-{image_size}"
    place = Workspace(root)
    _write_photos(place.calibration, CALIBRATION_PHOTOS, PHOTO_SIZE)
    if not place.export_path(name).is_file():
        progress(f"Exporting {name}")
        size = ("--image-size", image_size) if image_size != 224 else ()
        trtkit(
            "export", architecture, "--name", name, "--weights", "random", "--workspace", root, *size
        )  # fmt: skip
    return name


def bundle(root: Path, architecture: str, cut: int, precision: str, image_size: int = 224) -> Path:
    """The folder of the bundle of one model; built unless it is there and up to date.

    int8 is calibrated on real photos and judged by nothing, for the weights are random.
    """
    name = exported(root, architecture, image_size)
    progress(f"Building {name}, cut {cut}, {precision}")
    built = f"{name}-cut{cut}-{precision}"
    trtkit(
        "build", name, "--cut", cut, f"--{precision}", "--bundle", built, "--workspace", root,
        *(all_int8(calibration_photos(root), INT8_PHOTOS) if precision == "int8" else ()),
    )  # fmt: skip
    return Workspace(root).engines / built


def calibration_photos(root: Path, count: int = INT8_PHOTOS) -> Path:
    """A folder from which `count` photos are measured on: one in five is held out."""
    return photos(root, count + math.ceil(count / 4))


def all_int8(folder: Path, count: int) -> tuple[object, ...]:
    """Options of a build that is calibrated on these photos and leaves no layer float."""
    return (
        "--calibration", folder, "--calibration-images", count, "--min-agreement", 0,
    )  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A loaded tail of a bundle. Pipelines with and without a cache share its engines."""

    manifest: Manifest
    chain: Chain
    tail: Stage

    @classmethod
    def load(cls, folder: Path, tail: str | None = None) -> Subject:
        """One tail of a bundle, by default its first."""
        manifest = read_manifest(folder)
        chosen = manifest.tail(tail)
        chain = load_chain(folder, manifest, chosen, backend_of(manifest))
        return cls(manifest, chain, chosen)

    @classmethod
    def make(cls, root: Path, architecture: str, cut: int, precision: str) -> Subject:
        return cls.load(bundle(root, architecture, cut, precision))

    def images(self, folder: Path, count: int | None = None) -> Array:
        """The photos of a folder, the first `count`, prepared: uint8 N x H x W x 3."""
        paths = sorted(folder.glob("*.jpg"))[:count]
        preprocessing = self.manifest.preprocessing
        return np.stack([load_image(read_file(path), preprocessing) for path in paths])

    def maps(self, batches: list[Array]) -> list[Array]:
        """The feature maps of each batch, on the host, as the tail takes them."""
        return [np.array(self.chain.features(images).numpy()) for images in batches]

    def pipeline(self, cache: Path | None = None) -> Pipeline:
        """A pipeline with its cache in that folder, or without one. Close it."""
        store = None
        if cache is not None:
            prefix = self.manifest.path_to(self.tail)[0]
            store = PrefixCache.open(
                CacheOptions(folder=cache), self.manifest.preprocessing, prefix.id
            )
        return Pipeline(self.manifest, self.tail, self.chain, store)


def in_batches(array: Array, batch: int) -> list[Array]:
    return [array[start : start + batch] for start in range(0, len(array), batch)]


def compute(run: Callable[[Array], Any], batches: list[Array]) -> Callable[[], float]:
    """Seconds of `run` over all batches, which are in memory."""

    def over_all() -> None:
        for batch in batches:
            run(batch)

    return partial(timed, over_all)


def classify(pipeline: Pipeline, folder: Path, batch: int) -> None:
    """Every photo of the folder from its file to its best classes. Raises if one of them failed."""
    for result in pipeline.infer([folder], batch=batch):
        if result.error is not None:
            raise RuntimeError(f"{result.path}: {result.error}")


def warm(pipeline: Pipeline, folder: Path, batch: int) -> float:
    """Seconds to classify the folder with every feature map in the cache."""
    misses = pipeline.stats.misses
    seconds = timed(partial(classify, pipeline, folder, batch))
    if pipeline.cache is None or pipeline.stats.misses > misses:
        raise RuntimeError("Some photos were not in the cache.")
    return seconds


def off(pipeline: Pipeline, folder: Path, batch: int) -> float:
    """Seconds to classify the folder without a cache."""
    return timed(partial(classify, pipeline, folder, batch))
