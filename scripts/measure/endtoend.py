"""Measure a run end to end, cache off, against the sum of decoding alone and engines alone.

end to end: from the files' bytes to the best classes, as `trtkit infer --no-cache` does it.
decoding alone: the same files by the same threads ahead, as many, without an engine behind them.
engines alone: the chain on the prepared photos, which are in memory, in the same batches.

Every round is a pass over all photos by each, in turns, in one process. The files lie in the page
cache of the system. The sum is taken round by round.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from common import Competitors, Outcome, argument_parser, at_most, in_turns, positive, run, timed
from subjects import Subject, compute, in_batches, off, photos

from trtkit.photos.files import FoundImage, find_images
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

LIMIT = 1.1


def decode_all(folder: Path, preprocessing: Preprocessing, batch: int) -> None:
    def decode(found: FoundImage) -> Array:
        return load_image(read_file(found.path), preprocessing)

    workers = default_workers()
    for _ in ordered_map(decode, find_images([folder]), workers=workers, ahead=2 * batch + workers):
        pass


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    outcome = Outcome()
    folder = photos(root, options.photos)
    subject = Subject.make(root, options.model, options.cut, options.precision)
    preprocessing = subject.manifest.preprocessing
    batches = in_batches(subject.images(folder), options.batch)
    title = (
        f"{options.model}, cut {options.cut}, {options.precision}, {options.photos} JPEG photos, "
        f"batch {options.batch}"
    )
    competitors: Competitors = {
        "decoding alone": partial(timed, partial(decode_all, folder, preprocessing, options.batch)),
        "engines alone": compute(subject.chain.logits, batches),
        "end to end": partial(off, subject.pipeline(), folder, options.batch),
    }
    samples = in_turns(competitors, options.rounds, title=title)
    pairs = zip(samples["decoding alone"], samples["engines alone"], strict=True)
    samples["sum"] = [decoding + engines for decoding, engines in pairs]
    ratios = outcome.add_timing(f"{title}, one pass", samples, "sum")
    what = f"End to end, cache off, against decoding alone plus engines alone, {title}"
    outcome.targets.append(at_most(what, LIMIT, ratios["end to end"]))
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument("--model", default="resnet50", help="architecture, default resnet50")
    parser.add_argument("--cut", type=int, default=7, help="default 7; 0: not split")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="fp16")
    parser.add_argument("--photos", type=positive, default=500, help="default 500")
    parser.add_argument("--batch", type=positive, default=8, help="default 8")
    run(parser, measure)


if __name__ == "__main__":
    main()
