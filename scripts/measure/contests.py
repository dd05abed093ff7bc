"""`trtkit bench` itself: its figures on this machine, what it adds, whether two runs agree."""

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from case import Lab, case
from stock import photo_files

from trtkit.benchmark.contest import hold
from trtkit.benchmark.protocol import ProtocolSettings, take_turns
from trtkit.benchmark.spec import COMPUTE, Spec
from trtkit.benchmark.statistics import Interval
from trtkit.benchmark.worker import WorkerContestant
from trtkit.cpu import usable_cores
from trtkit.serialization import to_plain

# The cut of each model: ResNets where the published reuse is, VGG in its middle.
CUTS = {"resnet18": 4, "resnet50": 7, "resnet152": 7, "vgg16": 7}


@case("--models resnet18 --precision fp32 --batch 1 --photos 2 --seconds 1")
def baselines(
    lab: Lab, *, models=tuple(CUTS), precision=("fp32", "int8"), batch=(1, 8), photos=8, seconds=60.0
) -> None:  # fmt: skip
    """Bundles against every baseline of this machine, as `trtkit bench` measures them."""
    stock = lab.stock
    names = [stock.bundle(model, CUTS[model], form).name for model in models for form in precision]
    options = [word for name in names for word in ("--bundle", name)]
    options += [word for size in batch for word in ("--batch", size)]
    options += ["--photos", photos, "--seconds", seconds, "--json"]
    report = json.loads(stock.trtkit("bench", stock.photos(photos), *options))
    lab.data["bench"] = report
    for contest in report["contests"]:
        where = f"{contest['tail']}, {contest['measure']}, batch {contest['batch']}"
        rates = {f["competitor"]: f["images_per_second"] for f in contest["figures"]}
        others = {name: own for name, own in rates.items() if own and not name.startswith("trtkit")}
        for figure in contest["figures"]:
            name, same = figure["competitor"], figure["agreement"]
            rate = rates[name]
            if rate and name not in others and not name.endswith("cache cold"):
                times = ", ".join(f"{other} {rate / base:.2f}" for other, base in others.items())
                equal = "" if same is None else f", {same:.0%} of best classes equal"
                what, compared = name.removeprefix("trtkit "), f"times as fast as {times}{equal}"
                lab.figure(f"{where}: {what}", f"{rate:.1f} images/s", compared)


def empty(spec: dict[str, Any]) -> SimpleNamespace:
    """An engine that does nothing, for the worker to load."""
    labels = [0] * len(spec["photos"])
    calls = dict.fromkeys(("before", "run", "close"), lambda: None)
    return SimpleNamespace(note="", images=len(labels), labels=lambda: labels, **calls)


def small_model(lab: Lab, photos: int, image_size: int) -> Spec:
    """A small ResNet-18 on photos in memory."""
    return Spec(
        kind="trtkit",
        measure=COMPUTE,
        bundle=str(lab.stock.bundle("resnet18", 2, "fp16", image_size)),
        tail=f"resnet18-{image_size}",
        photos=tuple(map(str, photo_files(lab.stock.photos(photos)))),
        batch=1,
        threads=usable_cores(),
    )


@case("--rounds 3 --photos 2")
def overhead(lab: Lab, *, photos=8, rounds=50) -> None:
    """What `trtkit bench` itself adds to what it measures."""
    # The worker, which inherits the path, imports this module by its name.
    paths = [str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    spec = to_plain(small_model(lab, photos, 32))
    with (
        WorkerContestant("resnet18 at 32 x 32", spec) as network,
        WorkerContestant("empty engine", {**spec, "factory": f"{__name__}:empty"}) as nothing,
    ):
        samples = take_turns([network, nothing], ProtocolSettings.fixed(rounds)).samples
    lab.compare(f"a round of {photos} photos", samples, most={"empty engine": 0.01})


@case("--rounds 1 --photos 2 --seconds 0.2 --image-size 32")
def overlap(lab: Lab, *, image_size=64, photos=8, seconds=3.0, rounds=100) -> None:
    """Whether two runs of `trtkit bench` agree: the intervals of their ratios overlap."""
    spec, settings = small_model(lab, photos, image_size), ProtocolSettings(seconds=seconds)
    specs = {kind: replace(spec, kind=kind) for kind in ("onnxruntime", "trtkit")}

    def contest() -> Interval:
        """Images per second of the bundle to the unsplit model's."""
        return hold(specs, "onnxruntime", settings).figures[1].ratio

    pairs = [(contest(), contest()) for _ in range(rounds)]
    overlapping = sum(first.overlaps(second) for first, second in pairs)
    medians = [(first.median, second.median) for first, second in pairs]
    widths = [run.relative_width for pair in pairs for run in pair]
    apart = [max(pair) / min(pair) - 1 for pair in medians]
    where = f"{len(pairs)} repeats of two runs of at most {seconds:g} s"
    for what, values in (("width of an interval", widths), ("medians apart", apart)):
        share = f"{statistics.median(values):.2%} (at most {max(values):.2%})"
        lab.figure(f"{where}: {what}", share)
    agreed, met = f"{overlapping} of {len(pairs)}", overlapping >= 0.95 * len(pairs)
    lab.figure(f"{where}: intervals that overlap", agreed, "", "at least 95%", met)
    lab.data["pairs"] = [[[run.low, run.median, run.high] for run in pair] for pair in pairs]
