"""Compare the chain with torch: every architecture, split at every cut, fp32, real photos at 224.

Each cut's prefix and tail are written and loaded as `trtkit build` does it, run as a chain on all
photos at once, and their logits compared with those of torch's own network, run photo by photo.

Relative error: the largest absolute difference of a photo's logits divided by its largest absolute
reference logit, the worst photo. Same top-5: the same five classes in the same order. Photos where
they are not are counted, and how many of them are ties: torch itself puts the classes that changed
places within the error that is allowed. Cut 0 is the unsplit model, which is only reported.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from common import Outcome, Table, Target, argument_parser, positive, progress, run
from subjects import exported, photos

from trtkit.building.verification import LIMITS, compare
from trtkit.engines.base import StageBuild
from trtkit.engines.registry import get_backend
from trtkit.models.names import ARCHITECTURES
from trtkit.photos.images import load_image, read_file
from trtkit.preprocessing import Preprocessing
from trtkit.runtime.chain import Chain
from trtkit.tensors import Array
from trtkit.workspace import Workspace

TOP = 5
LIMIT = LIMITS["fp32"].relative_error


@dataclass(frozen=True)
class CutResult:
    """One cut against torch: `different` photos have another top 5, of which `ties` are ties.

    `gap` is how far apart torch puts two classes that changed places, at most, relative to the
    photo's largest logit.
    """

    cut: int
    relative_error: float
    different: int
    ties: int
    gap: float


def top_classes(logits: Array) -> Array:
    return np.argsort(-logits, axis=1, kind="stable")[:, :TOP]


def judge(cut: int, logits: Array, reference: Array) -> CutResult:
    error = compare(logits, reference, LIMITS["fp32"]).relative_error
    best, wanted = top_classes(logits), top_classes(reference)
    different = (best != wanted).any(axis=1)
    scale = np.abs(reference).max(axis=1)
    moved = np.take_along_axis(reference, best, 1) - np.take_along_axis(reference, wanted, 1)
    gaps = (np.abs(moved).max(axis=1) / scale)[different]
    ties = int((gaps <= LIMIT).sum())
    return CutResult(cut, error, int(different.sum()), ties, float(gaps.max(initial=0.0)))


def torch_logits(architecture: str, images: Array, preprocessing: Preprocessing) -> Array:
    from trtkit.graph.export import reference_logits
    from trtkit.models.weights import random

    return reference_logits(random(architecture).model, images, preprocessing)


def cut_results(
    export: Path, images: Array, reference: Array, scratch: Path
) -> Iterator[CutResult]:
    """The unsplit model, then every cut. Two engines at most are in memory at a time."""
    from trtkit.graph.boundaries import cut_points
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model
    from trtkit.graph.split import split

    backend = get_backend("onnxruntime")
    yield judge(0, Chain([backend.load(export)]).logits(images), reference)
    model = read_model(export)
    for point in cut_points(model, ModelCard.read_from(model, export.stem)):
        sides = split(model, point.tensor)
        prefix, tail = scratch / "prefix.onnx", scratch / "tail.onnx"
        here = prefix.parent
        backend.build(StageBuild("prefix", sides.prefix, "fp32", True, False), prefix, here)
        backend.build(StageBuild("tail", sides.tail, "fp32", False, True), tail, here)
        del sides
        chain = Chain([backend.load(prefix), backend.load(tail)])
        yield judge(point.cut, chain.logits(images), reference)
        del chain
        gc.collect()


def one_architecture(
    architecture: str, root: Path, images: Array, keep: bool
) -> tuple[list[CutResult], float]:
    """The results of all cuts, and how different the photos' logits are from each other.

    The latter is the median of |a - b| / max |a| over the photos: logits that hardly depend on the
    photo would prove little.
    """
    started = time.monotonic()
    export = Workspace(root).export_path(exported(root, architecture))
    reference = torch_logits(architecture, images, Preprocessing())
    variety = np.abs(reference - np.roll(reference, 1, axis=0)).max(axis=1)
    variety = variety / np.abs(reference).max(axis=1)
    with tempfile.TemporaryDirectory(dir=root, prefix="cuts-") as scratch:
        results = list(cut_results(export, images, reference, Path(scratch)))
    if not keep:
        export.unlink()
    worst = max(result.relative_error for result in results)
    seconds = time.monotonic() - started
    progress(f"{architecture}: {len(results) - 1} cuts, worst error {worst:.1e}, {seconds:.0f} s")
    return results, float(np.median(variety))


def table_row(architecture: str, results: list[CutResult], variety: float) -> tuple[str, ...]:
    unsplit, cuts = results[0], results[1:]
    worst = max(cuts, key=lambda result: result.relative_error)
    return (
        architecture,
        str(len(cuts)),
        f"{unsplit.relative_error:.1e}",
        f"{worst.relative_error:.1e}",
        str(worst.cut),
        str(sum(result.different for result in cuts)),
        str(sum(result.ties for result in cuts)),
        f"{max(result.gap for result in cuts):.1e}",
        f"{variety:.1e}",
    )


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    paths = sorted(photos(root, options.photos).glob("*.jpg"))
    images = np.stack([load_image(read_file(path), Preprocessing()) for path in paths])
    rows, data = [], {}
    cuts: list[CutResult] = []
    for architecture in options.architectures:
        results, variety = one_architecture(
            architecture, root, images, keep=options.workspace is not None
        )
        rows.append(table_row(architecture, results, variety))
        data[architecture] = {"variety": variety, "cuts": [asdict(result) for result in results]}
        cuts += results[1:]
    columns = (
        "", "cuts", "error unsplit", "worst error", "at cut", "other top 5", "of those ties",
        "widest gap", "between photos",
    )  # fmt: skip
    title = f"Chain against torch, fp32, {len(images)} real photos at 224 x 224"
    worst = max(result.relative_error for result in cuts)
    different = sum(result.different for result in cuts)
    ties = sum(result.ties for result in cuts)
    pairs = f"{len(rows)} architectures, {len(cuts)} cuts, {len(images)} photos"
    return Outcome(
        data={"photos": len(images), "limit": LIMIT, "architectures": data},
        tables=[Table(title, columns, tuple(rows))],
        targets=[
            Target(
                f"Chain against torch, relative error of the logits, {pairs}",
                f"at most {LIMIT:.0e}",
                f"{worst:.1e}",
                worst <= LIMIT,
            ),
            Target(
                f"Chain against torch, top 5, {pairs}",
                "the same five in the same order",
                f"{different} of {len(cuts) * len(images)} differ, {ties} of them are ties",
                different == ties,
            ),
        ],
    )


def main() -> None:
    parser = argument_parser(__doc__, rounds=None)
    parser.add_argument(
        "--architectures",
        nargs="+",
        choices=ARCHITECTURES,
        default=list(ARCHITECTURES),
        metavar="NAME",
        help="default: all",
    )
    parser.add_argument("--photos", type=positive, default=4, help="default 4")
    run(parser, measure)


if __name__ == "__main__":
    main()
