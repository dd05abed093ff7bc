"""Measure the chain of prefix and tail against the unsplit model on the same backend.

Compute only: prepared photos in memory to logits, without the cache. The chain's engines and the
unsplit model's are loaded in one process, which belongs to trtkit as the command line's does, and
run in turns. A second copy of the unsplit model runs along: how far its ratio is from 1 is what
this machine cannot tell apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import Outcome, argument_parser, at_most, in_turns, positive, run
from subjects import Subject, compute, photos

LIMIT = 1.02


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    folder = photos(root, max(options.batch))
    for precision in options.precision:
        subjects = {
            "unsplit": Subject.make(root, options.model, 0, precision),
            "chain": Subject.make(root, options.model, options.cut, precision),
            "unsplit again": Subject.make(root, options.model, 0, precision),
        }
        for batch in options.batch:
            title = f"{options.model}, cut {options.cut}, {precision}, batch {batch}"
            images = subjects["unsplit"].images(folder, batch)
            competitors = {
                name: compute(subject.chain.logits, [images]) for name, subject in subjects.items()
            }
            samples = in_turns(competitors, options.rounds, title=title, warmups=2)
            ratios = outcome.add_timing(f"{title}, one run", samples, "unsplit")
            what = f"Chain (cache off) against the unsplit model, compute, {title}"
            outcome.targets.append(at_most(what, LIMIT, ratios["chain"]))
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=30)
    parser.add_argument("--model", default="resnet152", help="architecture, default resnet152")
    parser.add_argument("--cut", type=positive, default=7, help="default 7")
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8], help="default 1 8")
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "fp16"), default=["fp32", "fp16"], help="both"
    )
    run(parser, measure)


if __name__ == "__main__":
    main()
