"""Measure training from stored feature maps against training through the frozen blocks, and waiting.

The tail of a ResNet-50 behind cut 13 trains on another training's frozen blocks: from the feature store,
as `trtkit train` does by itself, and with every photo decoded and run through those blocks in every
epoch (`--no-feature-store`), in turns. Both do the same otherwise: seeds, order, no augmentation. A
figure is the median epoch of a training. Accuracy is compared where training is long enough to learn.

Waiting is the share of the training steps' time in which the model waits for its inputs: of those
trainings, and of a ResNet-18 that is fine-tuned with augmentation on JPEG photos of 500 x 375, which
asks for them fastest.

    python scripts/measure/features.py --workspace DIR --json docs/results/features.json \\
        --markdown docs/results/features.md
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from pathlib import Path
from typing import Any

from common import Outcome, Samples, Table, Target, argument_parser, by_round, positive, run
from subjects import photos
from trainings import DATA, checkpoint, digits, trained, with_spread

MODEL, CUT = "resnet50", 13
# What a training from the store must be faster by, and the most that a model may wait.
FASTER, WAITING = 1.5, 0.10
KINDS = {"from the store": (), "through the frozen blocks": ("--no-feature-store",)}


def in_classes(root: Path, count: int) -> Path:
    """Crops of the real photos, each in the folder of the photo it is a crop of."""
    source, folder = photos(root, count), root / f"crops-{count}"
    for path in sorted(source.glob("*.jpg")):
        place = folder / path.stem.partition("-")[2]
        place.mkdir(parents=True, exist_ok=True)
        if not (place / path.name).exists():
            shutil.copy(path, place)
    return folder


def tails(
    root: Path, data: Path, size: int, epochs: int, rounds: int, lr: float
) -> dict[str, list[dict[str, Any]]]:
    """The metrics of both kinds of training, in turns."""
    options = ("--optimizer", "adamw", "--lr", lr, "--augmentation", "none")
    cheap = f"{MODEL}-{size}"
    trained(
        root, data, cheap, "--arch", MODEL, "--weights", "random", "--image-size", size,
        "--epochs", epochs, *options,
    )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for turn in range(rounds):
        kinds = list(KINDS) if turn % 2 == 0 else list(KINDS)[::-1]
        for kind in kinds:
            name = f"{MODEL}-{size}-{kind.replace(' ', '-')}-{turn}"
            metrics = trained(
                root, data, name, "--arch", MODEL, "--weights", "random", "--seed", turn + 1,
                "--prefix-from", checkpoint(root, cheap), "--cut", CUT, "--epochs", epochs,
                *options, *KINDS[kind],
            )  # fmt: skip
            found[kind].append(metrics)
    return found


def rates(trainings: list[dict[str, Any]]) -> list[float]:
    """Images per second: the median epoch of each training."""
    return [
        statistics.median(epoch["images_per_second"] for epoch in metrics["epochs"])
        for metrics in trainings
    ]


def waiting(trainings: list[dict[str, Any]]) -> list[float]:
    return [
        statistics.median(epoch["waited"] for epoch in metrics["epochs"]) for metrics in trainings
    ]


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome(data={"data": DATA, "cut": CUT, "trainings": {}})
    rows = []
    sizes = (
        (options.large_size, digits(root, count=options.large_count), options.large_epochs),
        (options.small_size, digits(root, count=options.count), options.epochs),
    )
    waited: Samples = {}
    for size, data, epochs in sizes:
        found = tails(root, data, size, epochs, options.rounds, options.lr)
        stored, through = (rates(found[kind]) for kind in KINDS)
        ratios = [a / b for a, b in zip(stored, through, strict=True)]
        top1 = [[each["epochs"][-1]["val_top1"] for each in found[kind]] for kind in KINDS]
        photos_trained = found["from the store"][0]["dataset"]["train"]
        rows.append(
            (f"{size} x {size}", str(photos_trained), with_spread(stored, 1),
             with_spread(through, 1), f"{statistics.median(ratios):.2f}", by_round(ratios),
             *(with_spread(each) for each in top1))
        )  # fmt: skip
        outcome.data["trainings"][str(size)] = {
            kind: {
                "images_per_second": rates(found[kind]),
                "top1": each,
                "waited": waiting(found[kind]),
            }
            for kind, each in zip(KINDS, top1, strict=True)
        }
        for kind in KINDS:
            waited[f"{MODEL} behind cut {CUT}, {size} x {size}, {kind}"] = waiting(found[kind])
        outcome.targets.append(
            Target(
                f"Epochs from the store to epochs through the frozen blocks, {MODEL} behind cut {CUT}, "
                f"{size} x {size}, images per second",
                f"at least {FASTER} times",
                f"{statistics.median(ratios):.2f} times",
                statistics.median(ratios) >= FASTER,
            )
        )
    columns = (
        "input", "photos", "from the store, images/s", "through the blocks, images/s", "times",
        by_round_title(), "top-1 from the store", "top-1 through the blocks",
    )  # fmt: skip
    title = f"{MODEL} behind cut {CUT}: mean of {options.rounds} trainings (least to greatest)"
    outcome.tables.append(Table(title, columns, tuple(rows)))
    crops = in_classes(root, options.photos)
    name = f"resnet18-{options.photos}-crops"
    tuned = trained(
        root, crops, name, "--arch", "resnet18", "--weights", "random", "--epochs", 2,
        "--augmentation", "standard",
    )  # fmt: skip
    waited["resnet18 fine-tuned at 224 x 224, augmented, photos of 500 x 375"] = [
        epoch["waited"] for epoch in tuned["epochs"]
    ]
    for what, shares in waited.items():
        share = statistics.median(shares)
        outcome.targets.append(
            Target(f"Waiting for inputs, {what}", "below 10%", f"{share:.1%}", share < WAITING)
        )
    outcome.data["waited"] = waited
    return outcome


def by_round_title() -> str:
    return "by training: p10, median, p90"


def main() -> None:
    parser = argument_parser(__doc__, rounds=3)
    parser.add_argument("--small-size", type=positive, default=32, help="where it learns, 32")
    parser.add_argument("--count", type=positive, help="photos of a class there; default: all")
    parser.add_argument("--epochs", type=positive, default=4, help="there, default 4")
    parser.add_argument("--large-size", type=positive, default=224, help="default 224")
    parser.add_argument("--large-count", type=positive, default=12, help="of a class, default 12")
    parser.add_argument("--large-epochs", type=positive, default=2, help="default 2")
    parser.add_argument("--lr", type=float, default=5e-4, help="default 0.0005")
    parser.add_argument("--photos", type=positive, default=200, help="crops, default 200")
    run(parser, measure)


if __name__ == "__main__":
    main()
