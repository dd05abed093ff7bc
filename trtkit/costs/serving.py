"""The overhead of a pipeline: its time per photo without reading and without engines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trtkit.bundle import Manifest
from trtkit.photos.files import find_images
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.classifier import Item
from trtkit.runtime.pipeline import Pipeline
from trtkit.runtime.runner import NOTHING, Done, HostRunner, Known
from trtkit.stages import OutputRef, Stage, StageInput, StageOutput
from trtkit.tensors import Array

# A pass is long enough that starting the threads does not count.
PHOTOS, PASSES = 1000, 5
NO_PIXELS = np.empty(0, np.uint8)


def serving_seconds(photos: Sequence[Path], classes: Sequence[str], batch: int) -> float:
    """Seconds per photo of `infer` with one reading thread, when reading and the engines take no time.

    What remains is finding the files, passing them between threads, and picking the best `classes`.
    """
    count = max(1, PHOTOS // batch) * batch
    paths = [photos[number % len(photos)] for number in range(count)]
    pipeline = _pipeline(tuple(classes), batch)
    passes = []
    for _ in range(PASSES):
        started = time.perf_counter()
        items = (Item(str(file.path), image=NO_PIXELS) for file in find_images(paths))
        for _ in pipeline.classify_items(items, workers=1):
            pass
        passes.append((time.perf_counter() - started) / count)
    return statistics.median(passes)


def _pipeline(classes: tuple[str, ...], batch: int) -> Pipeline:
    """A pipeline whose engine is never run."""
    tail = Stage(
        name="none", id="", role="head", parent=None, file="", digest="",
        inputs=(StageInput("images", "uint8", (None,)),),
        outputs=(StageOutput("logits", "float32", (None, len(classes)), "logits"),),
        classes=classes,
    )  # fmt: skip
    manifest = Manifest(
        name="none", build_id="", cut=0, precision="", computes="", backend="",
        backend_version="", trtkit_version="", created="", batch=(1, batch, batch),
        preprocessing=Preprocessing(), stages=(tail,),
    )  # fmt: skip
    return Pipeline(manifest, [tail], _NoEngines(len(classes)))


class _NoEngines(HostRunner):
    """A runner of no engines: all logits are 0."""

    def __init__(self, classes: int) -> None:
        super().__init__([], {})
        self._classes = classes

    def submit(
        self,
        wanted: Sequence[OutputRef],
        images: Sequence[Array],
        known: Known = NOTHING,
        *,
        keys: Sequence[bytes | None] = (),
    ) -> Done:
        return Done({ref: np.zeros((len(images), self._classes), np.float32) for ref in wanted})
