"""Cases of whole bundles: from files to classes, against torch, against the fp32 model."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from acceptance.context import Bundle, Context, LeftOut
from acceptance.device import Timing, rounds
from acceptance.making import GENERATED, photos
from trtkit.benchmark.loaded import Inference
from trtkit.benchmark.protocol import (
    Action,
    ContestantFailed,
    ProtocolSettings,
    repeats_for,
    take_turns,
)
from trtkit.benchmark.spec import END_TO_END, Spec
from trtkit.benchmark.tensorrt_engines import PlacedEngines
from trtkit.benchmark.torch_networks import NO_GPU
from trtkit.benchmark.worker import WorkerContestant, round_seconds
from trtkit.building.verification import LIMITS, compare
from trtkit.bundle import Manifest
from trtkit.cpu import usable_cores
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.errors import TrtkitError
from trtkit.photos.files import find_images
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers
from trtkit.runtime.chain import Chain
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.loading import load_chain

# How each pass uses the cache: its state, and whether the card keeps feature maps as well.
CACHES = {
    "cache off": ("off", False),
    "cold": ("cold", False),
    "warm, host tier": ("warm", False),
    "warm, GPU tier": ("warm", True),
}
EAGER = "eager fp32"
# torch's modes: half precision, compiled.
MODES = {EAGER: (False, False), "eager fp16": (True, False), "compiled fp16": (True, True)}
TORCH = "trtkit.benchmark.torch_networks:TorchvisionModel"
TORCH_SECONDS = 600.0
REFERENCE_BATCH = 8


def end_to_end(context: Context, bundle: Bundle, precision: str) -> Any:
    """Images per second from JPEG files to classes, with the cache in each of its states.

    `seconds` are of one pass over all photos, decoded by `workers` threads; `images_per_second` of the
    median pass. `hits` and `misses` of the last pass; `resident_hits`: those on the card.
    """
    scale, backend = context.settings.scale, context.backend
    folder, manifest = context.built(bundle, precision), context.manifest(bundle, precision)
    place, source = photos(context, scale.photos)
    files = tuple(str(item.path) for item in find_images([place]))
    tail = manifest.tail()
    maps = len(files) * row_bytes(manifest.path_to(tail)[1].inputs[0])
    plain = load_chain(folder, manifest, tail, backend)
    resident = load_chain(folder, manifest, tail, backend, gpu_cache=maps)
    rows = []
    # The largest first: the rows to read hits into are made once, for the batch of that time.
    for batch in sorted(context.settings.batches, reverse=True):
        with ExitStack() as stack:
            passes = {}
            for mode, (cache, on_card) in CACHES.items():
                scratch = tempfile.TemporaryDirectory(prefix="cache-", dir=context.settings.made)
                spec = Spec(
                    "trtkit", END_TO_END, str(folder), tail.name, files, batch, usable_cores(), cache,
                    stack.enter_context(scratch),
                )  # fmt: skip
                passes[mode] = _Pass(spec, manifest, resident if on_card else plain)
                stack.callback(passes[mode].work.close)
            turns = rounds(scale.passes, **{mode: own.seconds for mode, own in passes.items()})
        for mode, own in passes.items():
            timing = Timing.of(turns, mode)
            row = {"batch": batch, "mode": mode}
            row |= {"images_per_second": len(files) / timing.median_seconds, "seconds": timing}
            rows.append({**row, **own.counts})
    plain.close()
    resident.close()
    rows.sort(key=lambda row: row["batch"])
    facts = {"model": tail.name, "precision": precision, "photos": len(files), "source": source}
    return {**facts, "workers": default_workers(), "rows": rows}


class _Pass:
    """All photos once. `counts`: hits and misses of the last time."""

    def __init__(self, spec: Spec, manifest: Manifest, chain: Any) -> None:
        self.work = Inference(spec, manifest, chain, close=lambda: None)
        self.counts: dict[str, int] = {}
        self._chain = chain

    def seconds(self) -> float:
        self.work.before()
        before = self._total()
        seconds = round_seconds(self.work)
        self.counts = {name: value - before[name] for name, value in self._total().items()}
        return seconds

    def _total(self) -> dict[str, int]:
        stats, resident = self.work.pipeline.stats, self._chain.resident
        hits = 0 if resident is None else resident.hits
        return {"hits": stats.hits, "misses": stats.misses, "resident_hits": hits}


def parity(context: Context, bundle: Bundle, precision: str) -> Any:
    """The comparison of the manifest, and one on photos with the fp32 model on ONNX Runtime.

    The rows are of trtkit.building.verification: the worst image's relative error, the share of equal
    top-1 classes, 0 to 1. `by`: who compared; `photos`: why nothing was compared on photos, else None.
    """
    folder, manifest = context.built(bundle, precision), context.manifest(bundle, precision)
    scale, verified = context.settings.scale, manifest.verified
    by = f"build, {verified['source']} images"
    rows = [{"tail": tail, "by": by, **figures} for tail, figures in verified["tails"].items()]
    missing = [
        str(path) for tail in manifest.tails if not (path := context.export(tail.name)).is_file()
    ]
    place, source = photos(context, scale.photos)
    problem = f"{missing[0]} is not there to compare with" if missing else None
    if source == GENERATED:
        problem = "no photos: scikit-image or scikit-learn is not here; give --photos"
    if problem is None:
        paths = [item.path for item in find_images([place]) if item.error is None]
        few = paths[:: max(1, len(paths) // scale.parity_photos)][: scale.parity_photos]
        images = np.stack([load_image(read_file(path), manifest.preprocessing) for path in few])
        parts = [images[n : n + REFERENCE_BATCH] for n in range(0, len(images), REFERENCE_BATCH)]
        for tail in manifest.tails:
            chain = load_chain(folder, manifest, tail, context.backend)
            logits = chain.logits(images)
            chain.close()
            reference = Chain([OnnxRuntimeBackend().load(context.export(tail.name))])
            expected = np.concatenate([reference.logits(part) for part in parts])
            compared = compare(logits, expected, LIMITS[precision])
            rows.append({"tail": tail.name, "by": "photos", **asdict(compared)})
    return {"bundle": bundle.name, "precision": precision, "photos": problem, "rows": rows}


def against_torch(context: Context, bundle: Bundle, precision: str) -> Any:
    """Device time of the bundle's models as chain with CUDA graphs, and in plain torch on the same card.

    `versions` of torch, torchvision, its CUDA and cuDNN; `turns`: how often each side ran;
    `times_faster`: torch's median by ours. Where torch could not run a model `error` says why.
    """
    settings, scale = context.settings, context.settings.scale
    images = context.images(context.manifest(bundle, precision).preprocessing)
    versions: dict[str, Any] = {}
    rows: list[Any] = []
    for model in bundle.models:
        placed = PlacedEngines(context.engines(bundle, precision, model), len(images))
        spec = {"factory": TORCH, "model": model, "image_size": settings.set.image_size}
        spec |= {"sample_seconds": scale.sample_seconds, "most_repeats": scale.most_repeats}
        with ExitStack() as stack:
            workers = {
                mode: stack.enter_context(
                    WorkerContestant(mode, {}, timeout=TORCH_SECONDS, python=context.python)
                )
                for mode, (_, compiled) in MODES.items()
                if settings.torch_compile or not compiled
            }
            for batch in settings.batches:
                errors = {}
                for mode, worker in workers.items():
                    half, compiled = MODES[mode]
                    try:
                        worker.load({**spec, "batch": batch, "half": half, "compiled": compiled})
                        versions = worker.facts
                    except ContestantFailed as error:
                        errors[mode] = str(error)
                placed.fill(images[:batch])
                once = placed.device_seconds(batch, 1)
                repeats = repeats_for(once, scale.sample_seconds, scale.most_repeats)
                ours = Action("ours", partial(placed.device_seconds, batch, repeats))
                ready = [worker for mode, worker in workers.items() if mode not in errors]
                turns = take_turns([ours, *ready], ProtocolSettings.fixed(scale.rounds))
                errors |= turns.failures
                for mode in workers:
                    row = {"model": model, "batch": batch, "mode": mode, "torch": None}
                    row |= {"ours": Timing.of(turns, "ours"), "times_faster": None}
                    if mode not in errors:
                        row["torch"] = Timing.of(turns, mode)
                        row["times_faster"] = turns.medians[mode] / turns.medians["ours"]
                    rows.append({**row, "error": errors.get(mode)})
        placed.close()
    errors = [row["error"] for row in rows]
    if all(errors):
        if NO_GPU in errors[0] or "No module named 'torch" in errors[0]:
            raise LeftOut(f"{context.python} has no torch for this GPU: {errors[0]}")
        raise TrtkitError(f"torch could not be measured: {errors[0]}")
    facts = {"bundle": bundle.name, "precision": precision, "versions": versions}
    return {**facts, "turns": scale.rounds, "rows": rows}
