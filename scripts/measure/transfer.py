"""Transfer learning on the digits: how to adapt a model, from which feature maps, what is reused."""

import shutil
from collections.abc import Mapping
from functools import partial
from itertools import count as numbers
from pathlib import Path
from statistics import fmean, median
from typing import Any

from case import Lab, case
from stock import DIGITS, LIGHT, PLAIN, RANDOM, adam, with_range

from trtkit.workspace import BEST

# Augmented views of each photo behind frozen blocks.
VIEWS = ("--augment", 4)
FROZEN = {"through the frozen blocks": ("--no-feature-store",), "from the store": ()}


def by_epoch(metrics: dict[str, Any], name: str) -> list[float]:
    return [epoch[name] for epoch in metrics["epochs"]]


@case("--rounds 1 --count 10 --epochs 1 --large-size 64 --large-count 5 --photos 20")
def features(
    lab: Lab, *, model="resnet50", cut=13, small_size=32, count=None, epochs=4, large_size=224,
    large_count=12, large_epochs=2, lr=5e-4, photos=200, rounds=3,
) -> None:  # fmt: skip
    """Training from stored feature maps against through the frozen blocks, and waiting for inputs."""
    lab.data.update(data=DIGITS, cut=cut, trainings={}, waited={})
    sizes = ((large_size, large_count, large_epochs), (small_size, count, epochs))
    for size, limit, length in sizes:
        new = ("--arch", model, *RANDOM, "--epochs", length, *PLAIN, *adam(lr))
        data, cheap = lab.stock.digits(count=limit), f"{model}-{size}"
        images = lab.stock.trained(data, cheap, *new, "--image-size", size)["dataset"]["train"]
        options = (*new, "--prefix-from", lab.stock.checkpoint(cheap, BEST), "--cut", cut)
        kinds = {
            kind: partial(train_tail, lab, data, f"{cheap}-{number}", (*options, *own), numbers(1))
            for number, (kind, own) in enumerate(FROZEN.items())
        }
        measures = lab.rounds(cheap, kinds, rounds)
        where = f"{model} behind cut {cut}, {size} x {size}"
        title, speeds = f"{where}, {images} photos", measures["images_per_second"]
        lab.compare(title, speeds, unit="images/s", least={"from the store": 1.5})
        for kind in kinds:
            lab.figure(f"{title}: {kind}, top-1", with_range(measures["top1"][kind]))
            lab.data["waited"][f"{where}, {kind}"] = measures["waited"][kind]
        lab.data["trainings"][size] = measures
    tuned = ("--arch", "resnet18", *RANDOM, "--epochs", 2, "--augmentation", "standard")
    metrics = lab.stock.trained(photo_classes(lab, photos), f"resnet18-{photos}-crops", *tuned)
    what = "resnet18 fine-tuned at 224 x 224, augmented, photos of 500 x 375"
    lab.data["waited"][what] = by_epoch(metrics, "waited")
    for what, shares in lab.data["waited"].items():
        share = median(shares)
        lab.figure(f"waiting for inputs, {what}", f"{share:.1%}", "", "below 10%", share < 0.1)


def train_tail(lab: Lab, data: Path, name: str, options, seeds) -> Mapping[str, float]:
    """One training with the next seed: the medians of its epochs, and its last accuracy."""
    seed = next(seeds)
    metrics = lab.stock.trained(data, f"{name}-{seed}", *options, "--seed", seed)
    medians = {thing: median(by_epoch(metrics, thing)) for thing in ("images_per_second", "waited")}
    return {**medians, "top1": metrics["epochs"][-1]["val_top1"]}


def photo_classes(lab: Lab, count: int) -> Path:
    """Crops of the real photos, each in the folder of the photo it is a crop of."""
    folder = lab.stock.root / f"crops-{count}"
    for path in sorted(lab.stock.photos(count).glob("*.jpg")):
        label = folder / path.stem.partition("-")[2]
        label.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, label)
    return folder


@case("--architectures resnet18 --runs 1 --epochs 1 --adapt-epochs 1 --count 10")
def transfer(
    lab: Lab, *, architectures=("resnet18", "resnet50"), runs=5, epochs=8, adapt_epochs=6, lr=5e-4,
    head_lr=5e-3, image_size=32, count=None,
) -> None:  # fmt: skip
    """Ways to adapt a model of the digits 0 to 4 to the digits 5 to 9, and augmentation."""
    first, second = (lab.stock.digits(classes, count) for classes in ("0-4", "5-9"))
    lab.data.update(data=DIGITS, image_size=image_size, runs={})
    adapted = ("--epochs", adapt_epochs)
    # The options of each mode, and those of its augmentation besides.
    modes = {
        "finetune": ((*adapted, *adam(lr)), ()),
        "freeze": ((*adapted, *adam(head_lr)), VIEWS),
        "bottleneck": ((), VIEWS),
    }
    new = (*RANDOM, "--image-size", image_size, "--epochs", epochs, *PLAIN, *adam(lr))
    for architecture in architectures:
        results: list[dict[str, dict[str, float]]] = [{} for _ in range(runs)]
        for number, row in enumerate(results):
            seeds = ("--arch", architecture, "--seed", number, "--split-seed", number)
            base = f"{architecture}-0to4-{number}"
            lab.stock.trained(first, base, *seeds, *new)
            for mode, (options, views) in modes.items():
                for kind, how in (("plain", PLAIN), ("augmented", (*LIGHT, *views))):
                    name = f"{architecture}-{mode}-{kind}-{number}"
                    words = (*seeds, "--mode", mode, "--weights", base, *options, *how)
                    row[f"{mode}, {kind}"] = outcome(lab.stock.trained(second, name, *words))
        lab.data["runs"][architecture] = results
        for key in results[0]:
            top1, times = ([row[key][thing] for row in results] for thing in ("top1", "seconds"))
            seconds = f"{with_range(times, '.1f')} s"
            lab.figure(f"{architecture}, {key}: top-1", with_range(top1), seconds)
        ways = ("finetune, plain", "freeze, plain")
        tuned, frozen = (fmean(row[way]["top1"] for row in results) for way in ways)
        points = f"{100 * (tuned - frozen):+.1f} points"
        lab.figure(f"{architecture}: finetune against freeze, plain", points)


def outcome(metrics: dict[str, Any]) -> dict[str, float]:
    """Accuracy of the last epoch or the fit; seconds of the steps, and of what comes before them."""
    before = sum(part["seconds"] for part in (metrics["features"], metrics.get("fit")) if part)
    top1 = (by_epoch(metrics, "val_top1") or [metrics.get("top1")])[-1]
    return {"top1": top1, "seconds": before + sum(by_epoch(metrics, "seconds"))}


CHEAP = "resnet50"
# Expensive architectures on the cheap one's blocks up to a cut.
REUSES = (("resnet152", 4), ("resnet152", 7), ("resnet101", 13))
PUBLISHED = {
    "resnet152": 0.967, "resnet152, cut 4 as it is": 0.518, "resnet152, cut 4 retrained": 0.958,
    "resnet152, cut 7 as it is": 0.391, "resnet152, cut 7 retrained": 0.969,
}  # fmt: skip


@case("--runs 1 --epochs 1 --retrain-epochs 1 --count 10")
def reuse(
    lab: Lab, *, runs=5, epochs=6, retrain_epochs=3, lr=5e-4, image_size=32, count=None
) -> None:
    """An expensive model on a cheap model's feature maps, as in table 1 of Shen, Dong and He 2022."""
    data = lab.stock.digits(count=count)
    light = (*adam(lr), *LIGHT, "--weight-decay", 0.01)
    new = (*RANDOM, "--image-size", image_size, "--epochs", epochs, *light)
    again = ("--epochs", retrain_epochs, *VIEWS, *light)
    results = [train_run(lab, data, number, new, again) for number in range(runs)]
    lab.data.update(data=DIGITS, runs=results, bundles=[], image_size=image_size)
    for name in (name for name in results[0] if name != "images"):
        top1 = [run[name] for run in results]
        cells, target = [f"{PUBLISHED[name]:.3f} published"] if name in PUBLISHED else [], ()
        if name.endswith("retrained"):
            separate = [run[name.partition(",")[0]] for run in results]
            points = [100 * (own - alone) for own, alone in zip(top1, separate, strict=True)]
            by_run = f"(by run {' '.join(f'{point:+.1f}' for point in points)})"
            cells.append(f"{fmean(points):+.2f} points against trained separately {by_run}")
            target = ("at most 1 point lower", fmean(points) >= -1)
        kind = "" if "," in name else ", trained separately"
        what = f"{name}{kind}: top-1 on {results[0]['images']} photos"
        lab.figure(what, with_range(top1), ", ".join(cells), *target)
    for expensive, cut in REUSES:
        report_bundle(lab, data, expensive, cut)


def train_run(lab: Lab, data: Path, number: int, new, again) -> dict[str, float]:
    """All trainings of a run: top-1 of the cheap model, the expensive ones and both kinds of reuse."""
    stock, split = lab.stock, ("--split-seed", number)
    stock.trained(data, f"{CHEAP}-{number}", "--arch", CHEAP, *new, *split, "--seed", number)
    files = {CHEAP: (prefix := stock.checkpoint(f"{CHEAP}-{number}"))}
    for expensive, cut in REUSES:
        # Another seed than the cheap one's: with one seed the shared blocks begin alike.
        arch = ("--arch", expensive, *split, "--seed", number + 1000)
        kinds = ("", f"-cut{cut}-as-it-is", f"-cut{cut}-retrained")
        names = [f"{expensive}{kind}-{number}" for kind in kinds]
        alone, as_it_is, retrained = map(stock.checkpoint, names)
        stock.trained(data, names[0], *arch, *new)
        weights = ("--weights", alone, "--prefix-from", prefix, "--cut", cut)
        stock.trained(data, names[2], *arch, *weights, *again)
        transplant(prefix, alone, cut, as_it_is)
        files[expensive] = alone
        files |= {f"{expensive}, cut {cut} as it is": as_it_is}
        files |= {f"{expensive}, cut {cut} retrained": retrained}
    subjects = [word for file in files.values() for word in ("--checkpoint", file)]
    reports = stock.evaluated(data, *subjects, "--part", "val", *split)
    top1 = {name: report["top1"] for name, report in zip(files, reports, strict=True)}
    return {"images": reports[0]["images"], **top1}


def transplant(prefix: Path, alone: Path, cut: int, file: Path) -> None:
    """Write the checkpoint of a model with another one's blocks, not trained any further."""
    from trtkit.models.blocks import copy_prefix
    from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint

    source, target = (load(read_checkpoint(path)) for path in (prefix, alone))
    copy_prefix(source.model, target.model, cut)
    save_checkpoint(file, target.model, target.classes, target.preprocessing)


def report_bundle(lab: Lab, data: Path, expensive: str, cut: int) -> None:
    """The first run's models as two tails of a bundle, beside their checkpoints."""
    stock, tail = lab.stock, f"{expensive}-{cut}"
    files = {CHEAP: stock.checkpoint(f"{CHEAP}-0")}
    files[tail] = stock.checkpoint(f"{expensive}-cut{cut}-retrained-0")
    bundle = stock.built([stock.exported(file, own) for own, file in files.items()], cut, "fp16")
    for tail, file in files.items():
        subjects = ("--checkpoint", file, "--bundle", bundle, "--tail", tail)
        reports = stock.evaluated(data, *subjects, "--part", "val", "--split-seed", 0)
        checkpoint, top1, agreement = (*(own["top1"] for own in reports), reports[1]["agreement"])
        row = {"checkpoint": checkpoint, "bundle": top1, "agreement": agreement}
        lab.data["bundles"].append({"reuse": f"{expensive}, cut {cut}", "tail": tail, **row})
        compared = f"checkpoint {checkpoint:.3f}, agreement {agreement:.3f}"
        what = f"bundle of {expensive}, cut {cut}, tail {tail}: top-1"
        lab.figure(what, f"{top1:.3f}", compared)
