"""A stage's precision, written into its graph for a backend that computes in the graph's types."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.errors import TrtkitError
from trtkit.graph.half import compute_half
from trtkit.graph.precision import half_ends, heavy_precisions, name_nodes, raise_opset
from trtkit.graph.values import set_nodes

# The first opset whose Q/DQ pairs may have fp16 scales and give fp16 values.
HALF_SCALES_OPSET = 19


def quantize_from_fp32(graph: onnx.GraphProto) -> None:
    """Cast what is quantized to fp32 first, in place: for ONNX Runtime, to see what a graph says.

    Until 1.24 it truncates where it quantizes fp16, and ONNX rounds.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        scale = weights.get(node.input[1]) if node.op_type == "QuantizeLinear" else None
        if scale is not None and scale.data_type == TensorProto.FLOAT16:
            wide = f"{node.output[0]}_fp32"
            values = numpy_helper.to_array(scale).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(values, f"{wide}_scale"))
            cast = helper.make_node("Cast", [node.input[0]], [wide], wide, to=TensorProto.FLOAT)
            nodes.append(cast)
            node.input[0], node.input[1] = wide, f"{wide}_scale"
        nodes.append(node)
    set_nodes(graph, nodes)


def has_pairs(graph: onnx.GraphProto) -> bool:
    """Whether anything in the graph was quantized."""
    return any(node.op_type == "DequantizeLinear" for node in graph.node)


def write_precision(
    stage: onnx.ModelProto,
    precision: str,
    name: str,
    *,
    feature_input: bool,
    feature_output: bool,
    strong: bool,
    part: bool = False,
) -> dict[str, str]:
    """Make a stage's graph fp32, fp16 or int8, in place; gives what each heavy node computes in.

    `name` is for messages; `feature_input` and `feature_output` say which end is a feature map.
    `strong`: the types of the graph decide; else an int8 graph keeps fp32 around its Q/DQ pairs, as
    fp16 scales need opset 19. Raises TrtkitError for int8 without Q/DQ pairs, but not for `part` of a
    tail, whose other part may have them, and for Q/DQ pairs without int8.
    """
    graph = stage.graph
    quantized = has_pairs(graph)
    heavy = heavy_precisions(graph, "fp32")
    if precision == "int8" and not part and heavy and "int8" not in heavy.values():
        raise TrtkitError(
            f"int8 needs a quantized graph, but {name} has no QuantizeLinear and DequantizeLinear pairs "
            "around its layers; export a quantized ONNX file, or build with --fp16."
        )
    if quantized and precision != "int8":
        raise TrtkitError(
            f"{name} cannot be built in {precision}, because it is quantized: it has QuantizeLinear and "
            "DequantizeLinear pairs; build with --int8, or export the model it was made from."
        )
    name_nodes(graph)
    if precision == "int8" and not strong:
        half_ends(graph, feature_input=feature_input, feature_output=feature_output)
    elif precision != "fp32":
        if quantized:
            raise_opset(stage, HALF_SCALES_OPSET)
        compute_half(stage, feature_input=feature_input, feature_output=feature_output)
    return heavy_precisions(graph, "fp32" if precision == "fp32" else "fp16")
