"""A build, resolved: from its settings to everything that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtkit import __version__, bundle
from trtkit.building.sources import BundleSources, ExportSources, Sources
from trtkit.bundle import Manifest
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import can_build, get_backend
from trtkit.errors import TrtkitError, listed
from trtkit.identity import build_id
from trtkit.photos.samples import Samples, choose_samples
from trtkit.quantization.photos import Int8Options
from trtkit.serialization import from_plain, to_plain
from trtkit.stages import BODY, PREFIX
from trtkit.workspace import Workspace, check_name

DEFAULT_PRECISION = "fp32"
DEFAULT_VERIFY_IMAGES = 16


@dataclass(frozen=True)
class Calibration:
    """The options that calibrate int8; None where the default applies."""

    folder: str | Path | None = None
    images: int | None = None
    method: str | None = None

    def refuse(self, reason: str) -> None:
        """Raise TrtkitError with the `reason` why no option applies, unless all are None."""
        names = [name for name in ("folder", "images", "method") if getattr(self, name) is not None]
        if names:
            raise TrtkitError(
                f"The --calibration options ({listed(names)}) do not apply: {reason}; leave them out."
            )


@dataclass(frozen=True)
class BuildSettings:
    """The options of a build, besides its models; None where the default applies."""

    cut: int | str | None = None
    hit_rate: float | None = None
    storage_per_image: int | None = None
    precision: str | None = None
    backend: str = "auto"
    options: BuildOptions | Mapping[str, Any] | None = None
    bundle_name: str | None = None
    embeddings: bool = False
    verify_images: int = DEFAULT_VERIFY_IMAGES
    min_agreement: float | None = None
    calibration: Calibration = Calibration()

    def samples(self, place: Workspace) -> Samples:
        """The images to compare on. Raises TrtkitError for an impossible number or agreement."""
        if self.verify_images < 1:
            raise TrtkitError(
                f"A build cannot be verified on {self.verify_images} images; give 1 or more."
            )
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise TrtkitError(
                f"An agreement of {self.min_agreement} is impossible; give a share from 0 to 1, such as "
                "0.99."
            )
        folder = self.calibration.folder
        return choose_samples(
            place.calibration if folder is None else Path(folder), self.verify_images
        )

    def options_over(self, defaults: BuildOptions) -> BuildOptions:
        """The build options: a dict changes `defaults`, a whole `BuildOptions` replaces them."""
        if isinstance(self.options, BuildOptions):
            return self.options
        return defaults.changed(self.options or {})

    def int8(self, place: Workspace, precision: str) -> Int8Options | None:
        """How int8 is calibrated; None for other precisions. Raises TrtkitError."""
        options = self.calibration
        if precision != "int8":
            options.refuse(f"{precision} has no ranges")
            return None
        defaults = default_int8(place)
        return replace(
            defaults,
            folder=Path(options.folder) if options.folder is not None else defaults.folder,
            images=options.images if options.images is not None else defaults.images,
            method=options.method if options.method is not None else defaults.method,
            min_agreement=(
                self.min_agreement if self.min_agreement is not None else defaults.min_agreement
            ),
            explicit=options != Calibration(),
            proved=self.min_agreement is not None,
        )


@dataclass(frozen=True)
class BuildRequest:
    """One build: everything that the result depends on, and the name of its bundle."""

    sources: Sources
    cut: int
    precision: str
    options: BuildOptions
    backend: Backend
    samples: Samples
    min_agreement: float | None
    bundle: str
    int8: Int8Options | None = None

    @property
    def arithmetic(self) -> str:
        """The precision that stage ids name: TF32 rounds what fp32 does not."""
        return "tf32" if self.options.tf32 and self.precision == "fp32" else self.precision

    def id(self) -> str:
        """Two requests with one id build the same bundle."""
        return build_id(
            models=list(self.sources.digests().items()),
            cut=self.cut,
            precision=self.precision,
            options=to_plain(self.options),
            backend=[self.backend.name, self.backend.version, *self.backend.target()],
            samples=self.samples.digest,
            min_agreement=self.min_agreement,
            trtkit=__version__,
            # Left out where unused: so the ids of earlier versions stay valid.
            **({} if self.int8 is None else {"int8": self.int8.digest()}),
            **({"embeddings": True} if self.sources.embeddings else {}),
        )


def exported(place: Workspace, names: Sequence[str]) -> list[str]:
    """`names`, or all exported models if empty. Raises TrtkitError when nothing is exported."""
    exports = list(names) or place.exported()
    if not exports:
        raise TrtkitError(f"No exported model in {place.exports}; run `trtkit export MODEL` first.")
    return exports


def from_exports(
    place: Workspace, names: Sequence[str], cut: int | None, settings: BuildSettings
) -> BuildRequest:
    """A build of exported models, all of the workspace without names. Raises TrtkitError."""
    names = exported(place, names)
    if cut is None:
        raise TrtkitError(
            "No --cut given; give the number of the block to cut after (`trtkit cuts NAME` lists them), "
            "0 for no split, or only the --bundle to rebuild."
        )
    exports = tuple(place.find_export(name) for name in names)
    stems = tuple(path.stem for path in exports)
    repeated = {stem for stem in stems if stems.count(stem) > 1}
    if repeated:
        raise TrtkitError(f"{listed(sorted(repeated))} is named twice; name each model once.")
    if cut and PREFIX in stems:
        raise TrtkitError(
            f"A model cannot be named {PREFIX!r}, the name of the stage that models share; export it "
            "with another --name."
        )
    if settings.embeddings:
        _check_embeddings(stems, cut)
    precision = settings.precision or DEFAULT_PRECISION
    backend = choose_backend(settings.backend, precision)
    default = "+".join(stems) + (f"-cut{cut}" if cut else "") + f"-{precision}"
    check_name(settings.bundle_name or default)
    return BuildRequest(
        sources=ExportSources(stems, exports, settings.embeddings),
        cut=cut,
        precision=precision,
        options=settings.options_over(BuildOptions()),
        backend=backend,
        samples=settings.samples(place),
        min_agreement=settings.min_agreement,
        bundle=settings.bundle_name or default,
        int8=settings.int8(place, precision),
    )


def from_bundle(place: Workspace, folder: Path, settings: BuildSettings) -> BuildRequest:
    """A build of the bundle in `folder` from the ONNX it keeps, for this machine. Raises TrtkitError."""
    manifest = bundle.read_manifest(folder)
    sources = BundleSources(folder, manifest)
    sources.check()
    if settings.embeddings and not sources.embeddings:
        raise TrtkitError(
            f"Bundle {manifest.name} was built without embeddings; build the exported models with --cut "
            "and --embeddings."
        )
    precision = settings.precision or manifest.precision
    settings.calibration.refuse("a rebuilt bundle keeps its ranges")
    own = settings.backend == "auto" and can_build(manifest.backend)
    backend = choose_backend(manifest.backend if own else settings.backend, precision)
    _check_form(manifest, backend)
    recorded = from_plain(manifest.options, BuildOptions)
    if backend.name != manifest.backend and not backend.on_device:
        # The other options are for a backend on a GPU.
        recorded = BuildOptions(profiles=recorded.profiles)
    return BuildRequest(
        sources=sources,
        cut=manifest.cut,
        precision=precision,
        options=settings.options_over(recorded),
        backend=backend,
        samples=settings.samples(place),
        min_agreement=settings.min_agreement,
        bundle=manifest.name,
    )


def _check_embeddings(names: Sequence[str], cut: int) -> None:
    """Raise TrtkitError without tails to divide, and where a model has the name of a part."""
    if not cut:
        raise TrtkitError(
            "--embeddings divides the tails of a split model, and cut 0 makes none; give a --cut of 1 or "
            "more, or leave --embeddings out."
        )
    clash = next((f"{name}{BODY}" for name in names if f"{name}{BODY}" in names), None)
    if clash is not None:
        raise TrtkitError(
            f"A model cannot be named {clash!r}, the name of a stage that --embeddings makes of another "
            "model; export it with another --name."
        )


def default_int8(place: Workspace) -> Int8Options:
    """int8 calibrated on the photos of the workspace."""
    return Int8Options(place.calibration, place.calibration)


def _check_form(manifest: Manifest, backend: Backend) -> None:
    """Raise TrtkitError for an int8 bundle whose graphs are in another backend's form."""
    form = (manifest.quantized or {}).get("form", backend.int8_form)
    if manifest.backend != backend.name and form != backend.int8_form:
        raise TrtkitError(
            f"Bundle {manifest.name} was quantized for {manifest.backend} (activations {form}), not for "
            f"{backend.name} ({backend.int8_form}); build the exported models with --cut and --int8."
        )


def choose_backend(name: str, precision: str) -> Backend:
    """The backend of that name, or the best here for `auto`, if it builds `precision` here.

    Raises TrtkitError.
    """
    backend = get_backend(name)
    if precision not in backend.computes:
        raise TrtkitError(
            f"{backend.name} builds {listed(backend.computes)}, not {precision}; choose one of those."
        )
    blocked = backend.cannot_build()
    if blocked is not None:
        raise TrtkitError(
            f"{backend.name} needs a GPU to build, but {blocked}; build where there is one, or with "
            "--backend tensorrt-rtx, which needs none, or onnxruntime."
        )
    return backend
