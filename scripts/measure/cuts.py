"""Measure every cut of a model, beside what its profile predicts and what `--cut auto` takes.

Each cut is built and run as `infer` runs it, from files to the best classes: with the cache warm, with
it empty, and in the same rounds the unsplit model without a cache. Times are told as shares of the
latter's, since these machines are busier at one time than at another, and every cut is measured in each
round, so that none has all of its figures from a busy minute; told is the median of the rounds. Predicted
are those of `trtkit profile`, measured before, block by block and not cut by cut. Beside the difference of
the two stands how far each is from itself: another profile afterwards, and one half of the rounds from the
other.

The expected time of a cut is that of a photo on average, at the hit rate that `--cut auto` takes by
default.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from common import Outcome, Table, Target, argument_parser, at_most, positive, progress, run, timed
from subjects import classify, exported, photos

from trtkit import __version__
from trtkit.api.profile import profile
from trtkit.building.cut import choose_cut
from trtkit.building.request import BuildSettings
from trtkit.bundle import Manifest, Stage
from trtkit.costs.choice import CutGoal
from trtkit.costs.profile import Profile
from trtkit.costs.workbench import BuiltFile, Workbench
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.graph.boundaries import cut_points
from trtkit.graph.card import ModelCard
from trtkit.graph.files import read_model
from trtkit.graph.split import split
from trtkit.graph.tree import Model
from trtkit.identity import file_digest
from trtkit.runtime.chain import Runner
from trtkit.runtime.pipeline import Pipeline
from trtkit.store.cache import CacheOptions, PrefixCache
from trtkit.workspace import Workspace

MODELS = ("resnet50", "resnet152", "vgg16")
CLOSE = 0.1


@dataclass(frozen=True)
class Taken:
    """Of one cut, as shares of the time that the unsplit model takes in the same round."""

    warm: float
    cold: float

    def expected(self, hit_rate: float) -> float:
        return hit_rate * self.warm + (1 - hit_rate) * self.cold


def load(root: Path, name: str) -> Model:
    graph = read_model(Workspace(root).export_path(name))
    return Model(name, graph, ModelCard.read_from(graph, name))


def pipeline(
    model: Model,
    bench: Workbench,
    built: Sequence[BuiltFile],
    chain: Runner,
    cache: Path | None = None,
) -> Pipeline:
    """As `infer` makes it of a bundle, without the bundle's proofs, which take most of a build."""
    stages = [
        Stage(
            name=each.path.stem,
            id=file_digest(each.path),
            parent=None,
            file=each.path.name,
            digest="",
            inputs=(),
            outputs=(),
            classes=tuple(model.card.classes),
        )
        for each in built
    ]
    image = model.card.preprocessing
    manifest = Manifest(
        name=model.name, build_id="", cut=0, precision=bench.precision, computes="",
        backend=bench.backend.name, backend_version="", trtkit_version=__version__, created="",
        batch=(1, 8, 64), preprocessing=image, stages=tuple(stages),
    )  # fmt: skip
    store = None
    if cache is not None:
        options = CacheOptions("always", folder=cache)
        store = PrefixCache.open(options, image, stages[0].id)
    return Pipeline(manifest, stages[-1], chain, store)


def cold(make: Callable[[], Pipeline], cache: Path, folder: Path, batch: int) -> float:
    """Seconds with an empty cache, until all of it is on the disk."""
    shutil.rmtree(cache, ignore_errors=True)
    used = make()

    def once() -> None:
        classify(used, folder, batch)
        if used.cache is not None:
            used.cache.store.flush()

    seconds = timed(once)
    used.close()
    return seconds


def per_pass(used: Pipeline, folder: Path, batch: int, without: float) -> float:
    """Seconds of a pass with every map cached: in one stream with so many that it lasts as `without`.

    A pass of the deepest cuts takes a few milliseconds, as starting the threads does.
    """
    once = timed(partial(classify, used, folder, batch))
    passes = max(1, round(without / once))
    photos = sorted(folder.glob("*.jpg")) * passes
    misses = used.stats.misses

    def stream() -> None:
        for result in used.infer(photos, batch=batch):
            if result.error is not None:
                raise RuntimeError(f"{result.path}: {result.error}")

    seconds = timed(stream)
    if used.stats.misses > misses:
        raise RuntimeError("Some photos were not in the cache.")
    return seconds / passes


def build_cut(model: Model, cut: int, bench: Workbench) -> list[BuiltFile]:
    sides = split(model.graph, cut_points(model.graph, model.card)[cut - 1].tensor)
    return [
        bench.build(sides.prefix, f"prefix-{cut}", root=True, leaf=False),
        bench.build(sides.tail, f"tail-{cut}", root=False, leaf=True),
    ]


def measure_cut(
    model: Model,
    built: Sequence[BuiltFile],
    whole: Pipeline,
    bench: Workbench,
    folder: Path,
    options: argparse.Namespace,
) -> Taken:
    """One round of one cut. It is loaded for that: all cuts of a model do not fit into memory."""
    cache = bench.folder / "cache"
    # On the CPU closing a pipeline closes its cache alone.
    chain = bench.chain(built)
    make = partial(pipeline, model, bench, built, chain, cache)
    # A session allocates in its first run.
    classify(pipeline(model, bench, built, chain), folder, options.batch)
    without = timed(partial(classify, whole, folder, options.batch))
    misses = cold(make, cache, folder, options.batch)
    with make() as used:
        hits = per_pass(used, folder, options.batch, without)
    # Before and behind, for loading a cut takes long enough that the machine is another one.
    without = (without + timed(partial(classify, whole, folder, options.batch))) / 2
    return Taken(hits / without, misses / without)


def in_rounds(
    model: Model,
    cuts: Sequence[int],
    whole: Pipeline,
    bench: Workbench,
    folder: Path,
    options: argparse.Namespace,
) -> dict[int, list[Taken]]:
    """Every cut in each round, so that none has all of its figures from one busy minute."""
    built = {cut: build_cut(model, cut, bench) for cut in cuts}
    rounds: dict[int, list[Taken]] = {cut: [] for cut in cuts}
    classify(whole, folder, options.batch)
    for turn in range(options.rounds):
        for cut, files in built.items():
            rounds[cut].append(measure_cut(model, files, whole, bench, folder, options))
        progress(f"{model.name}: round {turn + 1} of {options.rounds} of {len(cuts)} cuts")
    return rounds


def middle(taken: Sequence[Taken]) -> Taken:
    return Taken(
        statistics.median(each.warm for each in taken),
        statistics.median(each.cold for each in taken),
    )


def beside(
    name: str,
    predicted: dict[int, float],
    again: dict[int, float],
    rounds: dict[int, list[Taken]],
) -> list[Target]:
    """How far what is compared is from itself when it is done twice."""
    found = [
        Target(
            f"The same prediction by a profile measured afterwards, {name}", "beside it",
            within([again[cut] / share - 1 for cut, share in predicted.items()]),
        )
    ]  # fmt: skip
    if all(len(taken) > 1 for taken in rounds.values()):
        apart = [middle(each[1::2]).warm / middle(each[::2]).warm - 1 for each in rounds.values()]
        found.append(
            Target(f"The same cuts in the other rounds, {name}", "beside it", within(apart))
        )
    return found


def shares(told: Profile) -> dict[int, float]:
    """Of each cut, what a hit is predicted to take of the unsplit model's time."""
    return {cut.cut: told.warm(cut) / told.computed for cut in told.cuts}


def within(off: Sequence[float]) -> str:
    """How many of them are within the target, and the worst."""
    few = sum(abs(each) <= CLOSE for each in off)
    return f"{few} of {len(off)} cuts, the worst {max(off, key=abs):+.1%}"


def measure_model(
    architecture: str, options: argparse.Namespace, root: Path, outcome: Outcome
) -> None:
    name = exported(root, architecture, options.image_size)
    folder = photos(root, options.photos)
    progress(f"Profiling {name}")
    profiled = partial(
        profile, name, precision=options.precision, batch=options.batch, workspace=root
    )
    predicted = profiled()
    progress(f"Choosing a cut of {name}")
    settings = BuildSettings(precision=options.precision, backend="onnxruntime")
    choice = choose_cut(Workspace(root), [name], settings)
    model = load(root, name)
    work = root / "cuts"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    bench = Workbench(
        OnnxRuntimeBackend(),
        options.precision,
        BuildOptions(),
        work,
        work,
        lambda phase, share: None,
    )
    # Its graph is built last, for a build changes it; so it is loaded again.
    unsplit = [bench.build(load(root, name).graph, "whole", root=True, leaf=True)]
    whole = pipeline(model, bench, unsplit, bench.chain(unsplit))
    cuts = [each.cut for each in predicted.cuts]
    rounds = in_rounds(model, cuts, whole, bench, folder, options)
    shutil.rmtree(work)
    progress(f"Profiling {name} again")
    again = profiled()
    tell(name, predicted, again, choice.cut, choice.why, rounds, outcome)


def tell(
    name: str,
    predicted: Profile,
    again: Profile,
    chosen: int,
    why: Sequence[str],
    rounds: dict[int, list[Taken]],
    outcome: Outcome,
) -> None:
    rate = CutGoal().hit_rate
    taken = {cut: middle(each) for cut, each in rounds.items()}
    rows, off = [], []
    foreseen_of = shares(predicted)
    for cut in predicted.cuts:
        foreseen = foreseen_of[cut.cut]
        measured = taken[cut.cut]
        off.append(measured.warm / foreseen - 1)
        rows.append(
            (
                str(cut.cut), cut.block, f"{foreseen:.3f}", f"{measured.warm:.3f}", f"{off[-1]:+.1%}",
                f"{predicted.expected(cut, rate) / predicted.computed:.3f}",
                f"{measured.expected(rate):.3f}", "chosen" if cut.cut == chosen else "",
            )
        )  # fmt: skip
    title = (
        f"{name}, {predicted.precision}, batch {predicted.batch}, {predicted.threads} threads: a photo "
        f"takes {1e3 * predicted.computed:.1f} ms unsplit; shares of that"
    )
    columns = (
        "cut", "block", "warm, predicted", "warm, measured", "off by",
        f"expected at {rate:.0%} hits, predicted", "measured", "--cut auto",
    )  # fmt: skip
    outcome.tables.append(Table(title, columns, tuple(rows)))
    total = sum(block.seconds for block in predicted.blocks) / predicted.whole
    least = min(taken, key=lambda cut: taken[cut].expected(rate))
    slower = taken[chosen].expected(rate) / taken[least].expected(rate) if chosen else float("nan")
    outcome.targets += [
        Target(
            f"Sum of block latencies against the whole model, {name}", "within 10%",
            f"{total - 1:+.1%}", abs(total - 1) <= CLOSE,
        ),
        Target(
            f"Predicted against measured time of each cut, {name}", "within 10%",
            within(off), all(abs(each) <= CLOSE for each in off),
        ),
        *beside(name, shares(predicted), shares(again), rounds),
        at_most(f"--cut auto (cut {chosen}) against the best measured (cut {least}), {name}", 1.03, slower),
    ]  # fmt: skip
    outcome.data[name] = {
        "profile": predicted.to_json(),
        "chosen": chosen,
        "why": list(why),
        "measured": {cut: asdict(each) for cut, each in taken.items()},
        "rounds": {cut: [asdict(each) for each in of_cut] for cut, of_cut in rounds.items()},
    }


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    for architecture in options.models:
        measure_model(architecture, options, root, outcome)
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), help=f"default {' '.join(MODELS)}"
    )
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    parser.add_argument("--photos", type=positive, default=6, help="default 6")
    parser.add_argument("--image-size", type=positive, default=224, help="default 224")
    parser.add_argument("--batch", type=positive, default=1, help="default 1")
    run(parser, measure)


if __name__ == "__main__":
    main()
