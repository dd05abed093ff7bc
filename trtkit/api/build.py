"""`trtkit build`: split, convert, build, verify, publish a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit import __version__, bundle
from trtkit.building.auto import resolve_cut
from trtkit.building.quantized import quantized
from trtkit.building.request import Asked, Calibration, Request, from_bundle, from_exports
from trtkit.building.sources import BundleSources, QuantizedSources, Tree
from trtkit.building.verification import Comparison, check, compare, limits_for
from trtkit.bundle import Manifest, Stage
from trtkit.costs.caching import EngineCosts, engine_costs, measure_costs
from trtkit.engines.base import BuildPlace, StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import file_digest
from trtkit.photos.samples import SampleImages
from trtkit.runtime.chain import Chain, Runner
from trtkit.runtime.loading import load_chain
from trtkit.store.costs import machine_of
from trtkit.tensors import Array
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.graph.tree import StageGraph

DEFAULT_VERIFY_IMAGES = 16
# That the processor's times are measured on: to tell what is cheaper, not for the record.
COST_IMAGES = 4
COST_PHOTOS = 16

Progress = Callable[[str], None]
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildReport:
    """The bundle's folder and manifest.

    `up_to_date`: it was there already, nothing was built. `why`: the reasons for a cut that was
    chosen, in sentences.
    """

    folder: Path
    manifest: Manifest
    up_to_date: bool
    why: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**self.manifest.to_json(), "up_to_date": self.up_to_date, "why": list(self.why)}


def build(
    names: Sequence[str] = (),
    *,
    cut: int | str | None = None,
    hit_rate: float | None = None,
    storage_per_image: int | None = None,
    precision: str | None = None,
    backend: str = "auto",
    options: BuildOptions | Mapping[str, Any] | None = None,
    bundle_name: str | None = None,
    embeddings: bool = False,
    verify_images: int = DEFAULT_VERIFY_IMAGES,
    min_agreement: float | None = None,
    calibration: str | Path | None = None,
    calibration_images: int | None = None,
    calibration_method: str | None = None,
    workspace: str | Path | None = None,
    progress: Progress = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> BuildReport:
    """Build the bundle of the exported models `names` (all of the workspace by default).

    One prefix up to block `cut` and a tail for each model; cut 0 does not split, and for `auto` the
    cut with the least expected time is chosen by measuring: for a `hit_rate` (0 to 1, 0.8 by default)
    and feature maps of at most `storage_per_image` bytes. With `embeddings` each tail is two engines, so
    that what its last layer takes can be had (`Runner.submit`). `precision`: `fp32` (the default),
    `fp16` or `int8`. The chain is compared with the unsplit fp32 model on `verify_images` photos of
    `calibration/`, or on generated images when there are none; `min_agreement` (0 to 1) takes the place
    of the precision's own limit on equal top-1 classes. For int8 of a model that has no Q/DQ pairs
    ranges are measured on `calibration_images` (512) photos of `calibration` (the workspace's
    calibration/) by `calibration_method` (`entropy`, `max` or `auto`, the better one), and others of
    them decide which layers return to float until `min_agreement` holds. The bundle appears as a whole
    or not at all; the same request again builds nothing.

    With a `bundle_name` but without `names` and `cut` it rebuilds that bundle for this machine from
    the ONNX it keeps: for the backend it was built for where that can build here, at its precision and
    with its options where none are given. `options` as a dict changes those that it names.

    `progress` is told each step, `advance(phase, share)` how far TensorRT is in one. Raises
    TrtkitError.
    """
    place = Workspace.at(workspace)
    ranges = Calibration(calibration, calibration_images, calibration_method)
    asked = Asked(precision, backend, options, verify_images, min_agreement, ranges, embeddings)
    number, why = resolve_cut(
        place, names, cut, hit_rate, storage_per_image, asked, progress, advance
    )
    request, folder = _request(place, names, number, bundle_name, asked)
    identity = request.id()
    existing = _existing(folder, identity)
    if existing is not None:
        # What was asked for last is what `infer` takes when no bundle is named; on a read-only disk
        # the order stays as it is.
        with suppress(OSError):
            (folder / bundle.MANIFEST).touch()
        return BuildReport(folder, existing, up_to_date=True, why=why)
    require("train", "Building", "onnx")
    with (
        bundle.staging(folder.parent) as staged,
        quantized(request, progress, advance) as ready,
    ):
        ground = BuildPlace(place.timing, advance)
        # The id is that of what was asked for.
        manifest = _build(ready, identity, staged, ground, progress)
        bundle.publish(folder, staged, manifest)
    return BuildReport(folder, manifest, up_to_date=False, why=why)


def _request(
    place: Workspace, names: Sequence[str], cut: int | None, bundle_name: str | None, asked: Asked
) -> tuple[Request, Path]:
    """What is to be built, and the bundle's folder."""
    if cut is None and not names and bundle_name is not None:
        folder = place.find_bundle(bundle_name)
        return from_bundle(place, folder, asked), folder
    request = from_exports(place, names, cut, bundle_name, asked)
    return request, place.engines / request.bundle


def _existing(folder: Path, identity: str) -> Manifest | None:
    """The bundle in `folder` if it is the one asked for, whole and undamaged."""
    if not (folder / bundle.MANIFEST).is_file():
        return None
    try:
        manifest = bundle.read_manifest(folder)
        if manifest.build_id == identity:
            bundle.check_files(folder, manifest.stages, sources=True)
            return manifest
    except TrtkitError:
        # Whatever is wrong with it, the build that follows replaces it.
        return None
    return None


def _build(
    request: Request, identity: str, staged: Path, place: BuildPlace, progress: Progress
) -> Manifest:
    progress(f"Splitting {listed(request.sources.names)} at cut {request.cut}")
    tree = request.sources.tree(request.cut, request.arithmetic)
    built = []
    for stage in tree.stages:
        progress(f"Building {stage.name} ({request.precision}, {request.backend.name})")
        built.append(_build_stage(stage, request, staged, place))
    manifest = _manifest(request, identity, tree, tuple(built))
    blocked = request.backend.cannot_run()
    samples = request.samples.load(manifest.preprocessing)
    verified: dict[str, Any] = {
        "source": samples.source,
        "images": len(samples.images),
        "by": "onnxruntime" if blocked else request.backend.name,
        "tails": {},
    }
    measured: dict[str, EngineCosts] = {}
    for tail in manifest.tails:
        progress(f"Verifying {tail.name} on {samples.describe()}")
        if blocked is None:
            chain = load_chain(staged, manifest, tail, request.backend)
        else:
            chain = _graph_chain(staged, manifest, tail)
        comparison = _verify(chain, request, samples, tail.name)
        verified["tails"][tail.name] = comparison.to_json()
        if manifest.cut and blocked is None:
            # The bundle is good without: a tail that was not measured is one whose cache is used.
            with suppress(TrtkitError):
                measured[tail.name] = engine_costs(chain, _cost_batch(request, samples))
    costs = _costs(measured, request, manifest, samples, progress) if measured else None
    return replace(manifest, verified=verified, unverified=blocked, costs=costs)


def _cost_batch(request: Request, samples: SampleImages) -> Array:
    """As many images as a run takes by default; fewer on the CPU, where each takes as long alone."""
    usual = request.options.batch[1]
    count = usual if request.backend.on_device else min(usual, COST_IMAGES)
    return np.resize(samples.images, (count, *samples.images.shape[1:]))


def _costs(
    measured: Mapping[str, EngineCosts],
    request: Request,
    manifest: Manifest,
    samples: SampleImages,
    progress: Progress,
) -> dict[str, Any] | None:
    """What the cache costs and saves, with engines that were measured; None where no cache can be made."""
    progress("Measuring what the cache costs and saves")
    try:
        with TemporaryDirectory(prefix="trtkit-photos-") as folder:
            photos = samples.some(COST_PHOTOS).photos(Path(folder))
            # Enough to keep all threads busy, however few there are.
            photos = tuple(islice(cycle(photos), COST_PHOTOS))
            machine = machine_of(request.backend)
            return measure_costs(measured, machine, photos, manifest.preprocessing).to_json()
    except (OSError, TrtkitError) as error:
        progress(f"It was not measured, and so the cache will be used. {error}")
        return None


def _manifest(request: Request, identity: str, tree: Tree, stages: tuple[Stage, ...]) -> Manifest:
    return Manifest(
        name=request.bundle,
        build_id=identity,
        cut=request.cut,
        precision=request.precision,
        computes=request.backend.computes[request.precision],
        backend=request.backend.name,
        backend_version=request.backend.version,
        trtkit_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        batch=request.options.batch,
        preprocessing=tree.preprocessing,
        stages=stages,
        weights=tree.weights,
        trained_on=tree.trained_on,
        models=request.sources.digests(),
        options=request.options.to_json(),
        quantized=_quantization(request),
    )


def _quantization(request: Request) -> dict[str, Any] | None:
    """How int8 was made; of a bundle that is rebuilt, what it says."""
    if isinstance(request.sources, QuantizedSources):
        return request.sources.record
    if isinstance(request.sources, BundleSources) and request.precision == "int8":
        return request.sources.manifest.quantized
    return None


def _build_stage(stage: StageGraph, request: Request, staged: Path, place: BuildPlace) -> Stage:
    from trtkit.graph.files import write_model
    from trtkit.graph.typed import quantize_from_fp32

    backend = request.backend
    kept = staged / f"{stage.name}.source"
    write_model(stage.graph, kept)
    source, source_digest = _name(kept, f"{stage.name}-source", ".onnx")
    work = StageBuild(
        name=stage.name,
        graph=stage.graph,
        precision=request.precision,
        root=stage.parent is None,
        leaf=stage.classes is not None,
        part=stage.part,
        options=request.options,
    )
    raw = staged / f"{stage.name}.new"
    engine = backend.build(work, raw, place)
    file, digest = _name(raw, stage.name, backend.suffix)
    if backend.cannot_run() is not None:
        quantize_from_fp32(stage.graph.graph)
        write_model(stage.graph, staged / _graph_file(stage.name))
    return Stage(
        name=stage.name,
        id=stage.id,
        parent=stage.parent,
        file=file,
        digest=digest,
        inputs=engine.inputs,
        outputs=engine.outputs,
        classes=stage.classes,
        source=source,
        source_digest=source_digest,
        engine=engine.record,
    )


def _name(raw: Path, stage: str, suffix: str) -> tuple[str, str]:
    """Name a new file by its content, so that a bundle's old and new files never collide."""
    digest = file_digest(raw)
    file = f"{stage}-{digest[:16]}{suffix}"
    raw.replace(raw.with_name(file))
    return file, digest


def _graph_file(stage: str) -> str:
    return f"{stage}.graph"


def _graph_chain(staged: Path, manifest: Manifest, tail: Stage) -> Chain:
    """The graphs that the engines were built from, on ONNX Runtime: what they say, not what they do."""
    backend = OnnxRuntimeBackend(exact=True)
    path = manifest.path_to(tail)
    return Chain([backend.load(staged / _graph_file(stage.name)) for stage in path])


def _verify(chain: Runner, request: Request, samples: SampleImages, name: str) -> Comparison:
    """Run the chain, and the model as it was exported, on the same images."""
    whole = request.sources.reference(name)
    limits = limits_for(request.precision, request.backend.name, request.min_agreement)
    comparison = compare(chain.logits(samples.images), whole.logits(samples.images), limits)
    check(comparison, limits, f"{name} at {request.precision}", samples.describe())
    return comparison
