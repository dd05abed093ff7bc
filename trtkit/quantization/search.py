"""The fewest layers that have to stay float for int8 to keep a model's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trtkit.errors import TrtkitError
from trtkit.graph.quantize import Edges, layers_of
from trtkit.graph.tree import Model
from trtkit.graph.values import flops_share
from trtkit.quantization.accuracy import Accuracy, AccuracyGate
from trtkit.reporting import advance

# Of a model's FLOPs; with more it would be int8 by its name alone.
MOST_FLOAT = 0.5
ADVICE = "calibrate on more photos, lower --min-agreement or build with --fp16. Nothing was kept."


@dataclass(frozen=True)
class Trial:
    """A model with some layers kept float, and its accuracy; `before`: with the first of them alone."""

    model: Model
    kept: tuple[str, ...]
    accuracy: Accuracy
    before: Accuracy


# The model with those layers float; all others are int8.
Make = Callable[[Sequence[str]], Model]


def find_kept(
    model: Model,
    gate: AccuracyGate,
    make: Make,
    edges: Edges,
    kept: Sequence[str],
    min_agreement: float,
    *,
    proved: bool = False,
) -> Trial:
    """int8 for all layers but `kept`, and if that is not good enough, but the fewest others too.

    Good enough is what `Accuracy.shortfall` says of `min_agreement` and `proved`. Layers are ranked by the
    error that each adds alone. Raises TrtkitError when more than half of the
    work would have to be float.
    """

    def shortfall(trial: Trial) -> str | None:
        return trial.accuracy.shortfall(min_agreement, proved=proved)

    first = _trial(make, kept, gate)
    if shortfall(first) is None:
        _check_share(model, edges, first)
        return first
    layers = [name for name in layers_of(model.graph.graph, edges) if name not in kept]
    ranked = rank(layers, gate, lambda others: make((*kept, *others)))
    best = _fewest(ranked, kept, make, gate, shortfall)
    if best is None:
        raise TrtkitError(
            f"int8 does not keep the accuracy of {model.name}: "
            f"{shortfall(first)}, and returning layers to float does not help; "
            f"{ADVICE}"
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


def rank(layers: Sequence[str], gate: AccuracyGate, make: Make) -> list[str]:
    """The layers, the one that adds the largest error alone first."""
    errors = {}
    for number, layer in enumerate(layers):
        advance("Ranking layers by the error they add", number / len(layers))
        alone = make([other for other in layers if other != layer])
        errors[layer] = gate.error(alone.graph)
    return sorted(layers, key=lambda layer: -errors[layer])


def _fewest(
    ranked: Sequence[str],
    kept: Sequence[str],
    make: Make,
    gate: AccuracyGate,
    shortfall: Callable[[Trial], str | None],
) -> Trial | None:
    """The trial with the fewest of `ranked` float: doubled until good enough, then halved back."""

    def passing(count: int) -> Trial | None:
        trial = _trial(make, (*kept, *ranked[:count]), gate)
        return trial if shortfall(trial) is None else None

    # With no layer left it would be int8 by its name alone.
    most = len(ranked) - 1
    low, high, best = 0, 1, None
    while best is None and low < most:
        high = min(high, most)
        best = passing(high)
        if best is None:
            low, high = high, 2 * high
    while best is not None and high - low > 1:
        middle = (low + high) // 2
        trial = passing(middle)
        if trial is None:
            low = middle
        else:
            high, best = middle, trial
    return best


def _trial(make: Make, kept: Sequence[str], gate: AccuracyGate) -> Trial:
    model = make(kept)
    accuracy = gate.accuracy(model.graph)
    return Trial(model, tuple(kept), accuracy, accuracy)
