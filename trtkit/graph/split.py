"""Cutting an ONNX graph in two at one tensor."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper

from trtkit.errors import TrtkitError
from trtkit.graph.boundaries import CutPoint, cut_points
from trtkit.graph.card import ModelCard
from trtkit.graph.values import ancestors, image_input, reads, tensor_infos


@dataclass(frozen=True)
class Split:
    """The two sides of a cut. The prefix's output and the tail's input have one name and type."""

    prefix: onnx.ModelProto
    tail: onnx.ModelProto


def find_cut(model: onnx.ModelProto, card: ModelCard, cut: int, name: str) -> CutPoint:
    """The cut point with that number. Raises TrtkitError, saying which exist, when there is none."""
    points = cut_points(model, card)
    if not 1 <= cut <= len(points):
        what = "blocks" if card.blocks else "separating tensors"
        raise TrtkitError(
            f"{name} has {len(points)} {what} and no cut {cut}; choose 1 to {len(points)} (`trtkit cuts "
            f"{name}` lists them), or 0 for no split."
        )
    return points[cut - 1]


def split(model: onnx.ModelProto, tensor: str) -> Split:
    """Cut `model` at `tensor`: everything it needs before, everything else after.

    Weights that both sides use are in both. Raises TrtkitError when the rest of the graph also
    reads something else from before the tensor.
    """
    graph = model.graph
    outputs = [value.name for value in graph.output]
    before = ancestors(graph, [tensor])
    after = ancestors(graph, outputs, frozenset([tensor]))
    image = image_input(model).name
    crossing = image if any(image in reads(node) for node in after) else None
    if not before or crossing is not None:
        raise TrtkitError(
            f"The graph cannot be cut at {tensor}: there are paths from the image to the output "
            "around it; choose a tensor that `trtkit cuts` lists."
        )
    info = tensor_infos(model)[tensor]
    boundary = helper.make_tensor_value_info(tensor, info.dtype, ["batch", *info.shape[1:]])
    return Split(
        prefix=_part(model, before, [image_input(model)], [boundary], "prefix"),
        tail=_part(model, after, [boundary], list(graph.output), "tail"),
    )


def _part(
    model: onnx.ModelProto,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    name: str,
) -> onnx.ModelProto:
    used = {source for node in nodes for source in reads(node)}
    weights = [value for value in model.graph.initializer if value.name in used]
    graph = helper.make_graph(nodes, name, inputs, outputs, weights)
    return helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name="trtkit",
    )
