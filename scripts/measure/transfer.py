"""Reproduce the poster's two tables: how to adapt a model to other classes, and augmentation.

A model is trained on the digits 0 to 4, from random weights as there are no downloads here, and then
adapted to the digits 5 to 9 in each mode of `trtkit train`: everything fine-tuned, the head alone
behind frozen blocks, a logistic regression on the penultimate features; and the same modes with and
without augmentation (without mirroring, which makes other digits of some). Several runs with their own
seeds and splits. Accuracy is of photos that were not trained on, with the last epoch's weights; seconds
are those of training alone.

    python scripts/measure/transfer.py --workspace DIR --json docs/results/transfer.json \\
        --markdown docs/results/transfer.md
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import Outcome, Table, Target, argument_parser, positive, run
from trainings import DATA, digits, trained, with_spread

ARCHITECTURES = ("resnet18", "resnet50")
MODES = ("finetune", "freeze", "bottleneck")
VIEWS = 4


def adapted(
    options: argparse.Namespace, root: Path, architecture: str, number: int
) -> dict[str, dict[str, float]]:
    """Accuracy and seconds of every mode, with and without augmentation, for one run."""
    first, second = (digits(root, classes, options.count) for classes in ("0-4", "5-9"))
    seeds = ("--seed", number, "--split-seed", number)
    adam = ("--optimizer", "adamw", "--lr", options.lr)
    base = f"{architecture}-0to4-{number}"
    trained(
        root, first, base, "--arch", architecture, "--weights", "random", "--image-size",
        options.image_size, "--epochs", options.epochs, "--augmentation", "none", *adam, *seeds,
    )  # fmt: skip
    found = {}
    for mode in MODES:
        for augmented in (False, True):
            name = f"{architecture}-{mode}-{'augmented' if augmented else 'plain'}-{number}"
            given = ("--arch", architecture, "--mode", mode, "--weights", base, *seeds)
            given += augmentation(mode, augmented)
            if mode != "bottleneck":
                rate = (
                    adam
                    if mode == "finetune"
                    else ("--optimizer", "adamw", "--lr", options.head_lr)
                )
                given += ("--epochs", options.adapt_epochs, *rate)
            metrics = trained(root, second, name, *given)
            key = f"{mode}, {'augmented' if augmented else 'plain'}"
            found[key] = {"top1": last_top1(metrics), "seconds": seconds(metrics)}
    return found


def augmentation(mode: str, augmented: bool) -> tuple[object, ...]:
    """The options for it: behind frozen blocks a number of views, else a preset."""
    if not augmented:
        return ("--augmentation", "none")
    if mode == "finetune":
        return ("--augmentation", "light", "--no-flip")
    return ("--augmentation", "light", "--no-flip", "--augment", VIEWS)


def last_top1(metrics: dict[str, Any]) -> float:
    """Of the last epoch, which no validation photo chose; of the one fit where there are no epochs."""
    epochs = metrics["epochs"]
    return float(epochs[-1]["val_top1"] if epochs else metrics["top1"])


def seconds(metrics: dict[str, Any]) -> float:
    """Of training: the steps, and what comes before them where blocks are frozen, or the fit."""
    before = sum(part["seconds"] for part in (metrics["features"], metrics.get("fit")) if part)
    return float(before + sum(epoch["seconds"] for epoch in metrics["epochs"]))


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    runs = {
        architecture: [
            adapted(options, root, architecture, number) for number in range(options.runs)
        ]
        for architecture in options.architectures
    }
    outcome.data.update(data=DATA, image_size=options.image_size, runs=runs)
    rows = []
    for architecture, found in runs.items():
        for mode in MODES:
            cells = [
                with_spread([each[f"{mode}, {how}"]["top1"] for each in found])
                for how in ("plain", "augmented")
            ]
            seconds = with_spread([each[f"{mode}, plain"]["seconds"] for each in found], 1)
            rows.append((architecture, mode, *cells, seconds))
    title = (
        f"Top-1 on digits 5 to 9 of models of the digits 0 to 4, {options.image_size} x "
        f"{options.image_size}: mean of {options.runs} runs (least to greatest)"
    )
    columns = ("model", "mode", "without augmentation", "with augmentation", "seconds, without")
    outcome.tables.append(Table(title, columns, tuple(rows)))
    for architecture, found in runs.items():
        means = {key: sum(each[key]["top1"] for each in found) / len(found) for key in found[0]}
        outcome.targets.append(
            Target(
                f"{architecture}: fine-tuned against frozen, without augmentation",
                "reported",
                f"{100 * (means['finetune, plain'] - means['freeze, plain']):+.1f} points",
            )
        )
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=None)
    parser.add_argument("--architectures", nargs="+", default=list(ARCHITECTURES))
    parser.add_argument("--runs", type=positive, default=5, help="default 5")
    parser.add_argument("--epochs", type=positive, default=8, help="on 0 to 4, default 8")
    parser.add_argument("--adapt-epochs", type=positive, default=6, help="on 5 to 9, default 6")
    parser.add_argument("--lr", type=float, default=5e-4, help="default 0.0005")
    parser.add_argument("--head-lr", type=float, default=5e-3, help="of the head alone, 0.005")
    parser.add_argument("--image-size", type=positive, default=32, help="default 32")
    parser.add_argument("--count", type=positive, help="photos of a class; default: all")
    run(parser, measure)


if __name__ == "__main__":
    main()
