"""Running the stages from the image to the logits, one engine's output being the next one's input."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trtkit.bundle import Manifest, Stage, check_files
from trtkit.engines.base import Backend, Engine, Tensor
from trtkit.engines.registry import get_backend, installed
from trtkit.errors import TrtkitError, listed
from trtkit.tensors import Array


class Chain:
    """The loaded engines from the root to one tail.

    With one engine the model is not split and there are no feature maps. With more, the first one's
    output is the feature map: what the cache holds and what `from_features` continues from.
    """

    def __init__(self, engines: list[Engine]) -> None:
        self._engines = engines

    @classmethod
    def load(cls, folder: Path, manifest: Manifest, tail: Stage, backend: Backend) -> Chain:
        """Load the engines of `tail`. Raises TrtkitError for a missing or damaged file."""
        path = manifest.path_to(tail)
        check_files(folder, path)
        return cls([backend.load(folder / stage.file) for stage in path])

    @property
    def split(self) -> bool:
        return len(self._engines) > 1

    @property
    def feature_dtype(self) -> str:
        """The NumPy dtype name of the feature maps that the second engine takes."""
        return self._engines[1].inputs[0].dtype

    def features(self, images: Array) -> Tensor:
        """The prefix's feature maps, N x ..., of uint8 images N x H x W x 3, left on the device."""
        return _run(self._engines[0], images)

    def from_features(self, features: Array | Tensor) -> Array:
        """Logits, float32 N x classes, from feature maps."""
        value: Array | Tensor = features
        for engine in self._engines[1:]:
            value = _run(engine, value)
        # A copy: the engine may use its memory again once its tensor is dropped.
        return np.array(value if isinstance(value, np.ndarray) else value.numpy())

    def logits(self, images: Array) -> Array:
        """Logits, float32 N x classes, of uint8 images N x H x W x 3, RGB."""
        return self.from_features(self.features(images))


def backend_of(manifest: Manifest) -> Backend:
    """The backend a bundle was built for. Raises TrtkitError when this machine has it not."""
    try:
        return get_backend(manifest.backend)
    except TrtkitError as error:
        raise TrtkitError(
            f"The bundle {manifest.name} was built for the {manifest.backend} backend, but here there "
            f"is {listed(installed())}; build it for this machine with `trtkit build`."
        ) from error


def softmax(logits: Array) -> Array:
    """Scores that sum to 1, row by row, float64, without overflow for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    scores = np.exp(shifted)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def _run(engine: Engine, value: Array | Tensor) -> Tensor:
    return engine.run({engine.inputs[0].name: value})[engine.outputs[0].name]
