"""Measure int8 of one model: speed, bytes of its feature maps, engines of TensorRT for RTX.

speed: a batch on one thread of this processor, of the engine files that trtkit builds for fp32 and int8,
and of the other forms that the same ranges allow, in turns. 7-bit weights are for processors without
VNNI, which add products in 16 bits; signed activations lie where the kernels want them, but as int8;
NVIDIA's form is what TensorRT is given.

bytes: the feature map at a cut, as the engines hand it over and as the cache keeps it with its header, of
real photos; those of fp32 are kept as fp32 here, where the cache by default makes fp16 of them.

rtx: whether TensorRT for RTX, where it is installed, takes the int8 graphs, and what it makes of them. On
a card that it runs on its inspector tells, elsewhere the network that its parser read.

The bundles are built with --min-agreement 0, so that every layer is int8, as no accuracy is measured here
(int8_accuracy.py does that). Weights are random if no --checkpoint is given: speed does not depend on
them, but zeros and what a codec gains do.

    python scripts/measure/int8.py --workspace DIR --json docs/results/int8.json \\
        --markdown docs/results/int8.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import Outcome, Table, Target, argument_parser, in_turns, positive, progress, run, timed
from subjects import (
    INT8_PHOTOS,
    Subject,
    all_int8,
    calibration_photos,
    exported,
    in_batches,
    photos,
    trtkit,
)
from trainings import exported as exported_checkpoint

from trtkit.bundle import Manifest, read_manifest
from trtkit.costs.caching import entry_bytes
from trtkit.engines.registry import can_build
from trtkit.photos.images import load_image, read_file
from trtkit.store.cache import CacheOptions
from trtkit.workspace import Workspace

FASTER = 3.0
MAP_BYTES = 402_000
BASE, OURS = "fp32, as trtkit builds it", "int8, as trtkit builds it"
CODECS = ("none", "lz4", "zstd")
PRECISIONS = ("int8", "fp16", "fp32")
# Convolutions in a graph that ONNX Runtime optimized, by what they compute in.
INT8_CONV, FLOAT_CONV = ("QLinearConv", "ConvInteger"), ("Conv", "FusedConv")


@dataclass(frozen=True)
class Model:
    """The exported model that is measured, and the photos that its bundles are calibrated on."""

    name: str
    root: Path
    calibration: Path
    images: int

    def bundle(self, cut: int, precision: str, backend: str = "onnxruntime") -> Path:
        """The folder of its bundle; built unless it is there and up to date."""
        built = f"{self.name}-cut{cut}-{precision}-{backend}"
        progress(f"Building {built}")
        int8 = all_int8(self.calibration, self.images) if precision == "int8" else ()
        trtkit(
            "build", self.name, "--cut", cut, f"--{precision}", "--backend", backend, "--bundle", built,
            "--workspace", self.root, *int8,
        )  # fmt: skip
        return Workspace(self.root).engines / built


# Speed


def speed(model: Model, options: argparse.Namespace, outcome: Outcome) -> None:
    files = {BASE: engine_file(model.bundle(0, "fp32")), OURS: engine_file(model.bundle(0, "int8"))}
    with tempfile.TemporaryDirectory(dir=model.root, prefix="forms-") as scratch:
        place = Path(scratch)
        files.update(other_forms(model, place))
        size = options.image_size
        images = prepared(photos(model.root, options.batch), read_manifest(files[BASE].parent))
        sessions, kernels, logits, competitors = {}, {}, {}, {}
        for name, file in files.items():
            sessions[name] = session(file, place / "optimized.onnx")
            kernels[name] = convolutions(place / "optimized.onnx")
            feed = {sessions[name].get_inputs()[0].name: images}
            logits[name] = sessions[name].run(None, feed)[0]
            competitors[name] = partial(timed, partial(sessions[name].run, None, feed))
        title = f"{model.name} at {size} x {size}, batch {options.batch}, one thread"
        samples = in_turns(competitors, options.rounds, title=title)
        sizes = {name: file.stat().st_size for name, file in files.items()}
    ratios = outcome.add_timing(f"{title}, one batch", samples, BASE)
    rows = form_rows(ratios, kernels, logits, sizes)
    columns = ("", "times as fast", "convolutions in int8", "error of the logits", "MB")
    vnni = "has" if has_vnni() else "does not have"
    outcome.tables.append(Table(f"{title}: this processor {vnni} VNNI", columns, rows))
    outcome.targets.append(
        Target(
            f"int8 against fp32, {title}",
            f"at least {FASTER:g} times as fast",
            f"{1 / ratios[OURS]:.2f} times",
            1 / ratios[OURS] >= FASTER,
        )
    )
    outcome.data["forms"] = {"vnni": has_vnni(), "convolutions": kernels, "file_bytes": sizes}


def engine_file(folder: Path) -> Path:
    (stage,) = read_manifest(folder).stages
    return folder / stage.file


def other_forms(model: Model, place: Path) -> dict[str, Path]:
    """Graphs in the forms that trtkit does not build for this processor, of the bundle's ranges."""
    from trtkit.building.sources import load_model
    from trtkit.graph.files import write_model
    from trtkit.graph.precision import name_nodes
    from trtkit.graph.quantize import (
        REDUCED_MAX,
        SYMMETRIC,
        UNSIGNED,
        kernel_edges,
        quantize_graph,
    )
    from trtkit.quantization.ranges import ranges_path, read_ranges

    workspace = Workspace(model.root)
    ranges, why = read_ranges(ranges_path(workspace.calibration, model.name))
    if ranges is None:
        raise RuntimeError(f"The build of int8 left no ranges of {model.name}: {why}")
    graph = load_model(model.name, workspace.export_path(model.name)).graph
    name_nodes(graph.graph)
    forms = {
        "int8, 7-bit weights": replace(UNSIGNED, weight_max=REDUCED_MAX),
        "int8, signed activations": replace(SYMMETRIC, own_placement=True, stored=True),
        "int8, NVIDIA's form": SYMMETRIC,
    }
    found = {}
    for number, (name, form) in enumerate(forms.items()):
        edges = kernel_edges(graph.graph) if form.own_placement else ranges.edges
        found[name] = place / f"form-{number}.onnx"
        write_model(quantize_graph(graph, ranges.ranges, edges, form)[0], found[name])
    return found


def session(file: Path, optimized: Path) -> Any:
    """On one thread of its own; writes the graph that it made of the file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def convolutions(optimized: Path) -> tuple[int, int]:
    """How many convolutions are computed in int8, and how many there are."""
    import onnx

    kinds = Counter(node.op_type for node in onnx.load(optimized).graph.node)
    int8, floats = (sum(kinds[kind] for kind in each) for each in (INT8_CONV, FLOAT_CONV))
    return int8, int8 + floats


def form_rows(
    ratios: dict[str, float],
    kernels: dict[str, tuple[int, int]],
    logits: dict[str, Any],
    sizes: dict[str, int],
) -> tuple[tuple[str, ...], ...]:
    from trtkit.quantization.accuracy import relative_errors

    rows = []
    for name, ratio in ratios.items():
        int8, convs = kernels[name]
        error = float(np.median(relative_errors(logits[name], logits[BASE])))
        size = f"{sizes[name] / 1e6:.1f}"
        rows.append((name, f"{1 / ratio:.2f}", f"{int8} of {convs}", f"{error:.1e}", size))
    return tuple(rows)


def prepared(folder: Path, manifest: Manifest) -> Any:
    """The photos of a folder as the engines take them: uint8 N x H x W x 3."""
    paths = sorted(folder.glob("*.jpg"))
    return np.stack([load_image(read_file(path), manifest.preprocessing) for path in paths])


def has_vnni() -> bool:
    """Whether the processor multiplies int8 without adding in 16 bits; False where nothing says."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool(words & {"avx512_vnni", "avx_vnni"})


# Bytes


def feature_bytes(model: Model, options: argparse.Namespace, outcome: Outcome) -> None:
    folder = photos(model.root, options.photos)
    rows, found = [], {}
    for precision in PRECISIONS:
        subject = Subject.load(model.bundle(options.cut, precision))
        batches = in_batches(subject.images(folder), options.batch)
        maps = [np.asarray(each) for batch in subject.maps(batches) for each in batch]
        found[precision] = of_maps(maps, zero_of(subject.manifest))
        rows.append(map_row(precision, found[precision]))
    where = f"{model.name} at {options.image_size} x {options.image_size}, cut {options.cut}"
    kept = tuple(f"in the cache, {codec}" for codec in CODECS)
    columns = ("bundle", "kept as", "bytes", "zeros", *kept)
    title = f"Bytes of a feature map, {where}: means of {options.photos} photos (times smaller)"
    outcome.tables.append(Table(title, columns, tuple(rows)))
    outcome.data["feature_maps"] = found
    measured = found["int8"]["bytes"]
    outcome.targets.append(
        Target(
            f"Feature map of int8 before any codec, {where}",
            f"at most {MAP_BYTES:,} bytes",
            f"{measured:,.0f} bytes of {found['int8']['dtype']}",
            measured <= MAP_BYTES,
        )
    )


def zero_of(manifest: Manifest) -> float:
    """The value that stands for zero in the feature maps."""
    boundary = (manifest.quantized or {}).get("boundary")
    return float(boundary["zero"]) if boundary else 0.0


def of_maps(maps: list[Any], zero: float) -> dict[str, Any]:
    """Bytes of a map, its zeros (0 to 1), and the mean bytes that the cache keeps, by codec."""
    dtype = "fp32" if maps[0].dtype == np.float32 else "fp16"
    kept = {
        codec: statistics.fmean(
            entry_bytes(each, CacheOptions(dtype=dtype, codec=codec)) for each in maps
        )
        for codec in CODECS
    }
    zeros = statistics.fmean(float((each == zero).mean()) for each in maps)
    return {"dtype": maps[0].dtype.name, "bytes": maps[0].nbytes, "zeros": zeros, "kept": kept}


def map_row(precision: str, found: dict[str, Any]) -> tuple[str, ...]:
    plain = found["kept"]["none"]
    kept = (f"{size:,.0f} ({plain / size:.2f})" for size in found["kept"].values())
    return (precision, found["dtype"], f"{found['bytes']:,}", f"{found['zeros']:.1%}", *kept)


# TensorRT for RTX


def rtx(model: Model, options: argparse.Namespace, outcome: Outcome) -> None:
    if not can_build("tensorrt-rtx"):
        progress("TensorRT for RTX is not installed: its engines are left out")
        return
    manifest = read_manifest(folder := model.bundle(options.cut, "int8", "tensorrt-rtx"))
    rows, data, missing = [], {}, 0
    for stage in manifest.stages:
        quantized, heavy = heavy_layers(folder / str(stage.source))
        inspected = stage.engine["inspector"]
        counts = inspected or stage.engine["network"]
        missing += max(0, quantized - counts["int8"])
        by = "inspector" if inspected else "parsed network"
        ends = f"{stage.inputs[0].dtype} to {stage.outputs[0].dtype}"
        found = [str(counts[name]) for name in ("int8", "fp16", "fp32", "unknown")]
        seconds = f"{stage.engine['build_seconds']:.1f}"
        rows.append((stage.name, ends, f"{quantized} of {heavy}", *found, by, seconds))
        data[stage.name] = {"quantized": quantized, "heavy": heavy, "engine": stage.engine}
    where = f"{model.name} at {options.image_size} x {options.image_size}, cut {options.cut}"
    columns = (
        "engine", "takes and gives", "quantized in the graph", "int8", "fp16", "fp32", "unknown", "by",
        "build, s",
    )  # fmt: skip
    title = (
        f"Convolutions and matrix products in the int8 engines of {manifest.backend} "
        f"{manifest.backend_version}, {where}"
    )
    outcome.tables.append(Table(title, columns, tuple(rows)))
    outcome.data["rtx"] = {"stages": data, "unverified": manifest.unverified}
    boundary = manifest.stages[0].outputs[0].dtype
    outcome.targets += [
        Target(
            f"Quantized layers that TensorRT for RTX has in int8, {where}",
            "all, in engines that build",
            f"built, {missing} are not",
            missing == 0,
        ),
        Target(f"Feature map at the cut, {where}", "int8", boundary, boundary == "int8"),
    ]


def heavy_layers(source: Path) -> tuple[int, int]:
    """Of a stage's graph the heavy layers whose values come out of a pair, and all of them."""
    from trtkit.graph.files import read_model
    from trtkit.graph.precision import HEAVY
    from trtkit.graph.values import producers

    nodes = read_model(source).graph.node
    made_by = producers(nodes)
    heavy = [node for node in nodes if node.op_type in HEAVY]
    pairs = [
        node
        for node in heavy
        if node.input[0] in made_by and made_by[node.input[0]].op_type == "DequantizeLinear"
    ]
    return len(pairs), len(heavy)


# ONNX Runtime makes no sessions with threads of their own once trtkit's engines share some, so that
# speed comes first.
Part = Callable[[Model, argparse.Namespace, Outcome], None]
PARTS: dict[str, Part] = {
    "speed": speed,
    "bytes": feature_bytes,
    "rtx": rtx,
}


def measure(options: argparse.Namespace, root: Path) -> Outcome:
    if options.checkpoint is None:
        name = exported(root, options.model, options.image_size)
    else:
        name = f"{options.checkpoint.parent.name}-{options.image_size}"
        name = exported_checkpoint(root, options.checkpoint, name, options.image_size)
    folder = calibration_photos(root, options.images)
    model = Model(name, root, folder, options.images)
    weights = str(options.checkpoint.name) if options.checkpoint else "random"
    outcome = Outcome(data={"model": name, "weights": weights, "calibrated_on": options.images})
    for part, measured in PARTS.items():
        if part in options.parts:
            measured(model, options, outcome)
    return outcome


def main() -> None:
    parser = argument_parser(__doc__, rounds=9)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help=f"default {' '.join(PARTS)}"
    )
    parser.add_argument("--model", default="resnet50", help="architecture, default resnet50")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="in place of --model")
    parser.add_argument("--image-size", type=positive, default=224, help="default 224")
    parser.add_argument("--batch", type=positive, default=4, help="default 4")
    parser.add_argument("--cut", type=positive, default=7, help="of bytes and rtx, default 7")
    parser.add_argument(
        "--images", type=positive, default=INT8_PHOTOS, help="bundles' calibration, 64"
    )
    parser.add_argument("--photos", type=positive, default=64, help="of bytes, default 64")
    run(parser, measure)


if __name__ == "__main__":
    main()
