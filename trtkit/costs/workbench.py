"""Engines that are built to be measured and thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit.engines.base import Backend, BuildPlace, StageBuild
from trtkit.engines.options import BuildOptions
from trtkit.runtime.chain import Runner
from trtkit.runtime.loading import chain_of
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

# Rounds of a measurement: as many as fit into the seconds, within these bounds.
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
ROUND_SECONDS = 10.0

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class BuiltFile:
    """An engine's file and what its build said of it."""

    path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class Workbench:
    """How engines are built, and where: in `folder`, with what builds can use again in `timing`."""

    backend: Backend
    precision: str
    options: BuildOptions
    folder: Path
    timing: Path
    advance: Advance

    def build(self, graph: onnx.ModelProto, name: str, *, root: bool, leaf: bool) -> BuiltFile:
        """The engine of a stage, whose graph may be changed. Raises TrtkitError."""
        path = self.folder / f"{name}{self.backend.suffix}"
        stage = StageBuild(name, graph, self.precision, root, leaf, self.options)
        place = BuildPlace(self.timing, self.advance)
        return BuiltFile(path, self.backend.build(stage, path, place).record)

    def chain(self, built: Sequence[BuiltFile]) -> Runner:
        """These engines loaded, from the image to the logits. Raises TrtkitError."""
        engines = [self.backend.load(each.path, each.record, "trtkit build") for each in built]
        return chain_of(engines, self.backend)


class Timed:
    """A chain and a batch for it, uint8 N x H x W x 3; all times are seconds for the whole batch."""

    def __init__(self, chain: Runner, images: Array) -> None:
        self._chain = chain
        self._images = list(images)
        self._features: list[Array] = []
        chain.reserve(len(images), len(images))
        if chain.split:
            computed = chain.submit(self._images, [], keep=True).result().features
            if computed is not None:
                self._features = list(np.array(computed))

    def computed(self) -> float:
        """One run from the images."""
        return self._run(self._images, [])

    def hit(self) -> float:
        """One run from their feature maps; of a chain that is split."""
        return self._run([], self._features)

    def _run(self, images: Sequence[Array], features: Sequence[Array]) -> float:
        started = time.perf_counter()
        self._chain.submit(images, features).result()
        return time.perf_counter() - started


def rounds_for(seconds: float) -> int:
    """How many rounds of that length fit, within the bounds."""
    return max(LEAST_ROUNDS, min(MOST_ROUNDS, int(ROUND_SECONDS / seconds)))


def repeated(images: Array, count: int) -> Array:
    """The first `count` images, N x H x W x 3, from the beginning again where there are fewer."""
    return np.concatenate([images] * -(-count // len(images)))[:count]
