"""Which part of a network a node belongs to, written into its name so that engines report it back."""

from __future__ import annotations

import re
from collections.abc import Sequence

import onnx

from trtkit.graph.boundaries import CutPoint
from trtkit.graph.values import ancestors, reads, rename_tensors

_LABEL = re.compile(r"segment(\d+)/")


def label_segments(model: onnx.ModelProto, points: Sequence[CutPoint]) -> None:
    """Put `segmentN/` in front of the names of all nodes and of the tensors between them, in place.

    Segment N is what cut N has before it and cut N - 1 has not, so segment 1 begins with the image;
    what is behind the last cut has one number more. Both names, because backends call a fused layer
    after a node or after a tensor. The model's input, output and weights keep theirs.
    """
    graph = model.graph
    number: dict[str, int] = {}
    for point in points:
        for node in ancestors(graph, [point.tensor]):
            number.setdefault(_first_output(node), point.cut)
    last = len(points) + 1
    fixed = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    # A subgraph refers to tensors outside by name, also to those that its node reads itself.
    for node in graph.node:
        own = sum(1 for name in node.input if name)
        fixed.update(reads(node)[own:])
    renamed = {}
    for position, node in enumerate(graph.node):
        label = f"segment{number.get(_first_output(node), last)}/"
        node.name = f"{label}{node.name or f'{node.op_type}_{position}'}"
        for name in node.output:
            if name and name not in fixed:
                renamed[name] = label + name
    rename_tensors(graph.node, renamed)
    # Shapes known by name: each backend infers them again.
    del graph.value_info[:]


def _first_output(node: onnx.NodeProto) -> str:
    """The first output with a name: omitted outputs have none."""
    return next((name for name in node.output if name), "")


def segment_of(layer: str) -> int | None:
    """The segment in the name of an engine's layer; the first of a fused one. None without a label."""
    match = _LABEL.search(layer)
    return int(match[1]) if match else None
