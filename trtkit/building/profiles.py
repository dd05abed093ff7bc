"""Profiles that are kept: what each block of an exported model takes, and what each cut costs and saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit import __version__
from trtkit.building.quantized import int8_to_measure
from trtkit.building.request import DEFAULT_PRECISION, choose_backend, default_int8
from trtkit.building.sources import load_model
from trtkit.cpu import usable_cores
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.extras import require
from trtkit.identity import build_id, file_digest
from trtkit.photos.samples import choose_samples
from trtkit.quantization.photos import Int8Options
from trtkit.sealing import read_json_file
from trtkit.serialization import to_plain, write_json
from trtkit.store.costs import machine_of
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.costs.profile import Profile

DEFAULT_BATCH = 1
DEFAULT_PHOTOS = 16
# Beside the bundles, hidden from their list.
FOLDER = ".profiles"


@dataclass(frozen=True)
class ProfileSettings:
    """How a model is profiled: in batches of `batch` images, on `photos` photos of `calibration/`.

    `int8`: how to calibrate a model without Q/DQ pairs; None for the default. Raises TrtkitError for
    less than one image or photo.
    """

    precision: str = DEFAULT_PRECISION
    backend: str = "auto"
    batch: int = DEFAULT_BATCH
    options: BuildOptions = field(default_factory=BuildOptions)
    photos: int = DEFAULT_PHOTOS
    int8: Int8Options | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.photos < 1:
            raise TrtkitError(
                f"A batch of {self.batch} and {self.photos} photos cannot be measured; give 1 or more of "
                "each."
            )


def kept_profile(
    place: Workspace, name: str, settings: ProfileSettings, *, again: bool = False
) -> Profile:
    """The profile of the exported model `name`: the kept one, else measured and kept.

    A kept one is of the same model, machine, backend and settings. `again` measures anew in any case.
    Raises TrtkitError.
    """
    require("train", "Profiling", "onnx")
    from trtkit.costs.measure import ProfileRequest, measure_profile

    path = place.find_export(name)
    precision, backend = settings.precision, choose_backend(settings.backend, settings.precision)
    blocked = backend.cannot_run()
    if blocked is not None:
        raise TrtkitError(
            f"{backend.name} needs a GPU to be profiled, but {blocked}; profile where there is one, or "
            "with --backend onnxruntime."
        )
    samples = choose_samples(place.calibration, settings.photos)
    digest = file_digest(path)
    int8 = settings.int8 or (default_int8(place) if precision == "int8" else None)
    # All that the times depend on.
    identity = build_id(
        model=digest,
        backend=[backend.name, backend.version, *machine_of(backend)],
        cores=usable_cores(),
        precision=precision,
        options=to_plain(settings.options),
        batch=settings.batch,
        samples=samples.digest,
        trtkit=__version__,
        **({} if int8 is None else {"int8": int8.digest()}),
    )
    file = profiles_folder(place) / f"{identity[:32]}.json"
    if not again:
        stored = _read_profile(file)
        if stored is not None:
            return stored
    model = int8_to_measure(load_model(path.stem, path), digest, backend, int8)
    request = ProfileRequest(
        model=model,
        digest=digest,
        backend=backend,
        precision=precision,
        options=settings.options,
        batch=settings.batch,
        samples=samples.load(model.card.preprocessing),
        timing=place.timing,
    )
    measured = measure_profile(request)
    write_json(file, measured.to_json())
    return measured


def profiles_folder(place: Workspace) -> Path:
    """Where measurements are kept, each in a file named by all that it depends on."""
    return place.engines / FOLDER


def profile_batch(backend: Backend, options: BuildOptions) -> int:
    """The batch that cuts are compared at.

    On a GPU the engines' optimum; on the CPU one image, where time grows evenly with the batch.
    """
    return options.batch[1] if backend.on_device else DEFAULT_BATCH


def _read_profile(file: Path) -> Profile | None:
    """The profile in `file`; None if it is missing, damaged or of another version: measure it again."""
    from trtkit.costs.profile import Profile

    try:
        return Profile.from_json(read_json_file(file))
    except (OSError, ValueError):
        return None
