"""From a request to a published bundle: the stages, their engines, the verification, the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtkit import __version__, publishing, reporting
from trtkit.atomic import scratch_folder
from trtkit.building.cut import resolve_cut
from trtkit.building.quantized import quantized
from trtkit.building.request import BuildRequest, BuildSettings, from_bundle, from_exports
from trtkit.building.sources import BundleSources, QuantizedSources, Tree
from trtkit.building.verification import Comparison, check, compare, limits_for, remedy_of
from trtkit.bundle import MANIFEST, Manifest, check_files, read_manifest
from trtkit.costs.caching import EngineCosts, engine_costs, measure_costs
from trtkit.engines.base import StageBuild
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import file_digest
from trtkit.photos.samples import SampleImages
from trtkit.runtime.loading import load_runner
from trtkit.runtime.models import LoadedModel, load_graphs
from trtkit.serialization import to_plain
from trtkit.stages import Stage, StageInput, StageOutput
from trtkit.store.costs import machine_of
from trtkit.tensors import Array
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.graph.tree import StageGraph

# What the cache costs is measured on so many: enough to see what is cheaper.
COST_IMAGES = 4
COST_PHOTOS = 16


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


def build_bundle(place: Workspace, names: Sequence[str], settings: BuildSettings) -> BuildReport:
    """Build and publish the bundle of `names`, unless it is up to date. Raises TrtkitError."""
    cut, why = resolve_cut(place, names, settings)
    if cut is None and not names and settings.bundle_name is not None:
        folder = place.find_bundle(settings.bundle_name)
        request = from_bundle(place, folder, settings)
    else:
        request = from_exports(place, names, cut, settings)
        folder = place.engines / request.bundle
    # Of the request as it is, before quantizing.
    identity = request.id()
    existing = _up_to_date(folder, identity)
    if existing is not None:
        # `infer` takes the newest bundle by default. On a read-only disk the order stays.
        with suppress(OSError):
            (folder / MANIFEST).touch()
        return BuildReport(folder, existing, up_to_date=True, why=why)
    require("train", "Building", "onnx")
    with publishing.staging(folder.parent) as staged, quantized(request) as ready:
        manifest = _Assembly(ready, staged, place.timing).manifest(identity)
        publishing.publish(folder, staged, manifest)
    return BuildReport(folder, manifest, up_to_date=False, why=why)


def _up_to_date(folder: Path, identity: str) -> Manifest | None:
    """The manifest of the bundle in `folder` if it is of that request, whole and undamaged."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
        if manifest.build_id == identity:
            check_files(folder, manifest.stages, sources=True)
            return manifest
    except TrtkitError:
        # The build that follows replaces a damaged bundle.
        return None
    return None


@dataclass(frozen=True)
class _Assembly:
    """The build of one request in the folder `staged`; `timing` keeps what later builds can use."""

    request: BuildRequest
    staged: Path
    timing: Path

    def manifest(self, identity: str) -> Manifest:
        """Build and verify everything. Raises TrtkitError."""
        request = self.request
        reporting.message(f"Splitting {listed(request.sources.names)} at cut {request.cut}")
        tree = request.sources.tree(request.cut, request.arithmetic)
        stages: dict[str | None, Stage] = {}
        for stage in tree.stages:
            stages[stage.name] = self._build_stage(stage, stages.get(stage.parent))
        manifest = _manifest(request, identity, tree, tuple(stages.values()))
        samples = request.samples.load(manifest.preprocessing)
        blocked = request.backend.cannot_run()
        tails: dict[str, Comparison] = {}
        measured: dict[str, EngineCosts] = {}
        for tail in manifest.tails:
            reporting.message(f"Verifying {tail.name} on {samples.describe()}")
            if blocked is None:
                runner = load_runner(self.staged, manifest, [tail])
                model = LoadedModel.of(manifest, tail, runner)
            else:
                model = self._graph_model(manifest, tail)
            tails[tail.name] = _verify(model, request, samples, tail)
            if model.cut is not None and blocked is None:
                # A tail without measured costs uses the cache.
                with suppress(TrtkitError):
                    measured[tail.name] = engine_costs(model, _cost_batch(request, samples))
        verified = {
            "source": samples.source,
            "images": len(samples.images),
            "by": "onnxruntime" if blocked else request.backend.name,
            "tails": to_plain(tails),
        }
        costs = _costs(measured, manifest, request, samples) if measured else None
        return replace(manifest, verified=verified, unverified=blocked, costs=costs)

    def _build_stage(self, stage: StageGraph, parent: Stage | None) -> Stage:
        from trtkit.graph.files import write_model
        from trtkit.graph.precision import quantize_from_fp32

        request, backend = self.request, self.request.backend
        reporting.message(f"Building {stage.name} ({request.precision}, {backend.name})")
        exported = self.staged / f"{stage.name}.source"
        write_model(stage.graph, exported)
        original, source_digest = _name_by_content(exported, f"{stage.name}-source", ".onnx")
        work = StageBuild(
            name=stage.name,
            graph=stage.graph,
            precision=request.precision,
            root=stage.parent is None,
            leaf=stage.classes is not None,
            part=stage.part,
            options=request.options,
        )
        raw = self.staged / f"{stage.name}.new"
        engine = backend.build(work, raw, self.timing)
        file, digest = _name_by_content(raw, stage.name, backend.suffix)
        if backend.cannot_run() is not None:
            quantize_from_fp32(stage.graph.graph)
            write_model(stage.graph, self._graph_file(stage.name))
        # Backends may rename the ends of a graph.
        source = None
        if parent is not None:
            (output,) = parent.outputs
            source = output.name
        return Stage(
            name=stage.name,
            id=stage.id,
            role=stage.role,
            parent=stage.parent,
            file=file,
            digest=digest,
            inputs=tuple(
                StageInput(spec.name, spec.dtype, spec.shape, source) for spec in engine.inputs
            ),
            outputs=tuple(
                StageOutput(
                    spec.name,
                    spec.dtype,
                    spec.shape,
                    stage.gives,
                    stage.scores if stage.gives == "logits" else None,
                )
                for spec in engine.outputs
            ),
            classes=stage.classes,
            source=original,
            source_digest=source_digest,
            engine=engine.record,
        )

    def _graph_file(self, stage: str) -> Path:
        return self.staged / f"{stage}.graph"

    def _graph_model(self, manifest: Manifest, tail: Stage) -> LoadedModel:
        """The graphs that the engines were built from, on ONNX Runtime."""
        path = manifest.path_to(tail)
        return load_graphs(
            *((stage.role, self._graph_file(stage.name)) for stage in path), exact=True
        )


def _name_by_content(raw: Path, stage: str, suffix: str) -> tuple[str, str]:
    """Rename a new file after its content, so that a bundle's old and new files never collide."""
    digest = file_digest(raw)
    file = f"{stage}-{digest[:16]}{suffix}"
    raw.replace(raw.with_name(file))
    return file, digest


def _manifest(
    request: BuildRequest, identity: str, tree: Tree, stages: tuple[Stage, ...]
) -> Manifest:
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
        options=to_plain(request.options),
        quantized=_quantization(request),
    )


def _quantization(request: BuildRequest) -> dict[str, Any] | None:
    """The record of the quantization; a rebuilt bundle keeps its own."""
    if isinstance(request.sources, QuantizedSources):
        return request.sources.record
    if isinstance(request.sources, BundleSources) and request.precision == "int8":
        return request.sources.manifest.quantized
    return None


def _verify(
    model: LoadedModel, request: BuildRequest, samples: SampleImages, tail: Stage
) -> Comparison:
    """Compare the engines with the exported model on the same images. Raises TrtkitError."""
    name, scoring = tail.name, tail.scoring
    whole = request.sources.reference(name)
    limits = limits_for(request.precision, request.backend.name, request.min_agreement)
    outputs, reference = model.classify(samples.images), whole.classify(samples.images)
    comparison = compare(outputs, reference, limits, scoring)
    remedy = remedy_of(request.precision, comparison, limits)
    check(comparison, limits, f"{name} at {request.precision}", samples.describe(), remedy)
    return comparison


def _cost_batch(request: BuildRequest, samples: SampleImages) -> Array:
    """As many images as a run takes by default; fewer on the CPU, where time grows with the batch."""
    optimum = request.options.batch[1]
    count = optimum if request.backend.on_device else min(optimum, COST_IMAGES)
    return np.resize(samples.images, (count, *samples.images.shape[1:]))


def _costs(
    measured: Mapping[str, EngineCosts],
    manifest: Manifest,
    request: BuildRequest,
    samples: SampleImages,
) -> dict[str, Any] | None:
    """What the cache costs and saves with the measured engines; None where no cache can be made."""
    reporting.message("Measuring what the cache costs and saves")
    try:
        with scratch_folder() as folder:
            photos = samples.some(COST_PHOTOS).photos(folder)
            # Enough to keep all threads busy, however few there are.
            photos = tuple(islice(cycle(photos), COST_PHOTOS))
            machine = machine_of(request.backend)
            costs = measure_costs(measured, machine, photos, manifest.preprocessing)
            value: dict[str, Any] = to_plain(costs)
            return value
    except (OSError, TrtkitError) as error:
        reporting.message(
            f"The cache will be used, because its costs could not be measured. {error}"
        )
        return None
