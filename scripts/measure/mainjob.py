"""The main job: chains, their cache, decoding, memory and start-up."""

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import cycle, islice
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from case import Lab, case
from stock import Cached, cached, classify, in_batches, over, photo_files, prepared, trtkit_command

from trtkit import cuts, load
from trtkit.benchmark.loaded import batches_of
from trtkit.benchmark.protocol import ProtocolSettings, take_turns
from trtkit.building.verification import SPLIT_ONLY, compare
from trtkit.models.names import ARCHITECTURES
from trtkit.preprocessing import Preprocessing
from trtkit.subprocesses import CommandFailed, run_command
from trtkit.tensors import Array

PUBLISHED = {("resnet152", 4): 0.096, ("resnet152", 7): 0.175}
MEMORY_SIZE = 64
# Linux counts in KiB, macOS in bytes.
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@case("--architectures resnet18 --photos 2")
def accuracy(lab: Lab, *, architectures=ARCHITECTURES, photos=4) -> None:
    """Chain of prefix and tail against torch, fp32, at every cut of every architecture."""
    from trtkit.graph.export import reference_logits
    from trtkit.models.weights import random

    stock, limit = lab.stock, SPLIT_ONLY.relative_error
    images = prepared(stock.photos(photos), Preprocessing())
    lab.data.update(photos=photos, limit=limit, architectures={})
    for name in architectures:
        reference = reference_logits(random(name).model, images, Preprocessing())
        between = np.abs(reference - np.roll(reference, 1, axis=0)).max(axis=1)
        variety = float(np.median(between / np.abs(reference).max(axis=1)))
        export, rows = stock.exported(name), []
        for cut in range(1 + len(cuts(export, workspace=stock.root))):
            bundle = stock.split(export, cut, "fp32")
            rows.append({"cut": cut, **against_torch(load(bundle).logits(images), reference)})
            # The bundles of all cuts would take a hundred gigabytes.
            shutil.rmtree(bundle)
        worst = max(rows[1:], key=lambda row: row["relative_error"])
        what = f"{name}, {len(rows) - 1} cuts: relative error, the worst"
        compared = f"unsplit {rows[0]['relative_error']:.1e}, between photos {variety:.1e}"
        lab.figure(what, f"{worst['relative_error']:.1e} at cut {worst['cut']}", compared)
        lab.data["architectures"][name] = {"variety": variety, "cuts": rows}
    results = [row for own in lab.data["architectures"].values() for row in own["cuts"][1:]]
    error = max(row["relative_error"] for row in results)
    different, ties = (sum(row[name] for row in results) for name in ("different", "ties"))
    pairs = f"{len(architectures)} architectures, {len(results)} cuts, {photos} photos"
    target = (f"at most {limit:.0e}", error <= limit)
    lab.figure(f"{pairs}: relative error, the worst", f"{error:.1e}", "", *target)
    share = f"{different} of {len(results) * photos}, {ties} of them ties"
    lab.figure(f"{pairs}: other top 5", share, "", "none but ties", different == ties)


def against_torch(logits: Array, reference: Array) -> dict[str, Any]:
    """`different` photos have another top 5, of which torch itself puts `ties` within the limit."""
    best, wanted = (np.argsort(-x, axis=1, kind="stable")[:, :5] for x in (logits, reference))
    different = (best != wanted).any(axis=1)
    moved = np.take_along_axis(reference, best, 1) - np.take_along_axis(reference, wanted, 1)
    gaps = np.abs(moved).max(axis=1) / np.abs(reference).max(axis=1)
    return {
        "relative_error": compare(logits, reference, SPLIT_ONLY).relative_error,
        "different": int(different.sum()),
        "ties": int((different & (gaps <= SPLIT_ONLY.relative_error)).sum()),
    }


@case("--model resnet18 --cut 2 --batch 1 2 --precision fp32 --rounds 3")
def chain(
    lab: Lab, *, model="resnet152", cut=7, precision=("fp32", "fp16"), batch=(1, 8), rounds=30
) -> None:
    """Chain of prefix and tail against the unsplit model, compute only."""
    folder = lab.stock.photos(max(batch))
    for form in precision:
        whole, split = (lab.stock.bundle(model, number, form) for number in (0, cut))
        bundles = {"unsplit": whole, "chain": split, "unsplit again": whole}
        pipelines = {name: load(bundle) for name, bundle in bundles.items()}
        images = prepared(folder, pipelines["chain"].manifest.preprocessing)
        competitors = {name: pipeline.logits for name, pipeline in pipelines.items()}
        title, options = f"{model}, cut {cut}, {form}", {"warmup": 2, "most": {"chain": 1.02}}
        lab.contests(title, competitors, images, batch, rounds, **options)


@case("--model resnet18 --cut 2 --photos 8 --batch 4 --rounds 2")
def warm(
    lab: Lab, *, model="resnet152", cut=7, precision="fp16", photos=64, batch=8, rounds=7
) -> None:
    """Warm cache end to end against the tail's compute alone."""
    folder, bundle = lab.stock.photos(photos), lab.stock.bundle(model, cut, precision)

    def cold() -> None:
        with lab.stock.scratch() as cache, cached(bundle, cache) as pipeline:
            classify(pipeline, folder, batch=batch)

    title = f"{model}, cut {cut}, {precision}, {photos} photos, batch {batch}"
    with lab.stock.scratch() as cache, closing(Cached(bundle, cache, folder, batch)) as ready:
        names = ("tail alone", "warm", "off", "cold")
        competitors = dict(zip(names, (ready.tail, ready.warm, ready.off, cold), strict=True))
        lab.contest(title, competitors, rounds, most={"warm": 1.05})


@case("--model resnet18 --cut 2 --photos 16 --batch 4 --rounds 2")
def endtoend(
    lab: Lab, *, model="resnet50", cut=7, precision="fp16", photos=500, batch=8, rounds=7
) -> None:
    """End to end with the cache off, against decoding alone plus engines alone."""
    folder = lab.stock.photos(photos)
    pipeline = load(lab.stock.bundle(model, cut, precision))
    preprocessing, files = pipeline.manifest.preprocessing, photo_files(folder)

    def decode_all() -> None:
        deque(batches_of(files, preprocessing, batch), maxlen=0)

    competitors = {
        "decoding alone": decode_all,
        "engines alone": over(pipeline.logits, in_batches(prepared(folder, preprocessing), batch)),
        "end to end": partial(classify, pipeline, folder, batch=batch),
    }
    title = f"{model}, cut {cut}, {precision}, {photos} JPEG photos, batch {batch}"
    samples = take_turns(competitors, ProtocolSettings.fixed(rounds), title=title).samples
    samples["sum"] = [*map(add, samples["decoding alone"], samples["engines alone"])]
    lab.compare(title, samples, "sum", most={"end to end": 1.1})


@case("--model resnet18 --cut 2 --photos 8 --batch 4 --rounds 2")
def saved(
    lab: Lab, *, model="resnet152", cut=(4, 7), precision="fp16", photos=32, batch=8, rounds=5
) -> None:
    """Query time that the cache saves, beside the published figures."""
    folder, whole = lab.stock.photos(photos), load(lab.stock.bundle(model, 0, precision))
    images = in_batches(prepared(folder, whole.manifest.preprocessing), batch)
    competitors = {"whole model, compute": over(whole.logits, images)}
    with ExitStack() as stack:
        for number in cut:
            bundle = lab.stock.bundle(model, number, precision)
            cache = stack.enter_context(lab.stock.scratch())
            ready = stack.enter_context(closing(Cached(bundle, cache, folder, batch)))
            competitors[f"tail of cut {number}, compute"] = ready.tail
            competitors[f"cut {number}, cache off, end to end"] = ready.off
            competitors[f"cut {number}, cache warm, end to end"] = ready.warm
        title = f"{model}, {precision}, {photos} photos, batch {batch}"
        ratios = lab.contest(title, competitors, rounds)
    flops = {own.cut: own.flops_share for own in cuts(whole.tail.name, workspace=lab.stock.root)}
    lab.data["saved"] = {}
    for number in cut:
        hit, miss = (ratios[f"cut {number}, cache {mode}, end to end"] for mode in ("warm", "off"))
        tail, published = ratios[f"tail of cut {number}, compute"], PUBLISHED.get((model, number))
        shares = {"compute": 1 - tail, "end to end": 1 - hit / miss}
        compared = f"{published:.1%} published, " if published else ""
        compared += f"{flops[number]:.1%} of the FLOPs"
        for kind, share in shares.items():
            lab.figure(f"cut {number}: saved, {kind}", f"{share:.1%}", compared)
        more = {"flops_share": flops[number], "published": published}
        lab.data["saved"][number] = {**shares, **more}


@case("--few 50 --many 100 --rounds 1")
def memory(lab: Lab, *, model="resnet18", cut=2, few=1000, many=10000, rounds=3) -> None:
    """Peak memory of `trtkit infer` over many photos against fewer."""
    bundle, launcher = lab.stock.bundle(model, cut, "fp16", MEMORY_SIZE), ["setarch", "-R"]
    # The same addresses each time, where it is installed and a container does not forbid it.
    try:
        run_command([*launcher, "true"])
    except CommandFailed:
        launcher = []

    def peaks(folder: Path) -> Mapping[str, float]:
        with lab.stock.scratch() as scratch:
            cache = ["--cache-dir", f"{scratch}/cache"]
            modes = {"off": ["--no-cache"], "cold": cache, "warm": cache}
            command = [*launcher, *trtkit_command("infer", folder, "--bundle", bundle)]
            return {mode: peak([*command, *own], mode, folder) for mode, own in modes.items()}

    folders = {f"{count:,} photos": numbered_photos(lab, count) for count in (few, many)}
    competitors = {name: partial(peaks, folder) for name, folder in folders.items()}
    title = f"{model} at {MEMORY_SIZE} x {MEMORY_SIZE}, cut {cut}, fp16, cache"
    for mode, samples in lab.rounds(title, competitors, rounds).items():
        lab.compare(f"{title} {mode}", samples, unit="bytes", most={f"{many:,} photos": 1.05})
    lab.data["fixed_addresses"] = bool(launcher)


def numbered_photos(lab: Lab, count: int) -> Path:
    """A folder of `count` JPEG files of which no two have the same bytes: a comment has a number."""
    folder = lab.stock.root / f"numbered-{count}"
    folder.mkdir(exist_ok=True)
    pictures = [path.read_bytes() for path in photo_files(lab.stock.photos(200, "200x150"))]
    for number, data in enumerate(islice(cycle(pictures), count)):
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
        (folder / f"{number:06d}.jpg").write_bytes(data[:2] + comment + data[2:])
    return folder


def peak(command: Sequence[str | Path], mode: str, folder: Path) -> int:
    """Peak resident bytes of classifying a folder in a process of its own."""
    stats, count = folder.with_suffix(".stats"), len(list(folder.iterdir()))
    line = [*command, "--output", folder.with_suffix(".jsonl"), "--stats", stats]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    report = {} if process.returncode else json.loads(stats.read_text())
    outcome = report and (report["images"], report["failed"], report["cache"]["hits"])
    if outcome != (count, 0, count if mode == "warm" else 0):
        raise RuntimeError(f"{line}, cache {mode}, exit {process.returncode}: {report}")
    return usage.ru_maxrss * MAXRSS_UNIT


@case("--rounds 3")
def startup(lab: Lab, *, rounds=20) -> None:
    """Start-up of `trtkit --help`, against importing the libraries that draw it."""
    imports, script = "import typer, rich.console", Path(sys.executable).with_name("trtkit")
    commands = {
        f"python -c '{imports}'": [sys.executable, "-c", imports],
        "trtkit --help": [script, "--help"],
        "trtkit infer --help": [script, "infer", "--help"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    competitors = {name: partial(run, command) for name, command in commands.items()}
    lab.contest("one process", competitors, rounds, warmup=2, most={"trtkit --help": 1.5})
