"""`trtkit build`: split, convert, build, verify, publish a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit import __version__, bundle
from trtkit.bundle import PREFIX, Manifest, Stage
from trtkit.engines.base import Backend, Engine
from trtkit.engines.registry import get_backend
from trtkit.errors import TrtkitError, listed, os_reason
from trtkit.extras import require
from trtkit.identity import build_id, file_digest
from trtkit.runtime.chain import Chain
from trtkit.runtime.samples import SampleImages, Samples, choose_samples
from trtkit.runtime.verify import LIMITS, Comparison, check, compare
from trtkit.workspace import Workspace, check_name

if TYPE_CHECKING:
    from trtkit.graph.tree import Model, StageGraph

DEFAULT_BATCH = (1, 8, 64)
DEFAULT_VERIFY_IMAGES = 16

Progress = Callable[[str], None]


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

    names: tuple[str, ...]
    exports: tuple[Path, ...]
    cut: int
    precision: str
    batch: tuple[int, int, int]
    backend: Backend
    samples: Samples
    bundle: str

    def id(self) -> str:
        return build_id(
            models=[
                [name, _digest(path)] for name, path in zip(self.names, self.exports, strict=True)
            ],
            cut=self.cut,
            precision=self.precision,
            batch=self.batch,
            backend=[self.backend.name, self.backend.version],
            samples=self.samples.digest,
            trtkit=__version__,
        )


def build(
    names: Sequence[str] = (),
    *,
    cut: int,
    precision: str = "fp32",
    backend: str = "auto",
    batch: tuple[int, int, int] = DEFAULT_BATCH,
    bundle_name: str | None = None,
    verify_images: int = DEFAULT_VERIFY_IMAGES,
    workspace: str | Path | None = None,
    progress: Progress = lambda message: None,
) -> BuildReport:
    """Build the bundle of the exported models `names` (all of the workspace by default).

    One prefix up to block `cut` and a tail for each model; cut 0 does not split. `precision`: `fp32`
    or `fp16`. `batch`: minimum, optimum and maximum images per run. The chain is compared with the
    unsplit fp32 model on `verify_images` photos of `calibration/`, or on generated images when there
    are none. The bundle appears as a whole or not at all; the same request again builds nothing.
    `progress` is told each step. Raises TrtkitError.
    """
    place = Workspace.at(workspace)
    request = _resolve(place, names, cut, precision, backend, batch, bundle_name, verify_images)
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
    with bundle.staging(place.engines) as staged:
        manifest = _build(request, identity, staged, progress)
        bundle.publish(folder, staged, manifest)
    return BuildReport(folder, manifest, up_to_date=False)


def _resolve(
    place: Workspace,
    names: Sequence[str],
    cut: int,
    precision: str,
    backend: str,
    batch: tuple[int, int, int],
    bundle_name: str | None,
    verify_images: int,
) -> _Request:
    names = list(names) or place.exported()
    if not names:
        raise TrtkitError(
            f"There is no exported model in {place.exports} to build; run `trtkit export MODEL` "
            "first."
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
    low, best, high = batch
    if not 1 <= low <= best <= high:
        raise TrtkitError(
            f"Batch {low},{best},{high} was asked for; give MIN,OPT,MAX with 1 <= MIN <= OPT <= MAX."
        )
    if verify_images < 1:
        raise TrtkitError(
            f"A build verified on {verify_images} images was asked for; give 1 or more."
        )
    chosen = get_backend(backend)
    if precision not in chosen.computes:
        raise TrtkitError(
            f"Precision {precision} was asked of {chosen.name}, which builds "
            f"{' and '.join(chosen.computes)}; choose one of those."
        )
    default = "+".join(stems) + (f"-cut{cut}" if cut else "") + f"-{precision}"
    check_name(bundle_name or default)
    return _Request(
        names=stems,
        exports=exports,
        cut=cut,
        precision=precision,
        batch=batch,
        backend=chosen,
        samples=choose_samples(place.calibration, verify_images),
        bundle=bundle_name or default,
    )


def _existing(folder: Path, identity: str) -> Manifest | None:
    """The bundle in `folder` if it is the one asked for, whole and undamaged."""
    if not (folder / bundle.MANIFEST).is_file():
        return None
    try:
        manifest = bundle.read_manifest(folder)
        if manifest.build_id == identity:
            bundle.check_files(folder, manifest.stages)
            return manifest
    except TrtkitError:
        # Whatever is wrong with it, the build that follows replaces it.
        return None
    return None


def _build(request: _Request, identity: str, staged: Path, progress: Progress) -> Manifest:
    from trtkit.graph.tree import stage_tree

    models = [_read(name, path) for name, path in zip(request.names, request.exports, strict=True)]
    progress(f"Splitting {listed(request.names)} at cut {request.cut}")
    tree = stage_tree(models, request.cut, request.precision)
    stages: dict[str, Stage] = {}
    engines: dict[str, Engine] = {}
    for stage in tree:
        progress(f"Building {stage.name} ({request.precision}, {request.backend.name})")
        stages[stage.name], engines[stage.name] = _build_stage(stage, request, staged)
    manifest = Manifest(
        name=request.bundle,
        build_id=identity,
        cut=request.cut,
        precision=request.precision,
        computes=request.backend.computes[request.precision],
        backend=request.backend.name,
        backend_version=request.backend.version,
        trtkit_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        batch=request.batch,
        preprocessing=models[0].card.preprocessing,
        stages=tuple(stages.values()),
        weights={model.name: model.card.weights for model in models},
    )
    samples = request.samples.load(manifest.preprocessing)
    verified: dict[str, Any] = {
        "source": samples.source,
        "images": len(samples.images),
        "tails": {},
    }
    for tail, path in zip(manifest.tails, request.exports, strict=True):
        progress(f"Verifying {tail.name} on {samples.describe()}")
        chain = Chain([engines[stage.name] for stage in manifest.path_to(tail)])
        comparison = _verify(chain, path, samples, request.precision, tail.name)
        verified["tails"][tail.name] = comparison.to_json()
    return replace(manifest, verified=verified)


def _read(name: str, path: Path) -> Model:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model
    from trtkit.graph.tree import Model

    graph = read_model(path)
    return Model(name, graph, ModelCard.read_from(graph, name))


def _build_stage(stage: StageGraph, request: _Request, staged: Path) -> tuple[Stage, Engine]:
    file = f"{stage.name}-{stage.id[:16]}{request.backend.suffix}"
    request.backend.build(
        stage.graph,
        request.precision,
        staged / file,
        root=stage.parent is None,
        leaf=stage.model is not None,
    )
    engine = request.backend.load(staged / file)
    built = Stage(
        name=stage.name,
        id=stage.id,
        parent=stage.parent,
        file=file,
        digest=file_digest(staged / file),
        inputs=engine.inputs,
        outputs=engine.outputs,
        classes=tuple(stage.model.card.classes) if stage.model is not None else None,
    )
    return built, engine


def _verify(
    chain: Chain, export: Path, samples: SampleImages, precision: str, name: str
) -> Comparison:
    """Run the chain and the unsplit fp32 model on the same images."""
    from trtkit.engines.onnxruntime import OnnxRuntimeBackend

    whole = Chain([OnnxRuntimeBackend().load(export)])
    limits = LIMITS[precision]
    comparison = compare(chain.logits(samples.images), whole.logits(samples.images), limits)
    check(comparison, limits, f"{name} at {precision}", samples.describe())
    return comparison


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise TrtkitError(
            f"{path} cannot be read ({os_reason(error)}); mend its permissions or export it again."
        ) from error
