"""The overhead of a pipeline: its time per photo without reading and without engines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trtkit.bundle import Manifest, Stage
from trtkit.photos.files import FoundImage
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.chain import BatchResult, Chain, Done
from trtkit.runtime.pipeline import Pipeline, ReadPhoto
from trtkit.tensors import Array

# A pass is long enough that starting the threads does not count.
PHOTOS, PASSES = 1000, 5
NO_MAP = np.empty(0, np.float32)


def serving_seconds(photos: Sequence[Path], classes: Sequence[str], batch: int) -> float:
    """Seconds per photo of `infer` with one reading thread, when reading and the engines take no time.

    What remains is finding the files, passing them between threads, and picking the best `classes`.
    """
    count = max(1, PHOTOS // batch) * batch
    paths = [photos[number % len(photos)] for number in range(count)]
    pipeline = _NoReading(len(classes), tuple(classes), batch)
    passes = []
    for _ in range(PASSES):
        started = time.perf_counter()
        for _ in pipeline.infer(paths, workers=1):
            pass
        passes.append((time.perf_counter() - started) / count)
    return statistics.median(passes)


class _NoReading(Pipeline):
    """A pipeline whose photos are never read and whose engines are never run."""

    def __init__(self, logits: int, classes: tuple[str, ...], batch: int) -> None:
        tail = Stage("none", "", None, "", "", (), (), classes)
        manifest = Manifest(
            name="none", build_id="", cut=0, precision="", computes="", backend="",
            backend_version="", trtkit_version="", created="", batch=(1, batch, batch),
            preprocessing=Preprocessing(), stages=(tail,),
        )  # fmt: skip
        super().__init__(manifest, tail, _NoEngines(logits))

    def _read(self, file: FoundImage) -> ReadPhoto:
        return ReadPhoto(str(file.path), feature=NO_MAP)


class _NoEngines(Chain):
    """A chain of no engines: all logits are 0."""

    def __init__(self, logits: int) -> None:
        super().__init__([])
        self._logits = logits

    def submit(self, images: Sequence[Array], hits: Sequence[Any], **options: Any) -> Done:
        logits = np.zeros((len(images) + len(hits), self._logits), np.float32)
        return Done(BatchResult(logits, None))
