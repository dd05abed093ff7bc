"""Measure whether two runs of `trtkit bench` on one machine tell the same.

The same contest is held twice, as often as asked for, every competitor in a new process each time:
a small ResNet-18, unsplit on ONNX Runtime and as a bundle. Counted is how often the two intervals of
the ratio have a value in common. Each is to hold the true median with a confidence of 95 %, so two of
them overlap more often than that, if rounds are as independent as they assume.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from common import Outcome, Table, Target, argument_parser, positive, progress, run
from subjects import bundle, photos

from trtkit.benchmark.protocol import ProtocolSettings, take_turns
from trtkit.benchmark.spec import COMPUTE, Spec
from trtkit.benchmark.statistics import Interval, ratio_interval
from trtkit.benchmark.worker import WorkerContestant
from trtkit.cpu import usable_cores

BASELINE, OWN = "onnxruntime", "trtkit"


def contest(spec: Spec, settings: ProtocolSettings) -> Interval:
    """Images per second of the bundle to the unsplit model's."""
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(closing(WorkerContestant(kind, replace(spec, kind=kind).to_json())))
            for kind in (BASELINE, OWN)
        ]
        turns = take_turns(contestants, settings)
    return ratio_interval(turns.samples[BASELINE], turns.samples[OWN])


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    spec = Spec(
        kind=OWN,
        measure=COMPUTE,
        bundle=str(bundle(root, "resnet18", 2, "fp16", options.image_size)),
        tail=f"resnet18-{options.image_size}",
        photos=tuple(str(path) for path in sorted(photos(root, options.photos).glob("*.jpg"))),
        batch=1,
        threads=usable_cores(),
    )
    settings = ProtocolSettings(seconds=options.seconds)
    pairs = []
    for repeat in range(options.rounds):
        pairs.append((contest(spec, settings), contest(spec, settings)))
        progress(f"repeat {repeat + 1} of {options.rounds}: {pairs[-1]}")
    overlapping = sum(first.overlaps(second) for first, second in pairs)
    apart = [
        max(first.median, second.median) / min(first.median, second.median) - 1
        for first, second in pairs
    ]
    widths = [each.relative_width for pair in pairs for each in pair]
    rows = tuple(
        (what, f"{sorted(values)[len(values) // 2]:.2%}", f"{max(values):.2%}")
        for what, values in (("width of an interval", widths), ("medians apart", apart))
    )
    title = f"{len(pairs)} repeats of two runs, at most {options.seconds:g} s each"
    outcome.tables.append(Table(title, ("", "median", "greatest"), rows))
    outcome.data["pairs"] = [
        [[each.low, each.median, each.high] for each in pair] for pair in pairs
    ]
    outcome.targets.append(
        Target(
            "Two runs of bench: the ratios' intervals overlap",
            "at least 95 of 100",
            f"{overlapping} of {len(pairs)}",
            overlapping >= 0.95 * len(pairs),
        )
    )
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=100)
    parser.add_argument("--image-size", type=positive, default=64, help="default 64")
    parser.add_argument("--photos", type=positive, default=8, help="default 8")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a run, default 3")
    run(parser, measure)


if __name__ == "__main__":
    main()
