"""Where a graph may be cut, and what a cut there hands over."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import TensorProto

from trtkit.errors import TrtkitError
from trtkit.graph.card import BlockBoundary, ModelCard
from trtkit.graph.values import TensorInfo, ancestors, image_input, node_flops, reads, tensor_infos

FP32_BYTES = 4


@dataclass(frozen=True)
class CutPoint:
    """The boundary after one block.

    `shape` (without the batch) and `bytes` are per image, in fp32. `flops_share` is the part of the
    model's FLOPs before the cut, 0 to 1.
    """

    cut: int
    block: str
    tensor: str
    shape: tuple[int, ...]
    bytes: int
    flops_share: float


def cut_points(model: onnx.ModelProto, card: ModelCard) -> list[CutPoint]:
    """Every cut of an exported model, numbered from 1.

    After each block of the card; for a foreign graph after every tensor that alone separates the
    graph into before and after. Raises TrtkitError when the card names a tensor the graph lacks.
    """
    infos = tensor_infos(model)
    boundaries = card.blocks or separators(model, infos)
    flops = {node.output[0]: node_flops(node, infos) for node in model.graph.node}
    total = sum(flops.values()) or 1
    points = []
    for number, boundary in enumerate(boundaries, start=1):
        info = infos.get(boundary.tensor)
        if info is None or info.per_image is None or info.elements is None:
            raise TrtkitError(
                f"The metadata name {boundary.tensor} as the end of block {boundary.name}, but the "
                "graph has no such tensor of known shape; export the model again."
            )
        before = sum(flops[node.output[0]] for node in ancestors(model.graph, [boundary.tensor]))
        points.append(
            CutPoint(
                cut=number,
                block=boundary.name,
                tensor=boundary.tensor,
                shape=info.per_image,
                bytes=info.elements * FP32_BYTES,
                flops_share=before / total,
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
