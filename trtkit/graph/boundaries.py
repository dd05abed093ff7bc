"""Where a graph may be cut, what a cut there hands over, and the segments between the cuts.

A node's segment is written into its name, so that engines report it back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from trtkit.errors import TrtkitError
from trtkit.graph.card import BlockBoundary, ModelCard
from trtkit.graph.values import (
    TensorInfo,
    ancestors,
    image_input,
    node_flops,
    reads,
    rename_tensors,
    tensor_infos,
)

FP32_BYTES = 4
_LABEL = re.compile(r"segment(\d+)/")


@dataclass(frozen=True)
class CutPoint:
    """The boundary after one block.

    `shape` (without the batch) and `bytes` are per image, in fp32. `flops_share` is the part of the
    model's FLOPs before the cut, 0 to 1, None where the size of a layer is not known.
    """

    cut: int
    block: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    flops_share: float | None


def cut_points(model: onnx.ModelProto, card: ModelCard) -> list[CutPoint]:
    """Every cut of an exported model, numbered from 1.

    After each block of the card; for a foreign graph after every tensor that alone separates the
    graph into before and after. Raises TrtkitError when the card names a tensor the graph lacks.
    """
    infos = tensor_infos(model)
    boundaries = card.blocks or separators(model, infos)
    flops = {node.output[0]: node_flops(node, infos) for node in model.graph.node}
    known = {name: count for name, count in flops.items() if count is not None}
    total = sum(known.values()) or 1
    points = []
    for number, boundary in enumerate(boundaries, start=1):
        info = infos.get(boundary.tensor)
        if info is None or info.per_image is None or info.elements is None:
            raise TrtkitError(
                f"The metadata name {boundary.tensor} as the end of block {boundary.name}, but the "
                "graph has no such tensor of known shape; export the model again."
            )
        nodes = ancestors(model.graph, [boundary.tensor])
        before = sum(known.get(node.output[0], 0) for node in nodes)
        points.append(
            CutPoint(
                cut=number,
                block=boundary.name,
                tensor=boundary.tensor,
                shape=info.per_image,
                bytes=info.elements * FP32_BYTES,
                flops_share=before / total if len(known) == len(flops) else None,
            )
        )
    return points


def separators(model: onnx.ModelProto, infos: dict[str, TensorInfo]) -> list[BlockBoundary]:
    """Every float tensor with a batch dimension that all paths from image to output go through.

    In the order of the graph; the image itself, its normalisation and the output are left out.
    """
    graph = model.graph
    outputs = [value.name for value in graph.output]
    order = ancestors(graph, outputs)
    live = dependent_on(image_input(model).name, order)
    uses = dict.fromkeys(live, 0)
    for node in order:
        for name in set(reads(node)) & live:
            uses[name] += 1
    for name in outputs:
        uses[name] = uses.get(name, 0) + 1
    boundaries = []
    crossing = {image_input(model).name}
    for node in order:
        if not live & set(node.output):
            continue
        for name in set(reads(node)) & live:
            uses[name] -= 1
            if uses[name] == 0:
                crossing.discard(name)
        crossing.update(name for name in node.output if uses.get(name))
        if len(crossing) == 1:
            name = next(iter(crossing))
            if name in node.output and name not in outputs and _is_feature_map(infos.get(name)):
                boundaries.append(BlockBoundary(node.name or name, name))
    return boundaries[_image_nodes(order, boundaries) :]


def dependent_on(image: str, order: list[onnx.NodeProto]) -> set[str]:
    """`image` and every tensor that the nodes, in their order, compute from it."""
    dependent = {image}
    for node in order:
        if dependent & set(reads(node)):
            dependent.update(name for name in node.output if name)
    return dependent


def _is_feature_map(info: TensorInfo | None) -> bool:
    return (
        info is not None
        and info.dtype == TensorProto.FLOAT
        and len(info.shape) >= 2
        and info.shape[0] is None
        and info.per_image is not None
    )


def _image_nodes(order: list[onnx.NodeProto], boundaries: list[BlockBoundary]) -> int:
    """How many of the separators come before the first convolution or matrix product."""
    names = {boundary.tensor for boundary in boundaries}
    count = 0
    for node in order:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        count += len(names & set(node.output))
    return count


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
