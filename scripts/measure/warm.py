"""Measure the warm cache end to end against the tail's compute alone.

warm: from the files' bytes to the best classes, every feature map in the cache.
tail alone: the tail's engine on the same feature maps, which are in memory, in the same batches.
off, cold: the same as warm without a cache, and with an empty one, until all of it is committed.

Every round is a fresh pass over all photos by each, in turns, in one process. Photos and cache lie
in the page cache of the system, as the rounds before have left them there.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

from common import Competitors, Outcome, argument_parser, at_most, in_turns, positive, run, timed
from subjects import Subject, classify, compute, in_batches, off, photos, warm

LIMIT = 1.05


def cold(subject: Subject, folder: Path, batch: int, root: Path) -> float:
    def fill(cache: Path) -> None:
        with subject.pipeline(cache) as pipeline:
            classify(pipeline, folder, batch)

    with tempfile.TemporaryDirectory(dir=root, prefix="cold-") as cache:
        return timed(partial(fill, Path(cache)))


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    folder = photos(root, options.photos)
    subject = Subject.make(root, options.model, options.cut, options.precision)
    maps = subject.maps(in_batches(subject.images(folder), options.batch))
    title = (
        f"{options.model}, cut {options.cut}, {options.precision}, {options.photos} photos, "
        f"batch {options.batch}"
    )
    with (
        tempfile.TemporaryDirectory(dir=root, prefix="warm-") as cache,
        subject.pipeline(Path(cache)) as cached,
    ):
        classify(cached, folder, options.batch)
        competitors: Competitors = {
            "tail alone": compute(subject.chain.from_features, maps),
            "warm": partial(warm, cached, folder, options.batch),
            "off": partial(off, subject.pipeline(), folder, options.batch),
            "cold": partial(cold, subject, folder, options.batch, root),
        }
        samples = in_turns(competitors, options.rounds, title=title)
    ratios = outcome.add_timing(f"{title}, one pass", samples, "tail alone")
    what = f"Warm cache, end to end, against the tail's compute alone, {title}"
    outcome.targets.append(at_most(what, LIMIT, ratios["warm"]))
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument("--model", default="resnet152", help="architecture, default resnet152")
    parser.add_argument("--cut", type=positive, default=7, help="default 7")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    parser.add_argument("--photos", type=positive, default=64, help="default 64")
    parser.add_argument("--batch", type=positive, default=8, help="default 8")
    run(parser, measure)


if __name__ == "__main__":
    main()
