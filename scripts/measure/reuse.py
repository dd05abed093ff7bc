"""Reproduce table 1 of Shen, Dong and He 2022: an expensive model on a cheap model's feature maps.

For each of several runs, with their own seeds and split: a ResNet-50 (cheap) and a ResNet-152
(expensive) are trained separately; then the ResNet-152 gets the ResNet-50's blocks up to a cut, first
as it is, then with its own blocks behind the cut trained on from there on the frozen prefix. The same
for ResNet-101 at cut 13, which the paper does not have. Accuracy is that of photos that were not trained
on, by `trtkit evaluate`, with the last epoch's weights, which those photos did not choose.

Latency is that of the same weights exported at 224 x 224, an image at a time, on feature maps (compute)
and from files with the cache warm (end to end), whole models beside them, in turns; the passes of one
round are one figure. ResNets have no weight that depends on the image's size.

    python scripts/measure/reuse.py --workspace DIR --json docs/results/reuse.json \\
        --markdown docs/results/reuse.md
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common import Outcome, Samples, Table, Target, argument_parser, in_turns, positive, run
from subjects import Subject, classify, compute, in_batches, off, photos, warm
from trainings import (
    DATA,
    built,
    checkpoint,
    digits,
    evaluated,
    exported,
    trained,
    with_spread,
)

SOURCE = "Shen, Dong and He 2022 (arXiv:2212.06905, table 1)"
LATENCY_SIZE = 224
# Augmented views of each photo behind a frozen prefix.
VIEWS = 4


@dataclass(frozen=True)
class Reuse:
    """An expensive architecture on the cheap one's prefix, and the published accuracies.

    `published`: separate, reused as it is, retrained.
    """

    expensive: str
    cut: int
    published: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        return f"{self.expensive}, cut {self.cut}"

    def name(self, kind: str, number: int) -> str:
        return f"{self.expensive}-cut{self.cut}-{kind}-{number}"


CHEAP = "resnet50"
REUSES = (
    Reuse("resnet152", 4, (0.967, 0.518, 0.958)),
    Reuse("resnet152", 7, (0.967, 0.391, 0.969)),
    Reuse("resnet101", 13),
)


def train_run(options: argparse.Namespace, root: Path, data: Path, number: int) -> dict[str, float]:
    """All trainings of a run, and the accuracies of what they gave."""
    shared = (
        "--optimizer", "adamw", "--lr", options.lr, "--augmentation", "light", "--no-flip",
        "--split-seed", number, "--weight-decay", 0.01,
    )  # fmt: skip
    separate = (
        "--weights", "random", "--image-size", options.image_size, "--epochs", options.epochs, *shared
    )  # fmt: skip
    cheap = f"{CHEAP}-{number}"
    trained(root, data, cheap, "--arch", CHEAP, *separate, "--seed", number)
    for reuse in REUSES:
        alone = f"{reuse.expensive}-{number}"
        # Another seed than the cheap one's: with one seed the shared blocks begin alike.
        seed = ("--seed", number + 1000)
        trained(root, data, alone, "--arch", reuse.expensive, *separate, *seed)
        trained(
            root, data, reuse.name("retrained", number), "--arch", reuse.expensive,
            "--weights", checkpoint(root, alone, last=True),
            "--prefix-from", checkpoint(root, cheap, last=True), "--cut", reuse.cut,
            "--augment", VIEWS, "--epochs", options.retrain_epochs, *shared, *seed,
        )  # fmt: skip
        transplanted(root, cheap, alone, reuse, number)
    return accuracies(root, data, number)


def transplanted(root: Path, cheap: str, alone: str, reuse: Reuse, number: int) -> Path:
    """The expensive model with the cheap one's blocks, not trained any further: a checkpoint."""
    path = checkpoint(root, reuse.name("as-it-is", number))
    if path.is_file():
        return path
    from trtkit.models.checkpoint import load, read_checkpoint, save_checkpoint
    from trtkit.models.prefix import copy_prefix

    source = load(read_checkpoint(checkpoint(root, cheap, last=True)))
    target = load(read_checkpoint(checkpoint(root, alone, last=True)))
    copy_prefix(source.model, target.model, reuse.cut)
    if target.classes is None or target.preprocessing is None:
        raise RuntimeError(f"{alone} does not say its classes and preprocessing")
    save_checkpoint(path, target.model, target.classes, target.preprocessing)
    return path


def accuracies(root: Path, data: Path, number: int) -> dict[str, float]:
    """Top-1 of the cheap model, the expensive ones and both kinds of reuse, by name."""
    files = {CHEAP: checkpoint(root, f"{CHEAP}-{number}", last=True)}
    for reuse in REUSES:
        alone = f"{reuse.expensive}-{number}"
        files[reuse.expensive] = checkpoint(root, alone, last=True)
        files[f"{reuse} as it is"] = checkpoint(root, reuse.name("as-it-is", number))
        files[f"{reuse} retrained"] = checkpoint(root, reuse.name("retrained", number), last=True)
    subjects = [part for file in files.values() for part in ("--checkpoint", file)]
    reports = evaluated(root, data, number, *subjects)
    return {
        "images": reports[0]["images"],
        **{name: report["top1"] for name, report in zip(files, reports, strict=True)},
    }


def deployed(root: Path, data: Path) -> list[dict[str, Any]]:
    """The first run's retrained models built into bundles with the cheap one, beside its checkpoints."""
    found = []
    cheap = checkpoint(root, f"{CHEAP}-0", last=True)
    for reuse in REUSES:
        file = checkpoint(root, reuse.name("retrained", 0), last=True)
        names = [
            exported(root, cheap, CHEAP),
            exported(root, file, f"{reuse.expensive}-{reuse.cut}"),
        ]
        bundle = built(root, names, reuse.cut, "fp16", f"{reuse.expensive}-{reuse.cut}")
        for path, tail in ((cheap, names[0]), (file, names[1])):
            subjects = ("--checkpoint", path, "--bundle", bundle, "--tail", tail)
            of_torch, of_bundle = evaluated(root, data, 0, *subjects)
            found.append(
                {"reuse": str(reuse), "tail": tail, "checkpoint": of_torch["top1"],
                 "bundle": of_bundle["top1"], "agreement": of_bundle["agreement"]}
            )  # fmt: skip
    return found


def latencies(options: argparse.Namespace, root: Path) -> Samples:
    """Seconds of a pass over some photos at 224 x 224, one at a time, for the first run's models."""
    folder = photos(root, options.photos)
    competitors = {}
    for reuse in REUSES:
        whole, both, tail = latency_bundles(options, root, reuse)
        alone = Subject.load(whole)
        batches = in_batches(alone.images(folder), 1)
        # The cheap model indexes the photos; the expensive one answers from what that left.
        # One for each: a cache has one writer at a time, and these stay open.
        cache = root / f"latency-cache-{reuse.expensive}-{reuse.cut}"
        with Subject.load(both).pipeline(cache) as cheap:
            classify(cheap, folder, 8)
        reusing = Subject.load(both, tail)
        whole_of, reuse_of = labels(reuse)
        competitors[f"{whole_of}, compute"] = compute(alone.chain.logits, batches)
        competitors[f"{reuse_of}, compute"] = compute(
            reusing.chain.from_features, reusing.maps(batches)
        )
        competitors[f"{whole_of}, end to end"] = partial(off, alone.pipeline(), folder, 1)
        competitors[f"{reuse_of}, end to end"] = partial(warm, reusing.pipeline(cache), folder, 1)
    return in_turns(competitors, options.rounds, title="latency")


def labels(reuse: Reuse) -> tuple[str, str]:
    return f"{reuse.expensive} whole (for cut {reuse.cut})", f"{reuse.expensive}, cut {reuse.cut}"


def latency_bundles(
    options: argparse.Namespace, root: Path, reuse: Reuse
) -> tuple[Path, Path, str]:
    """The unsplit expensive model, the bundle with the cheap one, and the expensive one's tail."""
    expensive = f"{reuse.expensive}-{reuse.cut}-{LATENCY_SIZE}"
    names = [
        exported(root, checkpoint(root, f"{CHEAP}-0", last=True), f"{CHEAP}-{LATENCY_SIZE}", LATENCY_SIZE),
        exported(root, checkpoint(root, reuse.name("retrained", 0), last=True), expensive, LATENCY_SIZE),
    ]  # fmt: skip
    whole = built(root, names[1:], 0, options.precision, f"{expensive}-whole")
    both = built(root, names, reuse.cut, options.precision, f"{expensive}-shared")
    return whole, both, expensive


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    data = digits(root, count=options.count)
    runs = [train_run(options, root, data, number) for number in range(options.runs)]
    bundles = deployed(root, data)
    samples = latencies(options, root)
    outcome = Outcome()
    outcome.data.update(
        data=DATA, runs=runs, bundles=bundles, source=SOURCE, latency_seconds=samples,
        latency_photos=options.photos, image_size=options.image_size, latency_size=LATENCY_SIZE,
        precision=options.precision,
    )  # fmt: skip
    outcome.tables.append(accuracy_table(options, runs))
    outcome.tables.append(bundle_table(bundles))
    outcome.tables.append(latency_table(options, samples))
    outcome.targets.extend(targets(runs))
    return outcome


def accuracy_table(options: argparse.Namespace, runs: list[dict[str, float]]) -> Table:
    def of(name: str) -> str:
        return with_spread([run[name] for run in runs])

    rows = [(CHEAP, "separately trained", of(CHEAP), "")]
    for reuse in REUSES:
        separate, as_it_is, retrained = map(str, reuse.published or ("", "", ""))
        if reuse.expensive not in {model for model, *_ in rows}:
            rows.append((reuse.expensive, "separately trained", of(reuse.expensive), separate))
        where = f"on {CHEAP}'s blocks 1 to {reuse.cut}"
        rows.append((reuse.expensive, f"{where}, as it is", of(f"{reuse} as it is"), as_it_is))
        rows.append((reuse.expensive, f"{where}, retrained", of(f"{reuse} retrained"), retrained))
    rows.append(("resnet152", "int8: not measured here, see int8_accuracy.py", "", ""))
    title = (
        f"Top-1 on {runs[0]['images']} photos that were not trained on, {options.image_size} x "
        f"{options.image_size}: mean of {len(runs)} runs (least to greatest); published: {SOURCE}"
    )
    return Table(title, ("model", "", "top-1", "published"), tuple(rows))


def bundle_table(bundles: list[dict[str, Any]]) -> Table:
    shares = ("checkpoint", "bundle", "agreement")
    rows = [
        (each["reuse"], each["tail"], *(f"{each[share]:.3f}" for share in shares))
        for each in bundles
    ]
    columns = ("bundle", "tail", "top-1 of the checkpoint", "top-1 of the bundle", "agreement")
    title = (
        "The first run's models, two tails on one prefix, as the bundles that trtkit built (fp16)"
    )
    return Table(title, columns, tuple(rows))


def latency_table(options: argparse.Namespace, samples: Samples) -> Table:
    rows = []
    for reuse in REUSES:
        whole, reused = labels(reuse)
        for kind in ("compute", "end to end"):
            before, after = samples[f"{whole}, {kind}"], samples[f"{reused}, {kind}"]
            saved = [100 * (1 - b / a) for a, b in zip(before, after, strict=True)]
            times = [[1e3 * s / options.photos for s in taken] for taken in (before, after)]
            cells = (*(with_spread(each, 1) for each in times), with_spread(saved, 1))
            what = "end to end, cache off and warm" if kind == "end to end" else kind
            rows.append((reused, what, *cells))
    title = (
        f"Milliseconds an image at {LATENCY_SIZE} x {LATENCY_SIZE}, {options.precision}, batch 1: mean "
        f"of {options.rounds} rounds over {options.photos} photos (least to greatest)"
    )
    columns = ("model", "", "whole", "from feature maps", "saved (%)")
    return Table(title, columns, tuple(rows))


def targets(runs: list[dict[str, float]]) -> list[Target]:
    found = []
    for reuse in REUSES:
        points = [100 * (run[f"{reuse} retrained"] - run[reuse.expensive]) for run in runs]
        mean = statistics.fmean(points)
        by_run = " ".join(f"{value:+.1f}" for value in points)
        found.append(
            Target(
                f"{reuse} retrained against separately trained, top-1",
                "within 1 point",
                f"{mean:+.2f} points (by run: {by_run})",
                mean >= -1,
            )
        )
    return found


def main() -> None:
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument("--runs", type=positive, default=5, help="of all trainings, default 5")
    parser.add_argument("--epochs", type=positive, default=6, help="default 6")
    parser.add_argument("--retrain-epochs", type=positive, default=3, help="default 3")
    parser.add_argument("--lr", type=float, default=5e-4, help="default 0.0005")
    parser.add_argument("--image-size", type=positive, default=32, help="default 32")
    parser.add_argument("--count", type=positive, help="photos of a class; default: all")
    parser.add_argument("--photos", type=positive, default=16, help="for the latency, default 16")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    run(parser, measure)


if __name__ == "__main__":
    main()
