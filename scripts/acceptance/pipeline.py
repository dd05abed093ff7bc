"""Cases of whole bundles: from files to classes, against torch, against the fp32 model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from acceptance.context import Case, Context, LeftOut
from acceptance.making import GENERATED, photos
from trtkit.benchmark.kinds import TorchMode
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
from trtkit.building.sources import ExportSources
from trtkit.building.verification import LIMITS, compare
from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError, listed
from trtkit.photos.files import find_images
from trtkit.photos.prefetch import default_workers
from trtkit.photos.samples import choose_samples
from trtkit.runtime.device.slot import row_bytes
from trtkit.runtime.loading import load_runner
from trtkit.runtime.pipeline import load

# How each pass uses the cache: its state, and whether the card keeps feature maps as well.
CACHES = {
    "cache off": ("off", False),
    "cold": ("cold", False),
    "warm, host tier": ("warm", False),
    "warm, GPU tier": ("warm", True),
}
EAGER = "eager fp32"
# How torch runs on the GPU: as two of the benchmark's baselines, and compiled in fp16.
WAYS = {
    EAGER: TorchMode("cuda"),
    "eager fp16": TorchMode("cuda", half=True),
    "compiled fp16": TorchMode("cuda", half=True, compiled=True),
}
NETWORK = "trtkit.benchmark.torch_networks:TorchvisionModel"
TORCH_SECONDS = 600.0
WORST = "the worst"


def end_to_end(context: Context, case: Case) -> Any:
    """Images per second from JPEG files to classes, with the cache in each of its states.

    `seconds` are of one pass over all photos, decoded by `workers` threads; `images_per_second` of the
    median pass. `hits` and `misses` of the last pass; `resident_hits`: those on the card.
    """
    scale, manifest = context.settings.scale, context.manifest(case)
    place, source = photos(context, scale.photos)
    files = tuple(str(item.path) for item in find_images([place]))
    maps = len(files) * row_bytes(manifest.prefix_of(manifest.tail()).output("feature_map"))
    start = partial(load_runner, context.built(case), manifest, [manifest.tail()])
    plain, resident = start(), start(gpu_cache=maps)
    rows = []
    # The largest first: rows to read hits into are allocated once, for the first batch size.
    for batch in sorted(context.settings.batches, reverse=True):
        with ExitStack() as stack:
            passes = {}
            for mode, (cache, on_card) in CACHES.items():
                scratch = tempfile.TemporaryDirectory(prefix="cache-", dir=context.settings.made)
                spec = Spec(
                    "trtkit", END_TO_END, str(context.built(case)), case.model, files, batch,
                    usable_cores(), cache, stack.enter_context(scratch),
                )  # fmt: skip
                runner = resident if on_card else plain
                passes[mode] = _Pass(spec, manifest, runner, close=lambda: None)
                stack.callback(passes[mode].close)
            competitors = {mode: own.seconds for mode, own in passes.items()}
            turns = take_turns(competitors, ProtocolSettings.fixed(scale.passes))
        for mode, own in passes.items():
            rate, summary = len(files) / turns.medians[mode], turns.summary(mode)
            row = {"batch": batch, "mode": mode, "images_per_second": rate, "seconds": summary}
            rows.append({**row, **own.counts})
    plain.close()
    resident.close()
    rows.sort(key=itemgetter("batch"))
    facts = {"photos": len(files), "source": source, "workers": default_workers()}
    return {**facts, "rows": rows}


class _Pass(Inference):
    """All photos once. `counts`: hits and misses of the last time."""

    counts: Mapping[str, int] = MappingProxyType({})

    def seconds(self) -> float:
        self.before()
        before = self._total()
        seconds = round_seconds(self)
        self.counts = {name: value - before[name] for name, value in self._total().items()}
        return seconds

    def _total(self) -> dict[str, int]:
        stats, resident = self.pipeline.stats, self.pipeline.runner.resident
        hits = 0 if resident is None else resident.hits
        return {"hits": stats.hits, "misses": stats.misses, "resident_hits": hits}


def parity(context: Context, case: Case) -> Any:
    """The comparison of the manifest, and one on photos with the fp32 model on ONNX Runtime.

    The rows are of trtkit.building.verification: the worst image's relative error, the share of equal
    top-1 classes, 0 to 1. `by`: who compared, or the worst of both. `photos`: why nothing was compared on
    photos, else None.
    """
    scale, manifest = context.settings.scale, context.manifest(case)
    verified, tails = manifest.verified, [tail.name for tail in manifest.tails]
    by = f"build, {verified['source']} images"
    rows = [{"tail": tail, "by": by, **figures} for tail, figures in verified["tails"].items()]
    missing = [str(path) for path in map(context.export, tails) if not path.is_file()]
    place, source = photos(context, scale.photos)
    problem = f"{listed(missing)} is not there to compare with" if missing else None
    if source == GENERATED:
        problem = "no photos: scikit-image or scikit-learn is not here; give --photos"
    if problem is None:
        images = choose_samples(place, scale.parity_photos).load(manifest.preprocessing).images
        exports = ExportSources((*tails,), tuple(map(context.export, tails)))
        for tail in tails:
            with load(context.built(case), tail=tail) as pipeline:
                logits = pipeline.logits(images)
            reference = exports.reference(tail).classify(images)
            compared = compare(logits, reference, LIMITS[case.precision])
            rows.append({"tail": tail, "by": "photos", **asdict(compared)})
    for tail in tails:
        own = [row for row in rows if row["tail"] == tail]
        worst = max(own, key=itemgetter("relative_error"))
        rows.append({**worst, "by": WORST, "agreement": min(map(itemgetter("agreement"), own))})
    return {"photos": problem, "rows": rows}


def against_torch(context: Context, case: Case) -> Any:
    """Device time of the bundle's models as chain with CUDA graphs, and in plain torch on the same card.

    `versions` of torch, torchvision, its CUDA and cuDNN; `turns`: how often each side ran;
    `times_faster`: torch's median by ours. Where torch could not run a model `error` says why.
    """
    versions: dict[str, Any] = {}
    models = case.bundle.models
    rows = [row for model in models for row in _of_model(context, case, model, versions)]
    errors = [row["error"] for row in rows]
    if all(errors):
        if NO_GPU in errors[0] or "No module named 'torch" in errors[0]:
            raise LeftOut(f"{context.python} has no torch for this GPU: {errors[0]}")
        raise TrtkitError(f"torch could not be measured: {errors[0]}")
    return {"versions": versions, "turns": context.settings.scale.rounds, "rows": rows}


def _of_model(
    context: Context, case: Case, model: str, versions: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The rows of a model, and the versions that the workers tell."""
    settings, scale = context.settings, context.settings.scale
    length = {"sample_seconds": scale.sample_seconds, "most_repeats": scale.most_repeats}
    spec = {"factory": NETWORK, "model": model, "image_size": settings.set.image_size, **length}
    images = context.images(case)
    placed = PlacedEngines(context.engines(case, model), len(images))
    ways = {name: way for name, way in WAYS.items() if settings.torch_compile or not way.compiled}
    with ExitStack() as stack:
        stack.callback(placed.close)
        start = partial(WorkerContestant, spec={}, timeout=TORCH_SECONDS, python=context.python)
        workers = {name: stack.enter_context(start(name)) for name in ways}
        for batch in settings.batches:
            errors = {}
            for name, worker in workers.items():
                way = {"half": ways[name].half, "compiled": ways[name].compiled}
                try:
                    worker.load({**spec, "batch": batch, **way})
                    versions |= worker.facts
                except ContestantFailed as error:
                    errors[name] = str(error)
            placed.fill(images[:batch])
            once = placed.device_seconds(batch, 1)
            repeats = repeats_for(once, scale.sample_seconds, scale.most_repeats)
            ours = Action("ours", partial(placed.device_seconds, batch, repeats))
            ready = [worker for name, worker in workers.items() if name not in errors]
            turns = take_turns([ours, *ready], ProtocolSettings.fixed(scale.rounds))
            errors |= turns.failures
            for name in workers:
                row = {"model": model, "batch": batch, "mode": name, "torch": None}
                row |= {"ours": turns.summary("ours"), "times_faster": None}
                if name not in errors:
                    row["torch"] = turns.summary(name)
                    row["times_faster"] = turns.medians[name] / turns.medians["ours"]
                yield {**row, "error": errors.get(name)}
