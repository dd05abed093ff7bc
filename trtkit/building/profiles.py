"""Profiles that are kept: what each block of an exported model takes, and what each cut costs and saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit import __version__
from trtkit.atomic import whole_file
from trtkit.building.quantized import int8_to_measure
from trtkit.building.request import DEFAULT_PRECISION, choose_backend, usual_int8
from trtkit.building.sources import load_model
from trtkit.costs.goal import Wish
from trtkit.cpu import usable_cores
from trtkit.engines.base import Backend
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError
from trtkit.extras import require
from trtkit.identity import build_id, file_digest
from trtkit.photos.samples import Samples, choose_samples
from trtkit.store.costs import machine_of
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.costs.choice import Choice
    from trtkit.costs.profile import Profile
    from trtkit.quantization.options import Int8Options

DEFAULT_BATCH = 1
DEFAULT_PHOTOS = 16
# Beside the bundles, hidden from their list.
FOLDER = ".profiles"

Advance = Callable[[str, float], None]
Progress = Callable[[str], None]


def profile(
    name: str,
    *,
    precision: str | None = None,
    backend: str = "auto",
    batch: int = DEFAULT_BATCH,
    options: BuildOptions | Mapping[str, Any] | None = None,
    photos: int = DEFAULT_PHOTOS,
    again: bool = True,
    int8: Int8Options | None = None,
    workspace: str | Path | None = None,
    progress: Progress = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> Profile:
    """Measure the exported model `name` block by block on a backend of this machine.

    At `precision` (`fp32`, the default, `fp16`, `int8`), in batches of `batch` images; `photos` of
    `calibration/` are decoded and cached, or generated images where there are none. What was measured
    is kept in the workspace; without `again` it is taken from there if it is of the same model,
    machine, backend and options. `int8`: how to calibrate a model that has no Q/DQ pairs, by default on
    the workspace's calibration/. `progress` is told each step, `advance(phase, share)` how far one is.
    Raises TrtkitError.
    """
    require("train", "Profiling", "onnx")
    from trtkit.costs.measure import ProfileRequest, measure_profile

    place = Workspace.at(workspace)
    path = place.find_export(name)
    if batch < 1 or photos < 1:
        raise TrtkitError(
            f"A batch of {batch} and {photos} photos were asked for; give 1 or more of each."
        )
    precision = precision or DEFAULT_PRECISION
    chosen = choose_backend(backend, precision)
    _check_runs(chosen)
    built = options if isinstance(options, BuildOptions) else BuildOptions().changed(options or {})
    samples = choose_samples(place.calibration, photos)
    digest = file_digest(path)
    calibrating = int8 or (usual_int8(place) if precision == "int8" else None)
    kept = _place(place, chosen, precision, built, batch, digest, samples, calibrating)
    known = None if again else _kept(kept)
    if known is not None:
        return known
    model = int8_to_measure(
        load_model(path.stem, path), digest, chosen, calibrating, progress, advance
    )
    found = measure_profile(
        ProfileRequest(
            model=model,
            digest=digest,
            backend=chosen,
            precision=precision,
            options=built,
            batch=batch,
            samples=samples.load(model.card.preprocessing),
            timing=place.timing,
            advance=advance,
        )
    )
    with whole_file(kept) as temporary:
        temporary.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
    return found


def _check_runs(backend: Backend) -> None:
    blocked = backend.cannot_run()
    if blocked is not None:
        raise TrtkitError(
            f"A profile on {backend.name} was asked for, which needs a GPU, but {blocked}; profile where "
            "there is one, or with --backend onnxruntime."
        )


def best_cut(profile: Profile, wish: Wish) -> Choice:
    """The cut of the model alone that suits `wish`. Raises TrtkitError when none does."""
    from trtkit.costs.choice import choose

    shared = len(profile.cuts)
    return choose([profile], shared=shared, hit_rate=wish.hit_rate, storage=wish.storage)


def check_plot(path: Path) -> None:
    """Raise TrtkitError unless a picture can be drawn to a file of this name."""
    from trtkit.plotting import check_picture

    check_picture(path)


def draw(profile: Profile, choice: Choice, path: Path) -> None:
    """Draw time saved against bytes stored, with the chosen cut marked. Raises TrtkitError."""
    from trtkit.costs.plot import draw_profile

    draw_profile(profile, choice.cut, path)


def profiles_folder(place: Workspace) -> Path:
    """Where measurements are kept, each in a file named by all that it depends on."""
    return place.engines / FOLDER


def profile_batch(backend: Backend, options: BuildOptions) -> int:
    """The batch that cuts are compared at.

    On a GPU what the engines are tuned for; on the CPU one image, where a batch takes as much longer
    as it has more images.
    """
    return options.batch[1] if backend.on_device else DEFAULT_BATCH


def _place(
    place: Workspace,
    backend: Backend,
    precision: str,
    options: BuildOptions,
    batch: int,
    digest: str,
    samples: Samples,
    int8: Int8Options | None,
) -> Path:
    """The file of a profile: named by all that the times depend on."""
    identity = build_id(
        model=digest,
        backend=[backend.name, backend.version, *machine_of(backend)],
        cores=usable_cores(),
        precision=precision,
        options=options.to_json(),
        batch=batch,
        samples=samples.digest,
        trtkit=__version__,
        **({} if int8 is None else {"int8": int8.digest()}),
    )
    return profiles_folder(place) / f"{identity[:32]}.json"


def _kept(path: Path) -> Profile | None:
    from trtkit.costs.profile import Profile

    try:
        return Profile.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        # Of another version or damaged: it is measured again.
        return None
