"""Engines that are built to be measured and thrown away: of a whole model, and of cuts of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trtkit.atomic import scratch_folder
from trtkit.costs.profile import USUAL, Profile
from trtkit.costs.timed import Timed
from trtkit.engines.base import Backend, StageBuild
from trtkit.engines.options import BuildOptions
from trtkit.graph.boundaries import CutPoint, cut_points
from trtkit.graph.split import split
from trtkit.graph.tree import Model
from trtkit.reporting import advance
from trtkit.runtime.models import LoadedModel, model_of
from trtkit.stages import Role
from trtkit.store.costs import together
from trtkit.tensors import Array

# Rounds of a measurement: as many as fit into the seconds, within these bounds.
LEAST_ROUNDS, MOST_ROUNDS = 5, 25
ROUND_SECONDS = 10.0


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

    def build(self, graph: onnx.ModelProto, name: str, *, root: bool, leaf: bool) -> BuiltFile:
        """The engine of a stage, whose graph may be changed. Raises TrtkitError."""
        path = self.folder / f"{name}{self.backend.suffix}"
        stage = StageBuild(name, graph, self.precision, root, leaf, self.options)
        return BuiltFile(path, self.backend.build(stage, path, self.timing).record)

    def whole(self, model: Model) -> BuiltFile:
        """The engine of an unsplit model. Raises TrtkitError."""
        graph = onnx.ModelProto()
        graph.CopyFrom(model.graph)
        return self.build(graph, f"{model.name}-whole", root=True, leaf=True)

    def split_model(self, model: Model, point: CutPoint) -> LoadedModel:
        """The engines of a model that is cut there, loaded. Raises TrtkitError."""
        sides = split(model.graph, point.tensor)
        name = f"{model.name}-{point.cut}"
        prefix = self.build(sides.prefix, f"{name}-prefix", root=True, leaf=False)
        tail = self.build(sides.tail, f"{name}-tail", root=False, leaf=True)
        return self.load([("prefix", prefix), ("head", tail)])

    def load(self, built: Sequence[tuple[Role, BuiltFile]]) -> LoadedModel:
        """These engines loaded, with their roles, from the image to the logits. Raises TrtkitError."""
        engines = [
            (role, self.backend.load(file.path, file.record, "trtkit build"))
            for role, file in built
        ]
        return model_of(engines, self.backend)


def rounds_for(seconds: float) -> int:
    """How many rounds of that length fit, within the bounds."""
    return max(LEAST_ROUNDS, min(MOST_ROUNDS, int(ROUND_SECONDS / seconds)))


def repeated(images: Array, count: int) -> Array:
    """The first `count` images, N x H x W x 3, from the beginning again where there are fewer."""
    return np.concatenate([images] * -(-count // len(images)))[:count]


def measure_cuts(
    profiles: Sequence[Profile],
    models: Sequence[Model],
    cuts: Sequence[int],
    *,
    hit_rate: float,
    backend: Backend,
    options: BuildOptions,
    images: Array,
    timing: Path,
) -> dict[int, float]:
    """Expected seconds per photo of each cut, summed over the models, as `cut_options` counts them.

    Engines are built for each cut and run in turns with the first model's unsplit engine. Their share
    is scaled by what that one took when it was profiled, so that a machine that is busier now changes
    nothing; reading, decoding and storing are taken from the profiles. `images`: uint8 N x H x W x 3,
    repeated to fill the profiles' batch. Raises TrtkitError.
    """
    batch, precision = profiles[0].batch, profiles[0].precision
    batched = repeated(images, batch)
    with scratch_folder() as folder:
        bench = Workbench(backend, precision, options, folder, timing)
        timed: dict[int, list[Timed]] = {}
        for number, cut in enumerate(cuts):
            advance(f"Building cut {cut}", number / (len(cuts) + 1))
            timed[cut] = [
                Timed(
                    bench.split_model(model, cut_points(model.graph, model.card)[cut - 1]), batched
                )
                for model in models
            ]
        whole = Timed(bench.load([("head", bench.whole(models[0]))]), batched)
        profiled = profiles[0].whole * batch
        seconds: dict[int, list[float]] = {cut: [] for cut in cuts}
        advance("Measuring them", len(cuts) / (len(cuts) + 1))
        for _ in range(rounds_for(2 * len(cuts) * len(models) * whole.computed())):
            pace = profiled / whole.computed()
            for cut in cuts:
                seconds[cut].append(_expected(profiles, timed[cut], cut, hit_rate, pace))
        return {cut: statistics.median(rounds) for cut, rounds in seconds.items()}


def _expected(
    profiles: Sequence[Profile], models: Sequence[Timed], cut: int, hit_rate: float, pace: float
) -> float:
    """One round: run every model from the feature maps, and the first from the images too.

    `pace`: what the engines' seconds are multiplied by.
    """
    total = 0.0
    for number, (profile, model) in enumerate(zip(profiles, models, strict=True)):
        stored = profile.cuts[cut - 1].stored[USUAL]
        hit = together(stored.read, pace * model.hit() / profile.batch, overlaps=profile.overlaps)
        if number:
            total += hit
            continue
        host = profile.decode + stored.write
        miss = together(host, pace * model.computed() / profile.batch, overlaps=profile.overlaps)
        total += hit_rate * hit + (1 - hit_rate) * miss
    return total
