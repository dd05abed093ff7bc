"""The fewest layers that have to stay float for int8 to keep a model's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trtkit.errors import TrtkitError
from trtkit.graph.flops import flops_share
from trtkit.graph.quantize import Edges, layers_of
from trtkit.graph.tree import Model
from trtkit.quantization.judge import Accuracy, Judge

# Of a model's FLOPs; with more it would be int8 by its name alone.
MOST_FLOAT = 0.5
ADVICE = "calibrate on more photos, lower --min-agreement or build with --fp16. Nothing was kept."

Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Trial:
    """A model with some layers kept float, and how it does; `before`: with those known before alone."""

    model: Model
    kept: tuple[str, ...]
    accuracy: Accuracy
    before: Accuracy


# The model with those layers float; all others are int8.
Make = Callable[[Sequence[str]], Model]


def find_kept(
    model: Model,
    judge: Judge,
    make: Make,
    edges: Edges,
    kept: Sequence[str],
    least: float,
    advance: Advance,
) -> Trial:
    """int8 for all layers but `kept`, and where that is not good enough but the fewest others too.

    Layers are ranked by the error that each adds alone. Raises TrtkitError when more than half of the
    work would have to be float.
    """
    first = _trial(make, kept, judge)
    if first.accuracy.misses(least) is None:
        _check_share(model, edges, first)
        return first
    layers = [name for name in layers_of(model.graph.graph, edges) if name not in kept]
    ranked = rank(layers, judge, lambda others: make((*kept, *others)), advance)
    best = _fewest(ranked, kept, make, judge, least)
    if best is None:
        raise TrtkitError(
            f"int8 does not keep the accuracy of {model.name}: {first.accuracy.misses(least)}, and "
            f"returning layers to float does not help; {ADVICE}"
        )
    best = replace(best, before=first.accuracy)
    _check_share(model, edges, best)
    return best


def _check_share(model: Model, edges: Edges, trial: Trial) -> None:
    """Raise TrtkitError when more than half of the work would be float."""
    quantized = edges.keys() - set(trial.kept)
    rest = [node.name for node in model.graph.graph.node if node.name not in quantized]
    share = flops_share(model.graph, rest)
    if share > MOST_FLOAT:
        raise TrtkitError(
            f"int8 keeps the accuracy of {model.name} only with {share:.1%} of its work float; {ADVICE}"
        )


def rank(layers: Sequence[str], judge: Judge, make: Make, advance: Advance) -> list[str]:
    """The layers, that which adds the largest error alone first."""
    errors = {}
    for number, layer in enumerate(layers):
        advance("Ranking layers by the error they add", number / len(layers))
        alone = make([other for other in layers if other != layer])
        errors[layer] = judge.error(alone.graph)
    return sorted(layers, key=lambda layer: -errors[layer])


def _fewest(
    ranked: Sequence[str], kept: Sequence[str], make: Make, judge: Judge, least: float
) -> Trial | None:
    """The trial with the fewest of `ranked` float: doubled until good enough, then halved back."""

    def good(count: int) -> Trial | None:
        trial = _trial(make, (*kept, *ranked[:count]), judge)
        return trial if trial.accuracy.misses(least) is None else None

    # With none left it would be int8 by its name alone.
    most = len(ranked) - 1
    low, high, found = 0, 1, None
    while found is None and low < most:
        high = min(high, most)
        found = good(high)
        if found is None:
            low, high = high, 2 * high
    while found is not None and high - low > 1:
        middle = (low + high) // 2
        trial = good(middle)
        if trial is None:
            low = middle
        else:
            high, found = middle, trial
    return found


def _trial(make: Make, kept: Sequence[str], judge: Judge) -> Trial:
    model = make(kept)
    accuracy = judge.accuracy(model.graph)
    return Trial(model, tuple(kept), accuracy, accuracy)
