"""The cut of a build: a number, or for `--cut auto` the best by measurements on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.building.profiles import ProfileSettings, kept_profile, profile_batch, profiles_folder
from trtkit.building.quantized import int8_to_measure
from trtkit.building.request import DEFAULT_PRECISION, BuildSettings, choose_backend, exported
from trtkit.building.sources import load_model
from trtkit.costs.choice import CutGoal
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import build_id
from trtkit.photos.samples import choose_samples
from trtkit.serialization import read_json, write_json
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.costs.choice import CutChoice
    from trtkit.costs.profile import Profile
    from trtkit.graph.tree import Model

AUTO = "auto"


def resolve_cut(
    place: Workspace, names: Sequence[str], settings: BuildSettings
) -> tuple[int | None, tuple[str, ...]]:
    """The number of the cut to build, and the reasons if it was chosen by measuring.

    Raises TrtkitError for anything else than a number or `auto`, and for options that only `auto` uses.
    """
    cut = settings.cut
    if cut == AUTO:
        choice = choose_cut(place, names, settings)
        if settings.embeddings and not choice.cut:
            raise TrtkitError(
                f"--embeddings needs a split, but --cut {AUTO} finds none worth its cache; give a cut of 1 "
                "or more, or leave --embeddings out."
            )
        return choice.cut, choice.why
    if settings.hit_rate is not None or settings.storage_per_image is not None:
        raise TrtkitError(
            f"A hit rate and a storage limit apply to --cut {AUTO} alone; leave them out, or choose the "
            f"cut with --cut {AUTO}."
        )
    if isinstance(cut, str):
        raise TrtkitError(
            f"Cut {cut!r} is not a number; give the number of the block to cut after (`trtkit cuts NAME` "
            f"lists them), 0 for no split, or {AUTO}."
        )
    return cut, ()


def choose_cut(place: Workspace, names: Sequence[str], settings: BuildSettings) -> CutChoice:
    """The cut for the exported models `names` together (all without names), 0 for none, and why.

    Measured profiles are reused; see `kept_profile`. Raises TrtkitError.
    """
    require("train", "Choosing a cut", "onnx")
    from trtkit.costs.choice import choose, settle
    from trtkit.costs.workbench import measure_cuts

    goal = CutGoal.of(settings.hit_rate, settings.storage_per_image)
    names = exported(place, names)
    precision = settings.precision or DEFAULT_PRECISION
    options = settings.options_over(BuildOptions())
    backend = choose_backend(settings.backend, precision)
    paths = [place.find_export(name) for name in names]
    models = [load_model(path.stem, path) for path in paths]
    # Before anything is measured, which takes minutes.
    shared = _shared_cut(models, embeddings=settings.embeddings)
    int8 = settings.int8(place, precision)
    how = ProfileSettings(
        precision, backend.name, profile_batch(backend, options), options, int8=int8
    )
    profiles = [kept_profile(place, name, how) for name in names]
    choice = choose(profiles, goal, shared=shared)
    if not choice.cut:
        return choice
    cuts = sorted((choice.cut, *choice.neighbours))

    def measure() -> dict[int, float]:
        ready = [
            int8_to_measure(model, profile.digest, backend, int8)
            for model, profile in zip(models, profiles, strict=True)
        ]
        samples = choose_samples(place.calibration, profiles[0].batch)
        return measure_cuts(
            profiles,
            ready,
            cuts,
            hit_rate=goal.hit_rate,
            backend=backend,
            options=options,
            images=samples.load(ready[0].card.preprocessing).images,
            timing=place.timing,
        )

    identity = build_id(
        profiles=[profile.to_json() for profile in profiles], cuts=cuts, wish=goal.hit_rate
    )
    path = profiles_folder(place) / f"cuts-{identity[:32]}.json"
    return settle(choice, _read_or_measure(path, measure))


def best_cut(profile: Profile, goal: CutGoal) -> CutChoice:
    """The cut of one model alone that suits `goal`. Raises TrtkitError when none does."""
    from trtkit.costs.choice import choose

    return choose([profile], goal, shared=len(profile.cuts))


def _read_or_measure(path: Path, measure: Callable[[], dict[int, float]]) -> dict[int, float]:
    """Expected seconds by cut, as `path` has them from an earlier measurement, else measured now."""
    try:
        return {int(cut): time for cut, time in read_json(path, dict[str, float]).items()}
    except (OSError, ValueError):
        # Not measured yet, or damaged.
        measured = measure()
        write_json(path, measured)
        return measured


def _shared_cut(models: Sequence[Model], *, embeddings: bool) -> int:
    """The last cut up to which all models compute the same; with `embeddings`, one in front of those.

    Raises TrtkitError when there is none.
    """
    from trtkit.graph.boundaries import cut_points
    from trtkit.graph.embedding import cuts_before_embedding
    from trtkit.graph.tree import check_preprocessing, shared_cut

    check_preprocessing(models)
    first, *others = models
    last = len(cut_points(first.graph, first.card))
    shared = min([last, *(shared_cut(first, other) for other in others)])
    if others and not shared:
        raise TrtkitError(
            f"{listed(model.name for model in models)} cannot be cut together, because they share no "
            "block; train one on the other's prefix, or build them one by one."
        )
    if embeddings:
        ends = [cuts_before_embedding(model.graph, model.card, model.name) for model in models]
        return min([shared, *ends])
    return shared
