"""Measure what int8 costs in accuracy, with models that were trained on the digits.

Each architecture is trained from random weights on three of five of the digits. Of the other two one is
to calibrate on, with trtkit's own held-out photos among them, and one is the test, which neither training
nor calibrating saw; both are rendered several times, on other paper and in other ink. On the test the
bundles of fp32, fp16 and int8 are scored by `trtkit evaluate`, on ONNX Runtime. Beside them stands the
form of int8 that TensorRT is given, computed as its graph says, in fp32 between its pairs.

Agreement is the share of photos with the same best class as in fp32. `float`: the layers that trtkit keeps
float so that the held-out photos agree, and their share of the work.

    python scripts/measure/int8_accuracy.py --workspace DIR --json docs/results/int8-accuracy.json \\
        --markdown docs/results/int8-accuracy.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Outcome, Table, Target, argument_parser, positive, progress, run
from trainings import DATA, DIGITS_SCRIPT, PHOTO_SIZE, checkpoint, exported, trained

from trtkit.api.build import build
from trtkit.api.evaluate import evaluate
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.errors import TrtkitError
from trtkit.identity import file_digest
from trtkit.photos.images import load_image, read_file
from trtkit.tensors import Array
from trtkit.workspace import Workspace

ARCHITECTURES = ("resnet50", "resnet152", "vgg16")
# Without batch normalization a higher one leaves it where it began.
LEARNING_RATES = {"vgg16": 1e-4}
LEARNING_RATE = 5e-4
# Of five photos of a class: the parts that they go to.
PARTS = ("train", "train", "train", "calibration", "test")
FP32, FP16 = "fp32", "fp16"
OURS, NVIDIAS = "int8", "int8, TensorRT's form, as its graph says"
BATCH = 32


@dataclass(frozen=True)
class Score:
    """One form of a model on the test photos; `gate` is what its build says of int8, None for floats.

    `refused`: why there is no such bundle, and no figure then.
    """

    top1: float | None = None
    agreement: float | None = None
    error: float | None = None
    images: int = 0
    gate: dict[str, Any] | None = None
    refused: str | None = None


def digits_in_parts(root: Path, count: int | None, renderings: int) -> Path:
    """train/, calibration/ and test/ with class folders; in the latter two each digit several times."""
    folder = root / f"digits-in-parts{f'-{count}' if count else ''}-{renderings}"
    if folder.is_dir():
        return folder
    progress("Rendering the digits")
    with tempfile.TemporaryDirectory(dir=root, prefix="rendering-") as scratch:
        done = Path(scratch) / "parts"
        for seed in range(renderings):
            rendered = Path(scratch) / str(seed)
            command = [sys.executable, str(DIGITS_SCRIPT), str(rendered), "--seed", str(seed)]
            command += ["--size", str(PHOTO_SIZE), *(["--count", str(count)] if count else [])]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for label in sorted(rendered.iterdir()):
                for number, path in enumerate(sorted(label.iterdir())):
                    part = PARTS[number % len(PARTS)]
                    if part == "train" and seed:
                        continue
                    place = done / part / label.name
                    place.mkdir(parents=True, exist_ok=True)
                    path.rename(place / f"{path.stem}-{seed}.jpg")
        done.rename(folder)
    return folder


def model_of(options: argparse.Namespace, root: Path, data: Path, architecture: str) -> str:
    """The export of a model of that architecture, trained on the part for it."""
    lr = options.lr or LEARNING_RATES.get(architecture, LEARNING_RATE)
    trained(
        root, data / "train", f"{architecture}-int8", "--arch", architecture, "--weights", "random",
        "--image-size", options.image_size, "--epochs", options.epochs, "--optimizer", "adamw",
        "--lr", lr, "--weight-decay", 0.01, "--augmentation", "light", "--no-flip",
    )  # fmt: skip
    return exported(root, checkpoint(root, f"{architecture}-int8"), f"{architecture}-int8")


def scores_of(options: argparse.Namespace, root: Path, data: Path, name: str) -> dict[str, Score]:
    """All forms of an exported model on the test photos."""
    bundles, gate, refused = {}, None, None
    for precision in (FP32, FP16, OURS):
        progress(f"Building {name}, {precision}")
        try:
            bundles[precision], gate = built(options, root, data, name, precision)
        except TrtkitError as error:
            if precision != OURS:
                raise
            refused = str(error)
    report = evaluate(data / "test", bundles=list(bundles.values()), part="all", workspace=root)
    found = {}
    for precision, scored in zip(bundles, report.subjects, strict=True):
        found[precision] = Score(
            top1=scored.top1,
            agreement=scored.agreement,
            error=scored.logits_error,
            images=scored.images,
            gate=gate if precision == OURS else None,
        )
    if refused is not None:
        found[OURS] = Score(refused=refused)
    found[NVIDIAS] = as_its_graph_says(options, root, data, name)
    return found


def built(
    options: argparse.Namespace, root: Path, data: Path, name: str, precision: str
) -> tuple[Path, dict[str, Any] | None]:
    """The bundle's folder, and what its manifest says of int8."""
    int8: dict[str, Any] = {}
    if precision == OURS:
        int8 = {
            "calibration": data / "calibration",
            "calibration_images": options.images,
            "calibration_method": options.method,
            "min_agreement": options.min_agreement,
        }
    bundle = f"{name}-cut{options.cut}-{precision}"
    report = build(
        [name], cut=options.cut, precision=precision, backend="onnxruntime", bundle_name=bundle,
        workspace=root, **int8,
    )  # fmt: skip
    quantized = report.manifest.quantized
    return report.folder, None if quantized is None else quantized["models"][name]


def as_its_graph_says(options: argparse.Namespace, root: Path, data: Path, name: str) -> Score:
    """The form for TensorRT, as a build for it makes it, on ONNX Runtime without its int8 kernels."""
    from trtkit.building.sources import load_model
    from trtkit.graph.files import write_model
    from trtkit.graph.quantize import SYMMETRIC
    from trtkit.quantization.accuracy import relative_errors
    from trtkit.quantization.options import Int8Options
    from trtkit.quantization.quantizer import quantize_models

    place = Workspace(root)
    export = place.export_path(name)
    model = load_model(name, export)
    int8 = Int8Options(
        folder=data / "calibration", home=place.calibration, images=options.images,
        method=options.method, min_agreement=options.min_agreement,
    )  # fmt: skip
    progress(f"Quantizing {name} for TensorRT")
    with tempfile.TemporaryDirectory(dir=root, prefix="symmetric-") as scratch:
        try:
            made = quantize_models(
                [model], {name: file_digest(export)}, options.cut, SYMMETRIC, int8, Path(scratch),
            )  # fmt: skip
        except TrtkitError as error:
            return Score(refused=str(error))
        graph = Path(scratch) / "quantized.onnx"
        write_model(made.models[0].graph, graph)
        paths = sorted((data / "test").glob("*/*.jpg"))
        reference, logits = (logits_of(file, model, paths) for file in (export, graph))
    best, labels = logits.argmax(axis=1), [path.parent.name for path in paths]
    return Score(
        top1=float(np.mean([model.card.classes[place] for place in best] == np.array(labels))),
        agreement=float((best == reference.argmax(axis=1)).mean()),
        error=float(np.median(relative_errors(logits, reference))),
        images=len(paths),
        gate=made.record["models"][name],
    )


def logits_of(file: Path, model: Any, paths: list[Path]) -> Array:
    engine = OnnxRuntimeBackend(exact=True).load(file)
    image, output = engine.inputs[0].name, engine.outputs[0].name

    def parts() -> Iterator[Array]:
        for start in range(0, len(paths), BATCH):
            images = [
                load_image(read_file(path), model.card.preprocessing)
                for path in paths[start : start + BATCH]
            ]
            yield engine.run({image: np.stack(images)})[output].numpy()

    return np.concatenate(list(parts()))


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def table_row(name: str, form: str, score: Score) -> tuple[str, ...]:
    if score.refused is not None:
        return (name, form, "refused", *[""] * 5)
    error = "" if score.error is None else f"{score.error:.1e}"
    cells = (name, form, share(score.top1), share(score.agreement), error)
    gate = score.gate
    if gate is None:
        return (*cells, *[""] * 3)
    kept = f"{len(gate['kept'])} ({gate['kept_flops_share']:.1%})"
    held = f"{gate['agreement']:.2%} of {gate['images']}"
    top1 = "" if gate["top1"] is None else f"{gate['top1']:.2%} ({gate['reference_top1']:.2%})"
    return (*cells, kept, held, top1)


def target_of(name: str, form: str, score: Score, least: float) -> Target:
    kept = "" if score.gate is None else f", {len(score.gate['kept'])} layers float"
    return Target(
        f"{name}, {form}: photos with the best class of fp32",
        f"at least {least:.0%}",
        score.refused or f"{share(score.agreement)} of {score.images}{kept}",
        score.agreement is not None and score.agreement >= least,
    )


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    data = digits_in_parts(root, options.count, options.renderings)
    counts = {part: len(list((data / part).glob("*/*.jpg"))) for part in dict.fromkeys(PARTS)}
    outcome = Outcome(
        data={"data": DATA, "photos": counts, "image_size": options.image_size, "models": {}}
    )
    rows = []
    for architecture in options.architectures:
        name = model_of(options, root, data, architecture)
        scores = scores_of(options, root, data, name)
        rows += [table_row(architecture, form, score) for form, score in scores.items()]
        outcome.data["models"][architecture] = {
            form: asdict(score) for form, score in scores.items()
        }
        outcome.targets += [
            target_of(architecture, form, scores[form], options.min_agreement)
            for form in (OURS, NVIDIAS)
        ]
    columns = (
        "model", "form", "top-1", "agreement", "error of the logits", "float (of the work)",
        "held-out agreement", "held-out top-1 (fp32)",
    )  # fmt: skip
    size = options.image_size
    title = (
        f"{counts['test']} digits that neither training ({counts['train']}) nor calibrating "
        f"({min(options.images, counts['calibration'])} of {counts['calibration']}, {options.method}) saw, "
        f"{size} x {size}, cut {options.cut}"
    )
    outcome.tables.append(Table(title, columns, tuple(rows)))
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=None)
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=list(ARCHITECTURES),
        metavar="NAME",
        help=f"default {' '.join(ARCHITECTURES)}",
    )
    parser.add_argument("--epochs", type=positive, default=8, help="default 8")
    parser.add_argument("--lr", type=float, help="default 0.0005, vgg16 0.0001")
    parser.add_argument("--image-size", type=positive, default=64, help="default 64")
    parser.add_argument("--cut", type=positive, default=7, help="default 7")
    parser.add_argument("--count", type=positive, help="digits of a class; default: all")
    parser.add_argument(
        "--renderings", type=positive, default=3, help="of those not trained on, default 3"
    )
    parser.add_argument("--images", type=positive, default=512, help="to calibrate on, 512")
    parser.add_argument("--method", choices=("auto", "entropy", "max"), default="auto", help="auto")
    parser.add_argument("--min-agreement", type=float, default=0.99, help="default 0.99")
    run(parser, measure)


if __name__ == "__main__":
    main()
