"""Measure bundles against every baseline of this machine, for the record.

Exports and builds each model, runs `trtkit bench` on them, and keeps what it writes: its JSON, a picture
and a page. Beside the ratios that are measured here stand those of the poster that trtkit comes from, a
transfer-learned classifier on TensorRT against the CPU and against a plain GPU. They are of a GPU:
without one their cells stay empty.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import Outcome, Table, Target, argument_parser, positive, run
from subjects import bundle, photos, trtkit

# The cut of each model: ResNets where the published reuse is, VGG in its middle.
CUTS = {"resnet18": 4, "resnet50": 7, "resnet152": 7, "vgg16": 7}
PRECISIONS = ("fp32", "fp16", "int8")
# What, against which baseline, and how many times as fast the poster's is.
PUBLISHED = (
    ("end to end", "torch", 30.0),
    ("end to end", "torch-cuda", 1.7),
    ("compute", "torch-cuda", 3.0),
)


def figures(contest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those that were measured, by competitor."""
    return {
        figure["competitor"]: figure
        for figure in contest["figures"]
        if figure["images_per_second"] is not None
    }


def own(contest: Mapping[str, Any], cache: str) -> dict[str, dict[str, Any]]:
    """trtkit's figures, by competitor: with the cache in that state end to end, all of compute."""
    return {
        name: figure
        for name, figure in figures(contest).items()
        if name.startswith("trtkit") and (contest["measure"] == "compute" or name.endswith(cache))
    }


def add_ratios(report: Mapping[str, Any], outcome: Outcome) -> None:
    rows = []
    for contest in report["contests"]:
        for cache in ("off", "warm") if contest["measure"] == "end to end" else ("off",):
            for name, mine in own(contest, f"cache {cache}").items():
                cells = [
                    f"{other} {mine['images_per_second'] / figure['images_per_second']:.2f}"
                    for other, figure in figures(contest).items()
                    if not other.startswith("trtkit")
                ]
                rows.append(
                    (
                        contest["tail"], contest["measure"], str(contest["batch"]),
                        name.removeprefix("trtkit "), f"{mine['images_per_second']:.1f}",
                        "" if mine["agreement"] is None else f"{mine['agreement']:.0%}", ", ".join(cells),
                    )
                )  # fmt: skip
    columns = ("model", "measure", "batch", "trtkit", "images/s", "agreement", "times as fast as")
    outcome.tables.append(Table("trtkit against the baselines, medians", columns, tuple(rows)))


def add_published(report: Mapping[str, Any], outcome: Outcome) -> None:
    """The poster's ratios; empty where the baseline or a GPU is missing."""
    on_gpu = bool(report["machine"]["gpus"])
    for measure, baseline, published in PUBLISHED:
        found = []
        for contest in report["contests"]:
            base = figures(contest).get(baseline)
            if not on_gpu or contest["measure"] != measure or base is None:
                continue
            for name, mine in own(contest, "cache off").items():
                times = mine["images_per_second"] / base["images_per_second"]
                found.append(f"{contest['tail']} batch {contest['batch']}, {name}: {times:.2f}")
        what = f"TensorRT to {baseline}, {measure}"
        outcome.targets.append(
            Target(what, f"beside {published:g} times published", ", ".join(found))
        )


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    names = [
        bundle(root, model, CUTS[model], precision).name
        for model in options.models
        for precision in options.precisions
    ]
    given: list[object] = []
    for name in names:
        given += ["--bundle", name]
    for batch in options.batches:
        given += ["--batch", batch]
    if options.plot is not None:
        given += ["--plot", options.plot]
    if options.report is not None:
        given += ["--report", options.report]
    printed = trtkit(
        "bench", photos(root, options.photos), *given, "--photos", options.photos,
        "--seconds", options.seconds, "--json", "--workspace", root,
    )  # fmt: skip
    report = json.loads(printed)
    add_ratios(report, outcome)
    add_published(report, outcome)
    outcome.data["bench"] = report
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=None)
    parser.add_argument("--models", nargs="+", choices=list(CUTS), default=list(CUTS), help="all")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=["fp32", "int8"],
        help="fp32 and int8",
    )
    parser.add_argument("--batches", type=positive, nargs="+", default=[1, 8], help="1 and 8")
    parser.add_argument("--photos", type=positive, default=8, help="of a round, default 8")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a contest, default 60")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="bench's picture")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="bench's page")
    run(parser, measure)


if __name__ == "__main__":
    main()
