"""int8: speed, bytes, calibrating, accuracy."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from case import Lab, case
from mainjob import MAXRSS_UNIT
from stock import DIGITS, INT8_PHOTOS, LIGHT, RANDOM, adam, in_batches, photo_files, prepared

from trtkit import load
from trtkit.bundle import read_manifest
from trtkit.costs.caching import entry_bytes
from trtkit.cpu import processor_features
from trtkit.identity import file_digest
from trtkit.quantization.photos import CalibrationPhoto, CalibrationPhotos, Int8Options
from trtkit.store.cache import CacheOptions
from trtkit.workspace import BEST

FP32, INT8 = "fp32, as trtkit builds it", "int8, as trtkit builds it"
# Convolutions in a graph that ONNX Runtime optimised, by what they compute in.
INT8_CONV, FLOAT_CONV = ("QLinearConv", "ConvInteger"), ("Conv", "FusedConv")
CALIBRATE = """
import json, resource, sys, time
from pathlib import Path
from trtkit.building.sources import load_model
from trtkit.graph.precision import name_nodes
from trtkit.quantization.calibrate import measure_ranges
from trtkit.quantization.photos import calibration_photos
export, folder, count, method = sys.argv[1:]
model = load_model(Path(export).stem, Path(export))
name_nodes(model.graph.graph)
started = time.perf_counter()
ranges = measure_ranges(model, "", calibration_photos(Path(folder), int(count)), method)
seconds = time.perf_counter() - started
kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
largest = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
print(json.dumps(dict(seconds=seconds, photos=ranges.count, tool=ranges.tool, largest=largest)))
"""
# Of five photos of a class: the parts that they go to.
PARTS = ("train", "train", "train", "calibration", "test")
Score = dict[str, Any]
# Without batch normalization a higher one leaves it where it began.
LEARNING_RATES = {"vgg16": 1e-4}


@case("--model resnet18 --image-size 64 --cut 2 --batch 2 --photos 2 --rounds 1")
def int8(
    lab: Lab, *, model="resnet50", image_size=224, batch=4, cut=7, photos=64, rounds=9
) -> None:
    """int8 of one model: speed on one thread and bytes of its feature maps."""
    name = lab.stock.exported(model, image_size=image_size)
    lab.data.update(model=name, weights="random", calibrated_on=INT8_PHOTOS)
    # ONNX Runtime makes no sessions with threads of their own once trtkit's engines share some, so
    # that speed comes first.
    speed(lab, name, batch, rounds)
    feature_bytes(lab, name, cut, batch, photos)


def speed(lab: Lab, name: str, batch: int, rounds: int) -> None:
    import onnx
    import onnxruntime

    from trtkit.quantization.accuracy import relative_errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    # As trtkit runs them: without overflow on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    bundles = {FP32: lab.stock.built([name], 0, "fp32"), INT8: lab.stock.built([name], 0, "int8")}
    images = prepared(lab.stock.photos(batch), read_manifest(bundles[FP32]).preprocessing)
    competitors, kernels, logits, sizes = {}, {}, {}, {}
    with lab.stock.scratch() as scratch:
        files = {form: own / read_manifest(own).stages[0].file for form, own in bundles.items()}
        options.optimized_model_filepath = f"{scratch}/optimised.onnx"
        for form, file in {**files, **other_forms(lab, name, Path(scratch))}.items():
            session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
            nodes = onnx.load(options.optimized_model_filepath).graph.node
            count = Counter(node.op_type for node in nodes)
            integer, floats = (sum(count[kind] for kind in own) for own in (INT8_CONV, FLOAT_CONV))
            kernels[form], sizes[form] = (integer, integer + floats), file.stat().st_size
            feed = {session.get_inputs()[0].name: images}
            competitors[form] = partial(session.run, None, feed)
            (logits[form],) = competitors[form]()
        title = f"{name}, batch {batch}, one thread"
        ratios = lab.contest(title, competitors, rounds)
    vnni = "vnni" in processor_features()
    for form, ratio in ratios.items():
        error = float(np.median(relative_errors(logits[form], logits[FP32])))
        integer, convolutions = kernels[form]
        compared = f"{integer} of {convolutions} convolutions in int8, logits off by {error:.1e}"
        target = ("at least 3 times", 1 / ratio >= 3) if form == INT8 else ()
        what = f"{title}, {'' if vnni else 'no '}VNNI: {form}, times as fast"
        compared += f", {sizes[form] / 1e6:.1f} MB"
        lab.figure(what, f"{1 / ratio:.2f} times", compared, *target)
    lab.data["forms"] = {"vnni": vnni, "convolutions": kernels, "file_bytes": sizes}


def other_forms(lab: Lab, name: str, folder: Path) -> dict[str, Path]:
    """Graphs in the forms that trtkit does not build for this processor, of the bundle's ranges."""
    from trtkit.building.sources import load_model
    from trtkit.graph import quantize
    from trtkit.graph.files import write_model
    from trtkit.graph.precision import name_nodes
    from trtkit.quantization.ranges import ranges_path, read_ranges

    workspace, symmetric = lab.stock.workspace, quantize.SYMMETRIC
    ranges, why = read_ranges(ranges_path(workspace.calibration, name))
    if ranges is None:
        raise RuntimeError(f"The build of int8 left no ranges of {name}: {why}")
    graph = load_model(name, workspace.export_path(name)).graph
    name_nodes(graph.graph)
    forms = {
        "int8, signed activations": replace(symmetric, own_placement=True, stored=True),
        "int8, NVIDIA's form": symmetric,
    }
    files = {form: folder / f"form-{number}.onnx" for number, form in enumerate(forms)}
    for name, form in forms.items():
        edges = quantize.kernel_edges(graph.graph) if form.own_placement else ranges.edges
        quantized, *_ = quantize.quantize_graph(graph, ranges.ranges, edges, form)
        write_model(quantized, files[name])
    return files


def feature_bytes(lab: Lab, name: str, cut: int, batch: int, photos: int) -> None:
    lab.data["feature_maps"] = {}
    for precision in ("int8", "fp16", "fp32"):
        pipeline = load(lab.stock.built([name], cut, precision))
        manifest = pipeline.manifest
        batches = in_batches(prepared(lab.stock.photos(photos), manifest.preprocessing), batch)
        maps = [np.asarray(own) for images in batches for own in pipeline.features(images)]
        zero = float((manifest.quantized or {}).get("boundary", {"zero": 0.0})["zero"])
        zeros, size = fmean(float((own == zero).mean()) for own in maps), maps[0].nbytes
        dtype, stored = maps[0].dtype.name, {}
        for codec in ("none", "lz4", "zstd"):
            options = CacheOptions(dtype="fp32" if dtype == "float32" else "fp16", codec=codec)
            stored[codec] = fmean(entry_bytes(own, options) for own in maps)
        plain = stored["none"]
        cells = (f"{c} {own:,.0f} ({plain / own:.2f} times smaller)" for c, own in stored.items())
        compared = f"{zeros:.1%} zeros; in the cache: {', '.join(cells)}"
        target = ("at most 402,000 bytes", size <= 402_000) if precision == "int8" else ()
        what = f"{name}, cut {cut}, feature map of the {precision} bundle"
        lab.figure(what, f"{size:,} bytes, {dtype}", compared, *target)
        row = {"dtype": dtype, "bytes": size, "zeros": zeros, "kept": stored}
        lab.data["feature_maps"][precision] = row


@case("--model resnet18 --image-size 64 --few 4 --many 8")
def int8_calibration(
    lab: Lab, *, model="resnet50", image_size=224, few=64, many=512, method="entropy"
) -> None:
    """Calibrating for int8: time, and whether memory is bounded."""
    name = lab.stock.exported(model, image_size=image_size)
    results = {count: calibrate(lab, name, count, method) for count in (few, many)}
    for count, row in results.items():
        what, ratio = f"{name}, {method}, {count} photos", row["peak"] / results[few]["peak"]
        target = ("below 300 s", row["seconds"] < 300) if count == many else ()
        compared = f"{1e3 * row['seconds'] / count:.0f} ms a photo"
        lab.figure(f"{what}: time", f"{row['seconds']:.1f} s", compared, *target)
        # The allocator's arenas differ by a few percent from process to process.
        target = ("at most 1.1 times", ratio <= 1.1) if count == many else ()
        peak, largest = (f"{row[thing] / 2**20:,.0f} MiB" for thing in ("peak", "largest"))
        compared = f"{largest} the larger one; {ratio:.3f} times {few} photos"
        lab.figure(f"{what}: peak memory of both processes", peak, compared, *target)
    lab.data.update(model=name, method=method, calibration=results)


def calibrate(lab: Lab, name: str, count: int, method: str) -> dict[str, Any]:
    """Seconds of calibrating, the peak of the process with its children, and of the larger of them."""
    import psutil

    export, folder = lab.stock.workspace.export_path(name), lab.stock.calibration(count)
    command = [sys.executable, "-c", CALIBRATE, str(export), str(folder), str(count), method]
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        # A process may end between listing and reading; the next reading has the others.
        with suppress(psutil.NoSuchProcess):
            family = (process, *process.children(recursive=True))
            peak = max(peak, sum(member.memory_info().rss for member in family))
        time.sleep(0.02)
    result: dict[str, Any] = json.loads(process.stdout.read())
    result["largest"] *= MAXRSS_UNIT
    return {**result, "peak": max(peak, result["largest"])}


@case(
    "--architectures resnet18 --image-size 32 --cut 2 --count 10 --epochs 1 --images 12 "
    "--renderings 2 --min-agreement 0"
)
def int8_accuracy(
    lab: Lab, *, architectures=("resnet50", "resnet152", "vgg16"), epochs=8, image_size=64, cut=7,
    count=None, renderings=3, images=512, method="auto", min_agreement=0.99,
) -> None:  # fmt: skip
    """What int8 costs in accuracy, on digits that neither training nor calibrating saw."""
    stock, data = lab.stock, digits_in_parts(lab, count, renderings)
    counts = {part: len(photo_files(data / part)) for part in dict.fromkeys(PARTS)}
    lab.data.update(data=DIGITS, photos=counts, image_size=image_size, models={})
    calibrated = ("--calibration", data / "calibration", "--calibration-images", images)
    gate = (*calibrated, "--calibration-method", method, "--min-agreement", min_agreement)
    for architecture in architectures:
        name, rate = f"{architecture}-int8", LEARNING_RATES.get(architecture, 5e-4)
        new = ("--arch", architecture, *RANDOM, "--image-size", image_size, "--epochs", epochs)
        options = (*new, *adam(rate), "--weight-decay", 0.01, *LIGHT)
        stock.trained(data / "train", name, *options)
        stock.exported(stock.checkpoint(name, BEST), name)
        bundles = {own: stock.built([name], cut, own) for own in ("fp32", "fp16")}
        bundles["int8"] = stock.built([name], cut, "int8", *gate)
        words = [word for bundle in bundles.values() for word in ("--bundle", bundle)]
        reports = stock.evaluated(data / "test", "--part", "all", *words)
        scores = {}
        for form, report in zip(bundles, reports, strict=True):
            quantized = read_manifest(bundles[form]).quantized
            score = {thing: report[thing] for thing in ("top1", "agreement", "images")}
            score["error"] = report["logits_error"]
            scores[form] = {**score, "gate": quantized and quantized["models"][name]}
        home = stock.workspace.calibration
        options = Int8Options(data / "calibration", home, images, method, min_agreement)
        scores["int8 in TensorRT's form"] = graph_score(lab, data / "test", name, cut, options)
        for form, score in scores.items():
            where = f"{architecture}, {image_size} x {image_size}, cut {cut}, {form}: agreement"
            report_score(lab, where, score, min_agreement)
        lab.data["models"][architecture] = scores


def digits_in_parts(lab: Lab, count: int | None, renderings: int) -> Path:
    """train/, calibration/ and test/ with class folders; in the latter two each digit several times."""
    folder = lab.stock.root / f"digits-in-parts-{count or 'all'}-{renderings}"
    for seed in range(renderings):
        for label in lab.stock.digits(count=count, seed=seed).iterdir():
            for number, path in enumerate(photo_files(label)):
                part = PARTS[number % len(PARTS)]
                if part != "train" or not seed:
                    where = folder / part / label.name
                    where.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, where / f"{path.stem}-{seed}.jpg")
    return folder


def graph_score(lab: Lab, test: Path, name: str, cut: int, options: Int8Options) -> Score:
    """The form for TensorRT, as a build for it makes it, on ONNX Runtime without its int8 kernels."""
    from trtkit.building.sources import load_model
    from trtkit.graph.quantize import SYMMETRIC
    from trtkit.quantization.accuracy import AccuracyGate
    from trtkit.quantization.quantizer import quantize_models

    export = lab.stock.workspace.export_path(name)
    model, digests = load_model(name, export), {name: file_digest(export)}
    files = [CalibrationPhoto(path, b"", path.parent.name) for path in photo_files(test)]
    photos = CalibrationPhotos(test, (*files,), (*files,), skipped=(), labelled=True)
    with lab.stock.scratch() as scratch:
        made = quantize_models([model], digests, cut, SYMMETRIC, options, Path(scratch))
        gate = AccuracyGate(model, photos, SYMMETRIC, Path(scratch))
        accuracy = vars(gate.accuracy(made.models[0].graph))
    things = ("top1", "agreement", "error", "images")
    return {**{thing: accuracy[thing] for thing in things}, "gate": made.record["models"][name]}


def report_score(lab: Lab, what: str, score: Score, least: float) -> None:
    agreement, gate, target = score["agreement"], score["gate"], ()
    measured, cells = f"the reference, {score['images']} photos", [f"top-1 {score['top1']:.2%}"]
    if agreement is not None:
        measured = f"{agreement:.2%} of {score['images']}"
        cells.append(f"logits off by {score['error']:.1e}")
    if gate:
        target = (f"at least {least:.0%}", agreement >= least)
        share = f"{gate['kept_flops_share']:.1%} of the work"
        cells.append(f"{len(gate['kept'])} layers float ({share})")
        cells.append(f"held out: agreement {gate['agreement']:.2%} of {gate['images']}")
        cells.append(f"top-1 {gate['top1']:.2%} (fp32 {gate['reference_top1']:.2%})")
    lab.figure(what, measured, ", ".join(cells), *target)
