"""Measure video search: how much of it questions find, what they cost, how fast footage is indexed.

A clip of moving digits is rendered, a cheap and an expensive model are trained on other digits, the
expensive one on the cheap one's frozen prefix, and both are built into one bundle with embeddings.

ingest: the clip into a store, against the clip's own length; one process, all cores.

questions: the store is tuned, and every class is asked for. Found is compared with what the expensive
model says of every object that was cut out, and with the rendered truth. Timed, in turns, are

  everything   the whole expensive model on the picture of every object, once for a question
  candidates   the same on the candidates alone, which is the baseline of Focus (Hsieh et al., OSDI 2018)
  feature maps the expensive tail on the candidates' stored feature maps (Shen et al., arXiv:2212.06905)
  clusters     the same on one object of each cluster of candidates: `trtkit query`, nothing remembered
  remembered   `trtkit query` once more, every verdict remembered

first: seconds until `trtkit query`, in a new process, has its first appearance, in a store of 100,000
objects: copies of those of the clip at other times. Loading the expensive tail is in it, starting Python
and importing are not. In turns with graphs that ONNX Runtime optimised before, as a build keeps them, and
without.

kills: an ingest is killed at random moments and started again until it was killed so often and came to
its end; its store is compared with that of an ingest that was left alone.

    python scripts/measure/video.py --workspace DIR --json docs/results/video.json \\
        --markdown docs/results/video.md
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from common import Outcome, Table, Target, argument_parser, positive, progress, run
from video_first import first
from video_kills import kills
from video_questions import questions
from video_subjects import bundle, clip, ingested


def ingest(options: argparse.Namespace, root: Path, outcome: Outcome) -> None:
    video, rates = clip(options, root), []
    for turn in range(options.ingests):
        shutil.rmtree(root / "store", ignore_errors=True)
        report = ingested(root, video, root / "store", "--top", options.top)
        rates.append(report["times_real_time"])
        progress(f"ingest {turn + 1} of {options.ingests}: {rates[-1]:.2f} times real time")
    outcome.data["ingest"] = {**report, "times_real_time": rates}
    rate = statistics.median(rates)
    outcome.targets.append(
        Target(
            f"ingest of {options.size}, 30 frames/s, prefix of {options.cheap} at {options.image_size}",
            "faster than real time",
            f"{rate:.2f} times real time ({min(rates):.2f} to {max(rates):.2f})",
            rate > 1,
        )
    )
    rows = [
        (key, str(report[key])) for key in ("frames", "objects", "sightings", "map_bytes", "gaps")
    ]
    outcome.tables.append(Table("The ingested clip", ("", "number"), tuple(rows)))


Part = Callable[[argparse.Namespace, Path, Outcome], None]
PARTS: dict[str, Part] = {"ingest": ingest, "questions": questions, "first": first, "kills": kills}


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome(
        data={"cheap": options.cheap, "expensive": options.expensive, "cut": options.cut}
    )
    bundle(options, root)
    for part, measured in PARTS.items():
        if part in options.parts:
            measured(options, root, outcome)
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all")
    parser.add_argument("--cheap", default="resnet18", help="architecture, default resnet18")
    parser.add_argument("--expensive", default="resnet34", help="architecture, default resnet34")
    parser.add_argument("--cut", type=positive, default=2, help="that they share, default 2")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    parser.add_argument("--image-size", type=positive, default=64, help="default 64")
    parser.add_argument(
        "--crops", type=positive, default=300, help="to train with, of a class, 300"
    )
    parser.add_argument("--epochs", type=positive, default=8, help="default 8")
    parser.add_argument("--seconds", type=float, default=600, help="of the clip, default 600")
    parser.add_argument("--size", default="1280x720", help="of the clip, default 1280x720")
    parser.add_argument("--density", type=float, default=0.8, help="objects a second, 0.8")
    parser.add_argument("--top", type=positive, default=8, help="classes indexed of an object, 8")
    parser.add_argument("--sample", type=positive, default=4000, help="to tune with, default 4000")
    parser.add_argument("--reached", type=float, default=0.99, help="recall and precision, 0.99")
    parser.add_argument(
        "--untuned",
        action="store_true",
        help="of all classes indexed, on feature maps alone: for models that were hardly trained",
    )
    parser.add_argument("--asked", type=positive, default=10, help="classes asked for in time, 10")
    parser.add_argument("--objects", type=positive, default=100_000, help="of first, 100000")
    parser.add_argument("--ingests", type=positive, default=3, help="times it is ingested, 3")
    parser.add_argument("--kills", type=positive, default=100, help="default 100")
    run(parser, measure)


if __name__ == "__main__":
    main()
