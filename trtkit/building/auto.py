"""`--cut auto`: the cut from measurements on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.atomic import whole_file
from trtkit.building.profiles import Advance, Progress, profile, profile_batch, profiles_folder
from trtkit.building.quantized import int8_to_measure
from trtkit.building.request import DEFAULT_PRECISION, Asked, choose_backend, exported, int8_options
from trtkit.building.sources import load_model
from trtkit.costs.goal import Wish
from trtkit.engines.options import BuildOptions
from trtkit.errors import TrtkitError, listed
from trtkit.extras import require
from trtkit.identity import build_id
from trtkit.photos.samples import choose_samples
from trtkit.workspace import Workspace

if TYPE_CHECKING:
    from trtkit.costs.choice import Choice
    from trtkit.costs.profile import Profile
    from trtkit.graph.tree import Model

AUTO = "auto"


def resolve_cut(
    place: Workspace,
    names: Sequence[str],
    cut: int | str | None,
    hit_rate: float | None,
    storage: int | None,
    asked: Asked,
    progress: Progress,
    advance: Advance,
) -> tuple[int | None, tuple[str, ...]]:
    """The number of the cut that was asked for, and the reasons where it was chosen.

    Raises TrtkitError for what is no cut, and for what only a choice looks at without one.
    """
    if cut == AUTO:
        choice = choose_cut(place, names, Wish.of(hit_rate, storage), asked, progress, advance)
        if asked.embeddings and not choice.cut:
            raise TrtkitError(
                f"Embeddings were asked for with --cut {AUTO}, which finds no split worth its cache, and "
                "they lie inside the tail of a split; give a cut of 1 or more, or leave --embeddings out."
            )
        return choice.cut, choice.why
    if hit_rate is not None or storage is not None:
        raise TrtkitError(
            "A hit rate or a storage limit was given without --cut auto, which alone looks at them; "
            "leave them out, or let it choose."
        )
    if isinstance(cut, str):
        raise TrtkitError(
            f"Cut {cut} was asked for; give the number of the block to cut after (`trtkit cuts NAME` "
            f"lists them), 0 for no split, or {AUTO}."
        )
    return cut, ()


def choose_cut(
    place: Workspace,
    names: Sequence[str],
    wish: Wish,
    asked: Asked,
    progress: Progress = lambda message: None,
    advance: Advance = lambda phase, share: None,
) -> Choice:
    """The cut for the exported models `names` together (all without names), 0 for none, and why.

    Measured profiles are used again; see `profile`. Raises TrtkitError.
    """
    require("train", "Choosing a cut", "onnx")
    from trtkit.costs.choice import choose, settle

    names = exported(place, names)
    precision, options = asked.precision or DEFAULT_PRECISION, asked.over(BuildOptions())
    chosen = choose_backend(asked.backend, precision)
    paths = [place.find_export(name) for name in names]
    models = [load_model(path.stem, path) for path in paths]
    # Before anything is measured, which takes minutes.
    shared = _shared(models, embeddings=asked.embeddings)
    int8 = int8_options(place, precision, asked)
    profiles = [
        profile(
            name, precision=precision, backend=chosen.name, batch=profile_batch(chosen, options),
            options=options, again=False, int8=int8, workspace=place.root, progress=progress,
            advance=advance,
        )
        for name in names
    ]  # fmt: skip
    choice = choose(profiles, shared=shared, hit_rate=wish.hit_rate, storage=wish.storage)
    if not choice.cut:
        return choice
    cuts = sorted((choice.cut, *choice.neighbours))

    def measure() -> dict[int, float]:
        from trtkit.costs.neighbours import measure_cuts

        # Those of a request that is not for int8 are as they were.
        ready = [
            int8_to_measure(model, each.digest, chosen, int8, progress, advance)
            for model, each in zip(models, profiles, strict=True)
        ]
        samples = choose_samples(place.calibration, profiles[0].batch)
        return measure_cuts(
            profiles,
            ready,
            cuts,
            hit_rate=wish.hit_rate,
            backend=chosen,
            options=options,
            images=samples.load(ready[0].card.preprocessing).images,
            timing=place.timing,
            advance=advance,
        )

    return settle(choice, _kept(place, profiles, cuts, wish, measure))


def _kept(
    place: Workspace,
    profiles: Sequence[Profile],
    cuts: Sequence[int],
    wish: Wish,
    measure: Callable[[], dict[int, float]],
) -> dict[int, float]:
    """What these cuts take: as measured before with the same profiles, else measured now, and kept."""
    identity = build_id(
        profiles=[each.to_json() for each in profiles], cuts=list(cuts), wish=wish.hit_rate
    )
    path = profiles_folder(place) / f"cuts-{identity[:32]}.json"
    measured = _read(path)
    if measured is None:
        measured = measure()
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(measured) + "\n", encoding="utf-8")
    return measured


def _shared(models: Sequence[Model], *, embeddings: bool) -> int:
    """The last cut up to which all compute the same, with `embeddings` in front of those.

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
            f"A cut of {listed([model.name for model in models])} together was asked for, but they "
            "share no block; train one on the other's prefix, or build them one by one."
        )
    if embeddings:
        ends = [cuts_before_embedding(model.graph, model.card, model.name) for model in models]
        return min([shared, *ends])
    return shared


def _read(path: Path) -> dict[int, float] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {int(cut): float(seconds) for cut, seconds in value.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        # Not measured yet, or damaged: it is measured again.
        return None
