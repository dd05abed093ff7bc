"""A build, resolved: from what was asked for to everything that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trtkit import __version__, bundle
from trtkit.building.sources import BundleSources, ExportSources, Sources
from trtkit.bundle import BODY, PREFIX, Manifest
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import can_build, get_backend
from trtkit.errors import TrtkitError, listed
from trtkit.identity import build_id
from trtkit.photos.samples import Samples, choose_samples
from trtkit.quantization.options import Int8Options
from trtkit.workspace import Workspace, check_name

DEFAULT_PRECISION = "fp32"


@dataclass(frozen=True)
class Calibration:
    """How int8 was asked to be calibrated; None where nothing was said."""

    folder: str | Path | None = None
    images: int | None = None
    method: str | None = None

    def refuse(self, what: str) -> None:
        """Raise TrtkitError when something was said, which `what` has no use for."""
        said = [name for name in ("folder", "images", "method") if getattr(self, name) is not None]
        if said:
            raise TrtkitError(
                f"Photos to calibrate on (their {listed(said)}) were given with {what}; leave the "
                "--calibration options out."
            )


@dataclass(frozen=True)
class Asked:
    """What a build was asked for besides the models; None where nothing was said."""

    precision: str | None
    backend: str
    options: BuildOptions | Mapping[str, Any] | None
    verify_images: int
    min_agreement: float | None
    calibration: Calibration = field(default_factory=lambda: Calibration())
    embeddings: bool = False

    def samples(self, place: Workspace) -> Samples:
        """The images to compare on. Raises TrtkitError for a number or an agreement that cannot be."""
        if self.verify_images < 1:
            raise TrtkitError(
                f"A build verified on {self.verify_images} images was asked for; give 1 or more."
            )
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise TrtkitError(
                f"An agreement of at least {self.min_agreement} was asked for; give a share from 0 to "
                "1, such as 0.99."
            )
        folder = self.calibration.folder
        return choose_samples(
            place.calibration if folder is None else Path(folder), self.verify_images
        )

    def over(self, usual: BuildOptions) -> BuildOptions:
        """The options: those given as a dict change `usual`, given as a whole they replace it."""
        if isinstance(self.options, BuildOptions):
            return self.options
        return usual.changed(self.options or {})


@dataclass(frozen=True)
class Request:
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
        """What feature maps are told apart by: TF32 rounds what fp32 does not."""
        return "tf32" if self.options.tf32 and self.precision == "fp32" else self.precision

    def id(self) -> str:
        """Two requests with one id build the same bundle."""
        return build_id(
            models=list(self.sources.digests().items()),
            cut=self.cut,
            precision=self.precision,
            options=self.options.to_json(),
            backend=[self.backend.name, self.backend.version, *self.backend.target()],
            samples=self.samples.digest,
            min_agreement=self.min_agreement,
            trtkit=__version__,
            # Without these the ids are those of before there were any.
            **({} if self.int8 is None else {"int8": self.int8.digest()}),
            **({"embeddings": True} if self.sources.embeddings else {}),
        )


def exported(place: Workspace, names: Sequence[str]) -> list[str]:
    """`names`, all exported models without names. Raises TrtkitError when there is none."""
    found = list(names) or place.exported()
    if not found:
        raise TrtkitError(
            f"There is no exported model in {place.exports} to build; run `trtkit export MODEL` "
            "first."
        )
    return found


def from_exports(
    place: Workspace, names: Sequence[str], cut: int | None, bundle_name: str | None, asked: Asked
) -> Request:
    """A build of exported models, all of the workspace without names. Raises TrtkitError."""
    names = exported(place, names)
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
    if asked.embeddings:
        _check_embeddings(stems, cut)
    precision = asked.precision or DEFAULT_PRECISION
    chosen = choose_backend(asked.backend, precision)
    default = "+".join(stems) + (f"-cut{cut}" if cut else "") + f"-{precision}"
    check_name(bundle_name or default)
    return Request(
        sources=ExportSources(stems, exports, asked.embeddings),
        cut=cut,
        precision=precision,
        options=asked.over(BuildOptions()),
        backend=chosen,
        samples=asked.samples(place),
        min_agreement=asked.min_agreement,
        bundle=bundle_name or default,
        int8=int8_options(place, precision, asked),
    )


def from_bundle(place: Workspace, folder: Path, asked: Asked) -> Request:
    """A build of the bundle in `folder` from the ONNX it keeps, for this machine. Raises TrtkitError."""
    manifest = bundle.read_manifest(folder)
    sources = BundleSources(folder, manifest)
    sources.check()
    if asked.embeddings and not sources.embeddings:
        raise TrtkitError(
            f"Embeddings were asked of the bundle {manifest.name}, which was built without; build the "
            "exported models with --cut and --embeddings."
        )
    precision = asked.precision or manifest.precision
    asked.calibration.refuse("a bundle that is rebuilt, whose ranges are in it")
    own = asked.backend == "auto" and can_build(manifest.backend)
    chosen = choose_backend(manifest.backend if own else asked.backend, precision)
    _check_form(manifest, chosen)
    recorded = BuildOptions.from_json(manifest.options)
    if chosen.name != manifest.backend and not chosen.on_device:
        # What is left out was asked of a backend on a GPU.
        recorded = BuildOptions(profiles=recorded.profiles)
    return Request(
        sources=sources,
        cut=manifest.cut,
        precision=precision,
        options=asked.over(recorded),
        backend=chosen,
        samples=asked.samples(place),
        min_agreement=asked.min_agreement,
        bundle=manifest.name,
    )


def _check_embeddings(names: Sequence[str], cut: int) -> None:
    """Raise TrtkitError where there are no tails to divide, or a name for their parts is taken."""
    if not cut:
        raise TrtkitError(
            "Embeddings were asked for with cut 0, but they lie inside a tail, and a model that is not "
            "split has none; give a --cut of 1 or more, or leave --embeddings out."
        )
    taken = [f"{name}{BODY}" for name in names if f"{name}{BODY}" in names]
    if taken:
        raise TrtkitError(
            f"A model is called {taken[0]!r}, which is the name of a stage that --embeddings makes of "
            "another one; export it with another --name."
        )


def int8_options(place: Workspace, precision: str, asked: Asked) -> Int8Options | None:
    """How int8 is calibrated; None for other precisions. Raises TrtkitError."""
    said = asked.calibration
    if precision != "int8":
        said.refuse(f"{precision}, which has no ranges")
        return None
    usual = usual_int8(place)
    return replace(
        usual,
        folder=Path(said.folder) if said.folder is not None else usual.folder,
        images=said.images if said.images is not None else usual.images,
        method=said.method if said.method is not None else usual.method,
        least=asked.min_agreement if asked.min_agreement is not None else usual.least,
        given=said != Calibration(),
    )


def usual_int8(place: Workspace) -> Int8Options:
    """int8 calibrated on the photos of the workspace."""
    return Int8Options(place.calibration, place.calibration)


def _check_form(manifest: Manifest, backend: Backend) -> None:
    """Raise TrtkitError for an int8 bundle whose graphs are in another backend's form."""
    form = (manifest.quantized or {}).get("form", backend.int8_form)
    if manifest.backend != backend.name and form != backend.int8_form:
        raise TrtkitError(
            f"The bundle {manifest.name} was quantized for {manifest.backend} (activations {form}), not "
            f"for {backend.name} ({backend.int8_form}); build the exported models with --cut and --int8."
        )


def choose_backend(name: str, precision: str) -> Backend:
    """The backend of that name, or the best here for `auto`, that builds `precision` on this machine.

    Raises TrtkitError when there is none.
    """
    chosen = get_backend(name)
    if precision not in chosen.computes:
        raise TrtkitError(
            f"Precision {precision} was asked of {chosen.name}, which builds "
            f"{' and '.join(chosen.computes)}; choose one of those."
        )
    blocked = chosen.cannot_build()
    if blocked is not None:
        raise TrtkitError(
            f"A build with {chosen.name} was asked for, which needs a GPU, but {blocked}; build where "
            "there is one, or with --backend tensorrt-rtx, which does without, or onnxruntime."
        )
    return chosen
