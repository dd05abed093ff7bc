"""A build, resolved: from what was asked for to everything that the result depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtkit import __version__, bundle
from trtkit.api.sources import BundleSources, ExportSources, Sources
from trtkit.bundle import PREFIX
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.engines.registry import can_build, get_backend
from trtkit.errors import TrtkitError, listed
from trtkit.identity import build_id
from trtkit.runtime.samples import Samples, choose_samples
from trtkit.workspace import Workspace, check_name

DEFAULT_PRECISION = "fp32"


@dataclass(frozen=True)
class Asked:
    """What a build was asked for besides the models; None where nothing was said."""

    precision: str | None
    backend: str
    options: BuildOptions | Mapping[str, Any] | None
    verify_images: int
    min_agreement: float | None

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
        return choose_samples(place.calibration, self.verify_images)

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
    precision = asked.precision or DEFAULT_PRECISION
    chosen = choose_backend(asked.backend, precision)
    default = "+".join(stems) + (f"-cut{cut}" if cut else "") + f"-{precision}"
    check_name(bundle_name or default)
    return Request(
        sources=ExportSources(stems, exports),
        cut=cut,
        precision=precision,
        options=asked.over(BuildOptions()),
        backend=chosen,
        samples=asked.samples(place),
        min_agreement=asked.min_agreement,
        bundle=bundle_name or default,
    )


def from_bundle(place: Workspace, folder: Path, asked: Asked) -> Request:
    """A build of the bundle in `folder` from the ONNX it keeps, for this machine. Raises TrtkitError."""
    manifest = bundle.read_manifest(folder)
    sources = BundleSources(folder, manifest)
    sources.check()
    precision = asked.precision or manifest.precision
    own = asked.backend == "auto" and can_build(manifest.backend)
    chosen = choose_backend(manifest.backend if own else asked.backend, precision)
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
