"""`--cut auto`: the cut from measurements on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.api.profile import Advance, profile, profile_batch, profiles_folder
from trtkit.api.request import DEFAULT_PRECISION, Asked, choose_backend, exported
from trtkit.api.wish import Wish
from trtkit.atomic import whole_file
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import build_id
from trtkit.runtime.samples import choose_samples
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.graph.tree import Model
    from trtkit.profiling.choice import Choice

AUTO = "auto"


def choose_cut(
    place: Workspace,
    names: Sequence[str],
    wish: Wish,
    asked: Asked,
    advance: Advance = lambda phase, share: None,
) -> Choice:
    """The cut for the exported models `names` together (all without names), 0 for none, and why.

    Measured profiles are used again; see `profile`. Raises TrtkitError.
    """
    require("train", "Choosing a cut", "onnx")
    from trtkit.profiling.choice import choose, settle

    names = exported(place, names)
    precision, options = asked.precision or DEFAULT_PRECISION, asked.over(BuildOptions())
    chosen = choose_backend(asked.backend, precision)
    models = [_model(place, name) for name in names]
    # Before anything is measured, which takes minutes.
    shared = _shared(models)
    profiles = [
        profile(
            name, precision=precision, backend=chosen.name, batch=profile_batch(chosen, options),
            options=options, again=False, workspace=place.root, advance=advance,
        )
        for name in names
    ]  # fmt: skip
    choice = choose(profiles, shared=shared, hit_rate=wish.hit_rate, storage=wish.storage)
    if not choice.cut:
        return choice
    cuts = sorted((choice.cut, *choice.neighbours))
    identity = build_id(
        profiles=[each.to_json() for each in profiles], cuts=cuts, wish=wish.hit_rate
    )
    kept = profiles_folder(place) / f"cuts-{identity[:32]}.json"
    measured = _read(kept)
    if measured is None:
        from trtkit.profiling.neighbours import measure_cuts

        samples = choose_samples(place.calibration, profiles[0].batch)
        measured = measure_cuts(
            profiles,
            models,
            cuts,
            hit_rate=wish.hit_rate,
            backend=chosen,
            options=options,
            images=samples.load(models[0].card.preprocessing).images,
            timing=place.timing,
            advance=advance,
        )
        with whole_file(kept) as temporary:
            temporary.write_text(json.dumps(measured) + "\n", encoding="utf-8")
    return settle(choice, measured)


def _model(place: Workspace, name: str) -> Model:
    from trtkit.graph.card import ModelCard
    from trtkit.graph.files import read_model
    from trtkit.graph.tree import Model

    path = place.find_export(name)
    graph = read_model(path)
    return Model(path.stem, graph, ModelCard.read_from(graph, path.stem))


def _shared(models: Sequence[Model]) -> int:
    """The last cut up to which all compute the same. Raises TrtkitError when there is none."""
    from trtkit.graph.boundaries import cut_points
    from trtkit.graph.tree import check_preprocessing, shared_cut

    check_preprocessing(models)
    first, *others = models
    last = len(cut_points(first.graph, first.card))
    shared = min([last, *(shared_cut(first, other) for other in others)])
    if others and not shared:
        raise TrtkitError(
            f"A cut of {listed([model.name for model in models])} together was asked for, but they "
            "share no block; train one on the other's prefix, or build them one by one."
        )
    return shared


def _read(path: Path) -> dict[int, float] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {int(cut): float(seconds) for cut, seconds in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Not measured yet, or damaged: it is measured again.
        return None
