"""What is measured: the bundle, and the baselines that run the same model, loaded and ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtkit.benchmark.baselines import load_network
from trtkit.benchmark.kinds import KINDS, missing
from trtkit.benchmark.loaded import (
    Compute,
    EndToEnd,
    Inference,
    OneByOne,
    Together,
    batches_of,
)
from trtkit.benchmark.network import Network, source_graphs
from trtkit.benchmark.spec import (
    APART,
    CACHES,
    COMPUTE,
    END_TO_END,
    MEASURES,
    SEVERAL,
    Spec,
)
from trtkit.benchmark.worker import Loaded
from trtkit.bundle import Manifest, read_manifest
from trtkit.cpu import usable_cores
from trtkit.errors import TrtkitError, listed
from trtkit.runtime.loading import backend_of, load_runner
from trtkit.runtime.models import LoadedModel, bare_stages
from trtkit.serialization import from_plain
from trtkit.stages import Role


def load(spec: Spec | Mapping[str, Any]) -> Loaded:
    """The competitor of `spec`, or of its JSON, warm enough that nothing is compiled in its runs.

    Sets the threads of this process's libraries, so each competitor wants a process of its own:
    trtkit on ONNX Runtime takes a thread for each core that the process may run on. Raises
    TrtkitError when it cannot run here or the spec does not fit the bundle, and ImageError when a
    photo cannot be read.
    """
    spec = spec if isinstance(spec, Spec) else from_plain(spec, Spec)
    _check(spec)
    manifest = read_manifest(Path(spec.bundle))
    if spec.tail in SEVERAL:
        return _load_several(spec, manifest)
    if spec.kind == "trtkit":
        return _load_trtkit(spec, manifest)
    if spec.kind == "tensorrt":
        return _load_tensorrt(spec, manifest)
    if spec.kind == "trtexec":
        from trtkit.benchmark.trtexec import Trtexec

        return Trtexec(spec, manifest)
    network = _network(spec, manifest)
    if spec.measure == COMPUTE:
        return _compute(spec, manifest, network)
    return EndToEnd(network, spec, manifest.preprocessing, manifest.tail(spec.tail).scoring)


def _load_several(spec: Spec, manifest: Manifest) -> Loaded:
    """All tails of the bundle: in one pass, or for other kinds than trtkit one after the other."""
    names = [tail.name for tail in manifest.tails]
    if spec.kind == "trtkit" and not spec.one_by_one:
        _check_batch(spec, manifest)
        runner = load_runner(Path(spec.bundle), manifest, manifest.tails)
        if spec.measure == END_TO_END:
            return Inference(spec, manifest, runner)
        return Together(spec, manifest, runner)
    shares = [spec.photos] * len(names)
    if spec.tail == APART:
        shares = [spec.photos[first :: len(names)] for first in range(len(names))]
    return OneByOne(
        len(spec.photos),
        [
            load(replace(spec, tail=name, photos=share))
            for name, share in zip(names, shares, strict=True)
            if share
        ],
    )


def _compute(
    spec: Spec, manifest: Manifest, network: Network, close: Callable[[], None] = lambda: None
) -> Loaded:
    return Compute(
        network, list(batches_of(spec.photos, manifest.preprocessing, spec.batch)), close
    )


def _check(spec: Spec) -> None:
    absent = missing(spec.kind)
    if absent is not None:
        raise TrtkitError(f"{spec.kind} cannot be measured here: {absent}.")
    for what, name, names in (
        ("Measure", spec.measure, MEASURES),
        ("Cache", spec.cache, CACHES),
    ):
        if name not in names:
            raise TrtkitError(f"{what} `{name}` not found; available: {listed(names)}.")
    kind = KINDS[spec.kind]
    if spec.cache != "off" and (spec.kind, spec.measure) != ("trtkit", END_TO_END):
        raise TrtkitError(
            f"{spec.kind}, {spec.measure}, has no {spec.cache} cache, only trtkit, end to end, has one; "
            "measure it with the cache off."
        )
    if kind.compute_only and spec.measure != COMPUTE:
        raise TrtkitError(
            f"{spec.kind} runs on random numbers and cannot be measured {spec.measure}; measure "
            f"{COMPUTE}."
        )
    for needed, what, folder in (
        (spec.cache != "off", f"A {spec.cache} cache", spec.cache_dir),
        (kind.per_precision, f"The engine of {spec.kind}", spec.built_dir),
    ):
        if needed and not (folder and Path(folder).is_dir()):
            raise TrtkitError(f"{what} needs a folder, but {folder!r} is not one; make it first.")
    if not spec.photos or spec.batch < 1 or spec.threads < 1:
        raise TrtkitError(
            f"{len(spec.photos)} photos, batches of {spec.batch} and {spec.threads} threads cannot be "
            "measured; give 1 or more of each."
        )


def _network(spec: Spec, manifest: Manifest) -> Network:
    # The first batch and the smaller last one: what a network is tried out and compiled with.
    first = next(batches_of(spec.photos[: spec.batch], manifest.preprocessing, spec.batch))
    rest = len(spec.photos) % spec.batch
    return load_network(
        spec.kind,
        source_graphs(Path(spec.bundle), manifest, spec.tail),
        classes=len(manifest.tail(spec.tail).classes or ()),
        threads=spec.threads,
        examples=[first, first[:rest]] if 0 < rest < len(first) else [first],
    )


def _load_trtkit(spec: Spec, manifest: Manifest) -> Loaded:
    tail = manifest.tail(spec.tail)
    _check_batch(spec, manifest)
    if spec.cache != "off" and manifest.cut_of(tail) is None:
        raise TrtkitError(
            f"Bundle {manifest.name} is not split, so it has nothing to put into a {spec.cache} cache; "
            "measure it without a cache, or build it with --cut."
        )
    backend = backend_of(manifest)
    if not backend.on_device and spec.threads != usable_cores():
        raise TrtkitError(
            f"trtkit on {backend.name} runs a thread on each of the {usable_cores()} cores that this "
            f"process may use, not {spec.threads} threads; give the process as many cores."
        )
    if spec.measure == COMPUTE and backend.on_device and not spec.one_by_one:
        from trtkit.benchmark.tensorrt_engines import bundle_engines

        return _on_gpu(spec, manifest, bundle_engines(Path(spec.bundle), manifest, tail))
    runner = load_runner(Path(spec.bundle), manifest, [tail])
    if spec.measure == END_TO_END:
        return Inference(spec, manifest, runner)
    model = LoadedModel.of(manifest, tail, runner)
    return _compute(spec, manifest, Network(model.classify), runner.close)


def _load_tensorrt(spec: Spec, manifest: Manifest) -> Loaded:
    """The model without a split on the same backend: end to end with the same pipeline."""
    from trtkit.benchmark.tensorrt_engines import unsplit_engine
    from trtkit.runtime.device.runner import DeviceRunner

    _check_batch(spec, manifest)
    tail = manifest.tail(spec.tail)
    engine = unsplit_engine(Path(spec.bundle), manifest, tail, Path(spec.built_dir))
    if spec.measure == COMPUTE:
        return _on_gpu(spec, manifest, [("head", engine)])
    (stage,) = bare_stages([("head", engine)])
    outputs = tuple(replace(output, scores=tail.scoring) for output in stage.outputs)
    stage = replace(stage, name=tail.name, classes=tail.classes, outputs=outputs)
    whole = replace(manifest, stages=(stage,))
    return Inference(spec, whole, DeviceRunner([stage], {stage.name: engine}))


def _on_gpu(spec: Spec, manifest: Manifest, engines: Sequence[tuple[Role, Any]]) -> Loaded:
    """Engines on a GPU alone, without copies to it and from it, timed by the GPU."""
    from trtkit.benchmark.tensorrt_engines import PlacedEngines

    placed = PlacedEngines(engines, spec.batch)
    return _compute(spec, manifest, Network(placed.logits, on_device=placed), placed.close)


def _check_batch(spec: Spec, manifest: Manifest) -> None:
    low, _, high = manifest.batch
    if spec.batch > high:
        raise TrtkitError(
            f"Bundle {manifest.name} takes batches of {low} to {high} images, not {spec.batch}; choose "
            "one of those or build it again with --batch."
        )
