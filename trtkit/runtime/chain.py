"""Running the stages from the image to the logits, one engine's output being the next one's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from trtkit.engines.base import Engine, Tensor
from trtkit.tensors import Array


@dataclass(frozen=True)
class BatchResult:
    """A batch that was run: logits, float32 N x classes, of the images and then of the hits.

    `features` are the feature maps of the images (`keep`), and `penultimate` the inputs of the last engine,
    of the images and then of the hits: embeddings, float16 or float32 N x D. Both are None unless
    `submit` is called with that option, and valid until the next batch is submitted.
    """

    logits: Array
    features: Array | None
    penultimate: Array | None = None


class Pending(Protocol):
    """A batch on its way."""

    def result(self) -> BatchResult:
        """Wait for it. Raises TrtkitError when it failed."""
        ...


class Lease(Protocol):
    """A feature map that the chain itself holds, kept there while the lease lives."""


class Runner(Protocol):
    """Loaded engines from the root to one tail, to which batches are given.

    `depth` is how many batches it is worth having under way.
    """

    depth: int
    on_gpu: bool

    @property
    def split(self) -> bool: ...

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        """Make room for batches of that many images, and for hits that are read ahead.

        Raises TrtkitError when there is not so much memory.
        """
        ...

    def submit(
        self,
        images: Sequence[Array],
        hits: Sequence[Array | Lease],
        *,
        keys: Sequence[bytes | None] = (),
        keep: bool = False,
        penultimate: bool = False,
    ) -> Pending:
        """Start a batch: uint8 images H x W x 3 that go through the prefix, feature maps that do not.

        `keys` are those of the images and then of the hits, for a chain that keeps feature maps
        itself; `keep` asks for the images' feature maps on the host, `penultimate` for what the last
        engine takes, which is None where the tail is one engine (`Manifest.has_embeddings`).
        """
        ...

    def lease(self, key: bytes) -> Lease | None:
        """The feature map of that key if the chain holds it. From any thread."""
        ...

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        """What `read` gives, offering it memory, 1-D uint8, that the chain likes best. From any thread."""
        ...

    def logits(self, images: Array) -> Array:
        """Logits, float32 N x classes, of uint8 images N x H x W x 3, RGB."""
        ...

    def on_device(self, images: Any) -> Tensor:
        """Logits left on the device, of images there: an object with DLPack or CUDA's interface."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Done:
    """A batch that was finished before anybody waited for it."""

    outcome: BatchResult

    def result(self) -> BatchResult:
        return self.outcome


class Chain:
    """Engines that run one after the other while the caller waits.

    With one engine the model is not split and there are no feature maps. With more, the first one's
    output is the feature map: what the cache holds and what `from_features` continues from.
    """

    depth = 1
    on_gpu = False

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = list(engines)

    @property
    def split(self) -> bool:
        return len(self._engines) > 1

    @property
    def feature_dtype(self) -> str:
        """The NumPy dtype name of the feature maps that the second engine takes."""
        return self._engines[1].inputs[0].dtype

    def features(self, images: Any) -> Tensor:
        """The prefix's feature maps, N x ..., of uint8 images N x H x W x 3, left on the device."""
        return _run(self._engines[0], images)

    def from_features(self, features: Any) -> Array:
        """Logits, float32 N x classes, from feature maps."""
        return _copied(self._onwards(features)[1])

    def logits(self, images: Array) -> Array:
        return self.from_features(self.features(images))

    def on_device(self, images: Any) -> Tensor:
        value: Tensor = self._onwards(self.features(images))[1]
        return value

    def submit(
        self,
        images: Sequence[Array],
        hits: Sequence[Array | Lease],
        *,
        keys: Sequence[bytes | None] = (),
        keep: bool = False,
        penultimate: bool = False,
    ) -> Pending:
        computed = self.features(np.stack(images)) if images else None
        features = computed.numpy() if computed is not None and (keep or hits) else None
        embeddings, logits = self._onwards(self._gather(features, hits) if hits else computed)
        wanted = penultimate and len(self._engines) > 2
        return Done(BatchResult(_copied(logits), features, _copied(embeddings) if wanted else None))

    def reserve(self, images: int, read_ahead: int = 0) -> None:
        return None

    def lease(self, key: bytes) -> Lease | None:
        return None

    def read_hit(self, read: Callable[[Array | None], Array | None]) -> Array | None:
        return read(None)

    def close(self) -> None:
        return None

    def _gather(self, computed: Array | None, hits: Sequence[Any]) -> Array:
        """One array of the computed feature maps and then the hits, in the dtype the tail takes."""
        first = 0 if computed is None else len(computed)
        gathered = np.empty((first + len(hits), *hits[0].shape), dtype=self.feature_dtype)
        if computed is not None:
            gathered[:first] = computed
        for row, hit in enumerate(hits, start=first):
            gathered[row] = hit
        return gathered

    def _onwards(self, value: Any) -> tuple[Any, Any]:
        """The last engine's input and output, from the first engine's output."""
        last_input = value
        for engine in self._engines[1:]:
            last_input, value = value, _run(engine, value)
        return last_input, value


def softmax(logits: Array) -> Array:
    """Scores that sum to 1, row by row, float64, without overflow for any finite logits."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    scores = np.exp(shifted)
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def _copied(value: Any) -> Array:
    """On the host. A copy: the engine may use its memory again once its tensor is dropped."""
    return np.array(value if isinstance(value, np.ndarray) else value.numpy())


def _run(engine: Engine, value: Any) -> Tensor:
    return engine.run({engine.inputs[0].name: value})[engine.outputs[0].name]
