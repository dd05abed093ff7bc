"""`trtkit build`: split, convert, build, verify, publish a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit import __version__, bundle
from trtkit.api.sources import BundleSources, ExportSources, Sources, Tree
from trtkit.bundle import PREFIX, Manifest, Stage
from trtkit.engines.base import Backend, BuildPlace, StageBuild
from trtkit.engines.onnxruntime import OnnxRuntimeBackend
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import can_build, get_backend
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import build_id, file_digest
from trtkit.runtime.chain import Chain, Runner, load_chain
from trtkit.runtime.samples import SampleImages, Samples, choose_samples
from trtkit.runtime.verify import Comparison, check, compare, limits_for
from trtkit.workspace import Workspace, check_name

if TYPE_CHECKING:
    from trtkit.graph.tree import StageGraph

DEFAULT_VERIFY_IMAGES = 16
# Beside the bundles, hidden from their list.
TIMING_FOLDER = ".timing-cache"

Progress = Callable[[str], None]
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildReport:
    """The bundle's folder and manifest. `up_to_date`: it was there already, nothing was built."""

    folder: Path
    manifest: Manifest
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        return {**self.manifest.to_json(), "up_to_date": self.up_to_date}


@dataclass(frozen=True)
class _Request:
    """One build, resolved: everything that the result depends on, and where it goes."""

    sources: Sources
    cut: int
    precision: str
    options: BuildOptions
    backend: Backend
    samples: Samples
    min_agreement: float | None
    bundle: str

    @property
    def arithmetic(self) -> str:
        """What feature maps are told apart by: TF32 rounds what fp32 does not."""
        return "tf32" if self.options.tf32 and self.precision == "fp32" else self.precision

    def id(self) -> str:
        return build_id(
            models=list(self.sources.digests().items()),
            cut=self.cut,
            precision=self.precision,
            options=self.options.to_json(),
            backend=[self.backend.name, self.backend.version, *self.backend.target()],
            samples=self.samples.digest,
            min_agreement=self.min_agreement,
            trtkit=__version__,
        )


def build(
    names: Sequence[str] = (),
    *,
    cut: int | None = None,
    precision: str | None = None,
    backend: str = "auto",
    options: BuildOptions | Mapping[str, Any] | None = None,
    bundle_name: str | None = None,
    verify_images: int = DEFAULT_VERIFY_IMAGES,
    min_agreement: float | None = None,
    workspace: str | Path | None = None,
    progress: Progress = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> BuildReport:
    """Build the bundle of the exported models `names` (all of the workspace by default).

    One prefix up to block `cut` and a tail for each model; cut 0 does not split. `precision`: `fp32`
    (the default), `fp16` or `int8`. The chain is compared with the unsplit fp32 model on
    `verify_images` photos of `calibration/`, or on generated images when there are none;
    `min_agreement` (0 to 1) takes the place of the precision's own limit on equal top-1 classes. The
    bundle appears as a whole or not at all; the same request again builds nothing.

    With a `bundle_name` but without `names` and `cut` it rebuilds that bundle for this machine from
    the ONNX it keeps: for the backend it was built for where that can build here, at its precision and
    with its options where none are given. `options` as a dict changes those that it names.

    `progress` is told each step, `advance(phase, share)` how far TensorRT is in one. Raises
    TrtkitError.
    """
    place = Workspace.at(workspace)
    samples = _samples(place, verify_images, min_agreement)
    if cut is None and not names and bundle_name is not None:
        request = _from_bundle(
            place, bundle_name, precision, backend, options, samples, min_agreement
        )
        folder = place.find_bundle(bundle_name)
    else:
        request = _from_exports(
            place, names, cut, precision, backend, options, bundle_name, samples, min_agreement
        )
        folder = place.engines / request.bundle
    identity = request.id()
    existing = _existing(folder, identity)
    if existing is not None:
        # What was asked for last is what `infer` takes when no bundle is named; on a read-only disk
        # the order stays as it is.
        with suppress(OSError):
            (folder / bundle.MANIFEST).touch()
        return BuildReport(folder, existing, up_to_date=True)
    require("train", "Building", "onnx")
    with bundle.staging(folder.parent) as staged:
        ground = BuildPlace(place.engines / TIMING_FOLDER, advance)
        manifest = _build(request, identity, staged, ground, progress)
        bundle.publish(folder, staged, manifest)
    return BuildReport(folder, manifest, up_to_date=False)


def _samples(place: Workspace, verify_images: int, min_agreement: float | None) -> Samples:
    if verify_images < 1:
        raise TrtkitError(
            f"A build verified on {verify_images} images was asked for; give 1 or more."
        )
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise TrtkitError(
            f"An agreement of at least {min_agreement} was asked for; give a share from 0 to 1, such "
            "as 0.99."
        )
    return choose_samples(place.calibration, verify_images)


def _from_exports(
    place: Workspace,
    names: Sequence[str],
    cut: int | None,
    precision: str | None,
    backend: str,
    options: BuildOptions | Mapping[str, Any] | None,
    bundle_name: str | None,
    samples: Samples,
    min_agreement: float | None,
) -> _Request:
    names = list(names) or place.exported()
    if not names:
        raise TrtkitError(
            f"There is no exported model in {place.exports} to build; run `trtkit export MODEL` "
            "first."
        )
    if cut is None:
        raise TrtkitError(
            "No --cut was given; give the number of the block to cut after (`trtkit cuts NAME` lists "
            "them), 0 for no split, or the bundle to rebuild alone."
        )
    exports = tuple(place.find_export(name) for name in names)
    stems = tuple(path.stem for path in exports)
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise TrtkitError(
            f"{listed(sorted(twice))} was given more than once; name each model once."
        )
    if cut and PREFIX in stems:
        raise TrtkitError(
            f"A model is called {PREFIX!r}, which is the name of the stage that models share; "
            "export it with another --name."
        )
    precision = precision or "fp32"
    chosen = _backend(backend, precision)
    default = "+".join(stems) + (f"-cut{cut}" if cut else "") + f"-{precision}"
    check_name(bundle_name or default)
    return _Request(
        sources=ExportSources(stems, exports),
        cut=cut,
        precision=precision,
        options=_options(BuildOptions(), options),
        backend=chosen,
        samples=samples,
        min_agreement=min_agreement,
        bundle=bundle_name or default,
    )


def _from_bundle(
    place: Workspace,
    name: str,
    precision: str | None,
    backend: str,
    options: BuildOptions | Mapping[str, Any] | None,
    samples: Samples,
    min_agreement: float | None,
) -> _Request:
    folder = place.find_bundle(name)
    manifest = bundle.read_manifest(folder)
    sources = BundleSources(folder, manifest)
    sources.check()
    precision = precision or manifest.precision
    if backend == "auto" and can_build(manifest.backend):
        backend = manifest.backend
    chosen = _backend(backend, precision)
    recorded = BuildOptions.from_json(manifest.options)
    if chosen.name != manifest.backend and not chosen.on_device:
        # What is left out was asked of a backend on a GPU.
        recorded = BuildOptions(profiles=recorded.profiles)
    return _Request(
        sources=sources,
        cut=manifest.cut,
        precision=precision,
        options=_options(recorded, options),
        backend=chosen,
        samples=samples,
        min_agreement=min_agreement,
        bundle=manifest.name,
    )


def _options(usual: BuildOptions, asked: BuildOptions | Mapping[str, Any] | None) -> BuildOptions:
    if isinstance(asked, BuildOptions):
        return asked
    return usual.changed(asked or {})


def _backend(name: str, precision: str) -> Backend:
    chosen = get_backend(name)
    if precision not in chosen.computes:
        raise TrtkitError(
            f"Precision {precision} was asked of {chosen.name}, which builds "
            f"{' and '.join(chosen.computes)}; choose one of those."
        )
    return chosen


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
    request: _Request, identity: str, staged: Path, place: BuildPlace, progress: Progress
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
    for tail in manifest.tails:
        progress(f"Verifying {tail.name} on {samples.describe()}")
        if blocked is None:
            chain = load_chain(staged, manifest, tail, request.backend)
        else:
            chain = _graph_chain(staged, manifest, tail)
        comparison = _verify(chain, request, samples, tail.name)
        verified["tails"][tail.name] = comparison.to_json()
    return replace(manifest, verified=verified, unverified=blocked)


def _manifest(request: _Request, identity: str, tree: Tree, stages: tuple[Stage, ...]) -> Manifest:
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
        models=request.sources.digests(),
        options=request.options.to_json(),
    )


def _build_stage(stage: StageGraph, request: _Request, staged: Path, place: BuildPlace) -> Stage:
    from trtkit.graph.files import write_model

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
        options=request.options,
    )
    raw = staged / f"{stage.name}.new"
    engine = backend.build(work, raw, place)
    file, digest = _name(raw, stage.name, backend.suffix)
    if backend.cannot_run() is not None:
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
    backend = OnnxRuntimeBackend()
    path = manifest.path_to(tail)
    return Chain([backend.load(staged / _graph_file(stage.name)) for stage in path])


def _verify(chain: Runner, request: _Request, samples: SampleImages, name: str) -> Comparison:
    """Run the chain and the fp32 model on the same images."""
    whole = request.sources.reference(name)
    limits = limits_for(request.precision, request.backend.name, request.min_agreement)
    comparison = compare(chain.logits(samples.images), whole.logits(samples.images), limits)
    check(comparison, limits, f"{name} at {request.precision}", samples.describe())
    return comparison
