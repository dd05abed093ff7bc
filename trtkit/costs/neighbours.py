"""Measuring cuts that a profile suggests: real engines for each, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from trtkit.costs.profile import USUAL, Profile
from trtkit.costs.workbench import Advance, BuiltFile, Timed, Workbench, repeated, rounds_for
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.graph.boundaries import cut_points
from trtkit.graph.split import split
from trtkit.graph.tree import Model
from trtkit.runtime.chain import Runner
from trtkit.store.costs import together
from trtkit.tensors import Array


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
    advance: Advance = lambda phase, share: None,
) -> dict[int, float]:
    """Expected seconds per photo of each cut, summed over the models, as `candidates` counts them.

    The engines' share is measured, in turns with the first model's unsplit engine, and told in the
    time that this one has in its profile, so that a machine that is busier now changes nothing. That
    of reading, decoding and storing is the profiles'. `images`: uint8 N x H x W x 3, repeated to fill
    the profiles' batch. Raises TrtkitError.
    """
    batch, precision = profiles[0].batch, profiles[0].precision
    batched = repeated(images, batch)
    with TemporaryDirectory(prefix="trtkit-cuts-") as folder:
        bench = Workbench(backend, precision, options, Path(folder), timing, advance)
        loaded: dict[int, list[Timed]] = {}
        for number, cut in enumerate(cuts):
            advance(f"Building cut {cut}", number / (len(cuts) + 1))
            loaded[cut] = [Timed(_chain(bench, model, cut), batched) for model in models]
        whole = Timed(bench.chain([_whole(bench, models[0])]), batched)
        usual = profiles[0].whole * batch
        taken: dict[int, list[float]] = {cut: [] for cut in cuts}
        advance("Measuring them", len(cuts) / (len(cuts) + 1))
        for _ in range(rounds_for(2 * len(cuts) * len(models) * whole.computed())):
            pace = usual / whole.computed()
            for cut, chains in loaded.items():
                taken[cut].append(_expected(profiles, chains, cut, hit_rate, pace))
        return {cut: statistics.median(seconds) for cut, seconds in taken.items()}


def _chain(bench: Workbench, model: Model, cut: int) -> Runner:
    tensor = cut_points(model.graph, model.card)[cut - 1].tensor
    sides = split(model.graph, tensor)
    prefix = bench.build(sides.prefix, f"{model.name}-prefix-{cut}", root=True, leaf=False)
    tail = bench.build(sides.tail, f"{model.name}-tail-{cut}", root=False, leaf=True)
    return bench.chain([prefix, tail])


def _whole(bench: Workbench, model: Model) -> BuiltFile:
    graph = onnx.ModelProto()
    graph.CopyFrom(model.graph)
    return bench.build(graph, f"{model.name}-whole", root=True, leaf=True)


def _expected(
    profiles: Sequence[Profile], chains: Sequence[Timed], cut: int, hit_rate: float, pace: float
) -> float:
    """One round: run every chain from the feature maps, and the first from the images too.

    `pace`: what the engines' seconds are multiplied by.
    """
    total = 0.0
    for place, (profile, chain) in enumerate(zip(profiles, chains, strict=True)):
        stored = profile.cuts[cut - 1].stored[USUAL]
        hit = together(stored.read, pace * chain.hit() / profile.batch, overlaps=profile.overlaps)
        if place:
            total += hit
            continue
        host = profile.decode + stored.write
        miss = together(host, pace * chain.computed() / profile.batch, overlaps=profile.overlaps)
        total += hit_rate * hit + (1 - hit_rate) * miss
    return total
