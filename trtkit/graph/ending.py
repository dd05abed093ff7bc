"""How a foreign graph ends: the activation that makes scores of its logits, and a single output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from trtkit.errors import TrtkitError
from trtkit.graph.values import ancestors, rename_tensors, set_nodes, set_weights
from trtkit.scores import Scoring

Activation = Literal["Softmax", "LogSoftmax", "Sigmoid"]
# What each makes of logits.
SCORINGS: dict[str, Scoring] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
}
# What may stand behind it: nodes that give the values that they take, in another shape or type.
CARRIERS = (
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "Dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How outputs become scores, and the `activation` that was removed, None where there was none."""

    scoring: Scoring
    activation: Activation | None


def remove_activation(graph: onnx.GraphProto, scoring: Scoring | None, name: str) -> Ending:
    """Remove a Softmax, LogSoftmax or Sigmoid at the end, in place, so that the output is logits.

    It may stand in front of nodes that only reshape or convert. Branches that the output does not need
    are removed too. `scoring`: what the caller states, None to go by the graph. Raises TrtkitError where
    that contradicts the graph; `none` never does.
    """
    output = graph.output[0].name
    needed = {node.output[0] for node in ancestors(graph, [output])}
    set_nodes(graph, [node for node in graph.node if node.output[0] in needed])
    last = _last_computing(graph, output)
    kind = last.op_type if last is not None else None
    own = SCORINGS.get(kind or "")
    if last is None or own is None:
        set_weights(graph, graph.initializer)
        return Ending(scoring or "softmax", None)
    if scoring not in (None, "none", own):
        raise TrtkitError(
            f"{name} ends in a {kind}, so its scores are {own}, not {scoring}; leave --scores out."
        )
    _bypass(graph, last)
    set_weights(graph, graph.initializer)
    return Ending(own, kind)  # type: ignore[arg-type]


def two_classes(graph: onnx.GraphProto, ending: Ending, name: str) -> Ending:
    """Make of a single output, N x 1, the outputs of two classes, N x 2, in place.

    A logit x becomes 0 and x, whose softmax is 1 - p and p; a score p as it is becomes 1 - p and p.
    Raises TrtkitError for a softmax over a single value, which is always 1.
    """
    if ending.activation in ("Softmax", "LogSoftmax"):
        raise TrtkitError(
            f"{name} ends in a {ending.activation} over a single output, which says the same of every "
            "photo; export it with one output for each class, or its logit alone."
        )
    output = graph.output[0].name
    single = f"trtkit_single_{output}"
    rename_tensors(graph.node, {output: single})
    if ending.scoring == "none":
        weights = {"trtkit_signs": [[-1.0, 1.0]], "trtkit_offsets": [[1.0, 0.0]]}
        nodes = [
            helper.make_node("Mul", [single, "trtkit_signs"], ["trtkit_signed"], "trtkit_sign"),
            helper.make_node("Add", ["trtkit_signed", "trtkit_offsets"], [output], "trtkit_pair"),
        ]
    else:
        weights = {"trtkit_pairing": [[0.0, 1.0]]}
        nodes = [helper.make_node("Mul", [single, "trtkit_pairing"], [output], "trtkit_pair")]
    graph.node.extend(nodes)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(values, np.float32), weight)
        for weight, values in weights.items()
    )
    return Ending("none" if ending.scoring == "none" else "softmax", ending.activation)


def _last_computing(graph: onnx.GraphProto, output: str) -> onnx.NodeProto | None:
    """The node behind which nothing but carriers lead to the output; None where there is none."""
    made_by = {name: node for node in graph.node for name in node.output if name}
    node = made_by.get(output)
    while node is not None and node.op_type in CARRIERS:
        node = made_by.get(node.input[0])
    return node if node is not None and node.input and node.input[0] in made_by else None


def _bypass(graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
    """Give what reads the node's output its input instead, and remove the node."""
    before, after = node.input[0], node.output[0]
    graph.node.remove(node)
    if after == graph.output[0].name:
        # The output keeps its name, and whatever else reads the logits follows.
        before, after = after, before
    rename_tensors(graph.node, {after: before})
