"""From several models to one tree of stages: one prefix, and a tail for each model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import cut_points
from trtkit.graph.canonical import first_difference, graph_digest
from trtkit.graph.card import ModelCard
from trtkit.graph.embedding import divide
from trtkit.graph.split import find_cut, split
from trtkit.identity import stage_id
from trtkit.scores import Scoring
from trtkit.stages import BODY, PREFIX, OutputKind, Role


@dataclass(frozen=True)
class Model:
    """An exported model: its name, its graph and the card in the graph's metadata."""

    name: str
    graph: onnx.ModelProto
    card: ModelCard


@dataclass(frozen=True)
class StageGraph:
    """A stage before it is built: one input, one output.

    `classes` is None for a stage without logits; `scores`: how those become scores. `part`: of a tail that
    was divided at its embedding, the body or the head.
    """

    name: str
    id: str
    role: Role
    parent: str | None
    graph: onnx.ModelProto
    classes: tuple[str, ...] | None = None
    part: bool = False
    scores: Scoring = "softmax"

    @property
    def gives(self) -> OutputKind:
        """What the graph's output is."""
        kinds: dict[Role, OutputKind] = {"head": "logits", "body": "embedding"}
        return kinds.get(self.role, "feature_map")


def stage_tree(
    models: Sequence[Model], cut: int, precision: str, *, embeddings: bool = False
) -> list[StageGraph]:
    """The stages of `models` cut after block `cut`, parents first; whole models for cut 0.

    With `embeddings` each tail is divided: NAME-body ends in the embedding, NAME takes it.
    The models share one prefix. Comparing the hash of what it computes, every weight's bits included,
    proves that it is the same in all models. Raises TrtkitError, naming the first weight that differs
    and how far the models are shared, when it is not.
    """
    check_preprocessing(models)
    if cut == 0:
        return [
            restored_stage(model.name, "head", model.graph, precision, None, *_meaning(model))
            for model in models
        ]
    points = [find_cut(model.graph, model.card, cut, model.name) for model in models]
    sides = [split(model.graph, point.tensor) for model, point in zip(models, points, strict=True)]
    first = sides[0].prefix
    digest = graph_digest(first)
    for model, side in zip(models[1:], sides[1:], strict=True):
        if graph_digest(side.prefix) != digest:
            raise _different(models[0], first, model, side.prefix, cut)
    root = StageGraph(PREFIX, stage_id(digest, precision, None), "prefix", None, first)
    tails = [
        stage
        for model, side in zip(models, sides, strict=True)
        for stage in _tail(model, side.tail, precision, root, embeddings)
    ]
    return [root, *tails]


def _tail(
    model: Model, graph: onnx.ModelProto, precision: str, root: StageGraph, embeddings: bool
) -> list[StageGraph]:
    head = _meaning(model)
    if not embeddings:
        return [restored_stage(model.name, "head", graph, precision, root, *head)]
    sides = divide(graph, model.name)
    body = restored_stage(f"{model.name}{BODY}", "body", sides.prefix, precision, root, None)
    return [body, restored_stage(model.name, "head", sides.tail, precision, body, *head)]


def _meaning(model: Model) -> tuple[tuple[str, ...], Scoring]:
    """The classes of the logits, and how they become scores."""
    return tuple(model.card.classes), model.card.scores


def restored_stage(
    name: str,
    role: Role,
    graph: onnx.ModelProto,
    precision: str,
    parent: StageGraph | None,
    classes: tuple[str, ...] | None,
    scores: Scoring = "softmax",
) -> StageGraph:
    """A stage whose graph was kept, as `stage_tree` would make it."""
    parent_id = parent.id if parent else None
    digest = graph_digest(graph)
    if scores != "softmax":
        # Verdicts are remembered by this id. Those of softmax keep the ids of earlier versions.
        digest += f" {scores}"
    identity = stage_id(digest, precision, parent_id)
    part = role == "body" or (parent is not None and parent.role == "body")
    above = parent.name if parent else None
    return StageGraph(name, identity, role, above, graph, classes, part, scores)


def shared_cut(a: Model, b: Model) -> int:
    """The last cut up to which the two models compute the same, weights included; 0 for none."""
    last = 0
    for a_point, b_point in zip(
        cut_points(a.graph, a.card), cut_points(b.graph, b.card), strict=False
    ):
        sides = split(a.graph, a_point.tensor), split(b.graph, b_point.tensor)
        if graph_digest(sides[0].prefix) != graph_digest(sides[1].prefix):
            break
        last = a_point.cut
    return last


def check_preprocessing(models: Sequence[Model]) -> None:
    """Raise TrtkitError unless all prepare photos the same way."""
    first = models[0]
    for model in models[1:]:
        if model.card.preprocessing != first.card.preprocessing:
            raise TrtkitError(
                f"{first.name} and {model.name} prepare photos differently "
                f"({_describe(first)} and {_describe(model)}), so they cannot be "
                "in one bundle; export both with the same --image-size, --resize, --crop, --channels and "
                "--resampling, or build them one by one."
            )


def _describe(model: Model) -> str:
    return model.card.preprocessing.describe()


def _different(
    a: Model, prefix_a: onnx.ModelProto, b: Model, prefix_b: onnx.ModelProto, cut: int
) -> TrtkitError:
    shared = shared_cut(a, b)
    where = first_difference(prefix_a, prefix_b)
    if shared:
        advice = f"choose a cut up to {shared}, up to which they are the same"
    else:
        advice = "train one on the other's prefix, or build them one by one"
    return TrtkitError(
        f"{a.name} and {b.name} cannot share a prefix at cut {cut}: their prefixes differ from block "
        f"{shared + 1} on, first in {where}; {advice}."
    )
