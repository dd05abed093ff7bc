"""A model's time from images and from feature maps."""

from __future__ import annotations

import time
from collections.abc import Sequence

from trtkit.runtime.models import LoadedModel
from trtkit.runtime.runner import NOTHING, Known
from trtkit.tensors import Array


class Timed:
    """A model and a batch for it, uint8 N x H x W x 3; all times are seconds for the whole batch."""

    def __init__(self, model: LoadedModel, images: Array) -> None:
        self._model = model
        self._images = list(images)
        model.runner.reserve(len(images), len(images))
        self.features: Array | None = None
        if model.cut is not None:
            self.features = model.runner.run([model.cut], images)[model.cut]

    def computed(self) -> float:
        """One run from the images."""
        return self._run(self._images, NOTHING)

    def hit(self) -> float:
        """One run from their feature maps. Raises ValueError for a model that is not split."""
        if self._model.cut is None or self.features is None:
            raise ValueError("only a model that is split has feature maps")
        return self._run((), {self._model.cut: list(self.features)})

    def _run(self, images: Sequence[Array], known: Known) -> float:
        started = time.perf_counter()
        self._model.runner.submit([self._model.logits], images, known).result()
        return time.perf_counter() - started
