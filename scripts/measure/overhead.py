"""Measure what `trtkit bench` itself adds to what it measures.

An engine that does nothing is measured as every competitor is, in a process of its own. What is found
for it is the overhead in every figure: the clock, the call, the checks around it. Beside it stands a
round of the smallest real work, ResNet-18 at 32 x 32, one photo at a time.
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from common import Outcome, Table, argument_parser, at_most, positive, run
from subjects import bundle, photos

from trtkit.benchmark.protocol import ProtocolSettings, take_turns
from trtkit.benchmark.spec import COMPUTE, Spec
from trtkit.benchmark.worker import WorkerContestant
from trtkit.cpu import usable_cores


class Empty:
    """An engine that does nothing, for the worker to load."""

    note = ""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.images = len(spec["photos"])

    def before(self) -> None:
        return None

    def run(self) -> None:
        return None

    def labels(self) -> list[int]:
        return [0] * self.images

    def close(self) -> None:
        return None


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    paths = tuple(str(path) for path in sorted(photos(root, options.photos).glob("*.jpg")))
    spec = Spec(
        kind="trtkit",
        measure=COMPUTE,
        bundle=str(bundle(root, "resnet18", 2, "fp16", 32)),
        tail="resnet18-32",
        photos=paths,
        batch=1,
        threads=usable_cores(),
    ).to_json()
    # The worker, which inherits the path, imports it by its name.
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    empty = {**spec, "factory": f"{Path(__file__).stem}:Empty"}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(closing(WorkerContestant(name, each)))
            for name, each in (("resnet18 at 32 x 32", spec), ("empty engine", empty))
        ]
        turns = take_turns(contestants, ProtocolSettings.fixed(options.rounds))
    rows = []
    for name, seconds in turns.samples.items():
        median = statistics.median(seconds)
        rows.append((name, f"{1e6 * median:,.1f}", f"{1e6 * max(seconds):,.1f}"))
    title = f"A round of {options.photos} photos, microseconds, {turns.rounds} rounds"
    outcome.tables.append(Table(title, ("", "median", "greatest"), tuple(rows)))
    outcome.data["samples"] = turns.samples
    shares = [
        nothing / work
        for nothing, work in zip(
            turns.samples["empty engine"], turns.samples["resnet18 at 32 x 32"], strict=True
        )
    ]
    outcome.targets.append(
        at_most("bench's own overhead in what it measures", 1, 100 * statistics.median(shares), "%")
    )
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=50)
    parser.add_argument("--photos", type=positive, default=8, help="default 8")
    run(parser, measure)


if __name__ == "__main__":
    main()
