"""Writing a precision into a stage's graph.

`store_half` keeps fp16 for a backend that computes in fp32, `write_precision` is for one that computes in
the graph's types.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from trtkit.errors import TrtkitError, first_line
from trtkit.graph.values import (
    fresh_name,
    producers,
    reads,
    rename_tensors,
    set_nodes,
    set_weights,
    tensor_infos,
)

HEAVY = ("Conv", "Gemm", "MatMul", "ConvTranspose")
FP16_MAX = 65504.0
FP16_SMALLEST = np.finfo(np.float16).smallest_subnormal
# The first opset whose Q/DQ pairs may have fp16 scales and give fp16 values.
HALF_SCALES_OPSET = 19
# Inputs that ONNX wants in fp32 whatever the type of the data: Resize's region and scales.
FLOAT_INPUTS = {"Resize": (1, 2)}


def store_half(stage: onnx.ModelProto, *, feature_input: bool, feature_output: bool) -> None:
    """Keep weights and feature maps as fp16 and compute in fp32, in place.

    For backends without fp16 arithmetic: half the file, half the feature map, the speed of fp32.
    The weights of heavy layers become fp16 with a cast behind them; `feature_input` and
    `feature_output` say which end of the stage is a feature map and so fp16. The image stays uint8,
    the logits fp32. Raises TrtkitError, naming the weight, when one does not fit fp16.
    """
    graph = stage.graph
    heavy = {name for node in graph.node if node.op_type in HEAVY for name in node.input[1:]}
    casts = []
    for weight in graph.initializer:
        if weight.name not in heavy or weight.data_type != TensorProto.FLOAT:
            continue
        wide = weight.name
        weight.CopyFrom(half_weight(weight))
        casts.append(cast_node(weight.name, wide, TensorProto.FLOAT))
    _put_first(graph, casts)
    half_ends(graph, feature_input=feature_input, feature_output=feature_output)


def half_ends(graph: onnx.GraphProto, *, feature_input: bool, feature_output: bool) -> None:
    """Take and give feature maps as fp16 with a cast inside, in place; all else stays as it is."""
    if feature_input and _is_float(graph.input[0]):
        value = graph.input[0]
        stored = f"{value.name}_fp16"
        _put_first(graph, [cast_node(stored, value.name, TensorProto.FLOAT)])
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    if feature_output and _is_float(graph.output[0]):
        value = graph.output[0]
        stored = f"{value.name}_fp16"
        graph.node.append(cast_node(value.name, stored, TensorProto.FLOAT16))
        value.name = stored
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def heavy_precisions(graph: onnx.GraphProto, rest: str) -> dict[str, str]:
    """What each heavy node computes in: `int8` where its input was dequantized, else `rest`."""
    made_by = producers(graph.node)
    precisions = {}
    for node in graph.node:
        if node.op_type in HEAVY:
            source = made_by.get(node.input[0])
            quantized = source is not None and source.op_type == "DequantizeLinear"
            precisions[node.name] = "int8" if quantized else rest
    return precisions


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, in place: messages and the engine inspector speak of nodes."""
    all_names = {node.name for node in graph.node}
    names: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in names:
            name = f"{node.name or node.op_type}_{index}"
            while name in all_names:
                name += "_"
            node.name = name
            all_names.add(name)
        names.add(node.name)


def raise_opset(model: onnx.ModelProto, opset: int) -> None:
    """Rewrite a graph of an older opset for `opset`, in place. Raises TrtkitError when it cannot be."""
    current = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if current >= opset:
        return
    try:
        raised = version_converter.convert_version(model, opset)
    except (version_converter.ConvertError, RuntimeError) as error:
        # Without the converter's own source line.
        why = str(error).rpartition("failed: ")[2].rstrip(".")
        raise TrtkitError(
            f"The graph cannot be brought from opset {current} to {opset} ({why}); export it with opset "
            f"{opset}."
        ) from error
    model.CopyFrom(raised)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _put_first(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    set_nodes(graph, [*nodes, *graph.node])


def half_weight(weight: onnx.TensorProto, *, positive: bool = False) -> onnx.TensorProto:
    """The fp16 form of a weight, called NAME_fp16. Raises TrtkitError, naming it, when it does not fit.

    `positive`: what is above 0 stays so. The scale of a dead channel is smaller than fp16's smallest
    value, and TensorRT refuses a scale of 0.
    """
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max(initial=0.0))
    if not largest <= FP16_MAX:
        raise TrtkitError(
            f"The weight {weight.name} reaches {largest:.3g}, past fp16's largest value "
            f"{FP16_MAX:.0f}; build with --fp32, or retrain with weight decay."
        )
    half = values.astype(np.float16)
    if positive:
        half = np.where((values > 0) & (half == 0), FP16_SMALLEST, half)
    return numpy_helper.from_array(half, f"{weight.name}_fp16")


def cast_node(source: str, target: str, dtype: int) -> onnx.NodeProto:
    """A Cast of the tensor `source` to `target`, named after that; `dtype` is a TensorProto number."""
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=dtype)


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


def compute_half(stage: onnx.ModelProto, *, feature_input: bool, feature_output: bool) -> None:
    """Make everything from the first heavy layer on fp16, in place.

    What comes before, the normalisation of the image, stays fp32; so do the logits. `feature_input`
    and `feature_output` say which end of the stage is a feature map and so fp16. A graph with
    QuantizeLinear and DequantizeLinear stays int8 between them and becomes fp16 around. Raises
    TrtkitError, naming it, for a weight that does not fit fp16 and for a graph that has no fp16 form.
    """
    graph = stage.graph
    half = _Half(graph, {name: info.dtype for name, info in tensor_infos(stage).items()})
    if feature_input:
        half.input(graph.input[0])
    for node in list(graph.node):
        half.convert(node)
    half.output(graph.output[0], feature=feature_output)
    half.finish()
    try:
        onnx.checker.check_model(stage, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TrtkitError(
            f"The graph cannot be written in fp16 ({first_line(error)}); build it with --fp32."
        ) from error


class _Half:
    """The conversion of one graph: which tensors are fp16 by now, and the nodes written so far."""

    def __init__(self, graph: onnx.GraphProto, types: dict[str, int]) -> None:
        self._graph = graph
        self._types = types
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._names = set(types) | self._weights.keys()
        self._narrow: dict[str, str] = {}
        self._half: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []

    def input(self, value: onnx.ValueInfoProto) -> None:
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            # A feature map that is int8 already.
            return
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
        self._half.add(value.name)

    def convert(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Cast":
            self._cast(node)
        elif node.op_type == "DequantizeLinear":
            # Its output has the type of its scale.
            node.input[1] = self._as_half(node.input[1], scale=True)
            self._half.update(node.output)
        elif node.op_type in HEAVY or self._half.intersection(reads(node)):
            self._widen_region(node)
        self._nodes.append(node)

    def output(self, value: onnx.ValueInfoProto, *, feature: bool) -> None:
        """Bring the stage's output to the type it hands over: fp16 for a feature map, else fp32."""
        name = value.name
        wanted = TensorProto.FLOAT16 if feature else TensorProto.FLOAT
        if self._types.get(name) != TensorProto.FLOAT or (name in self._half) == feature:
            if feature and name in self._half:
                value.type.tensor_type.elem_type = wanted
            return
        inner = fresh_name(f"{name}_{'fp32' if feature else 'fp16'}", self._names)
        rename_tensors(self._nodes, {name: inner})
        self._nodes.append(cast_node(inner, name, wanted))
        value.type.tensor_type.elem_type = wanted

    def finish(self) -> None:
        set_nodes(self._graph, self._nodes)
        set_weights(self._graph, self._weights.values())
        # The types recorded there are those from before.
        del self._graph.value_info[:]

    def _cast(self, node: onnx.NodeProto) -> None:
        if node.input[0] not in self._half:
            return
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
                self._half.update(node.output)

    def _widen_region(self, node: onnx.NodeProto) -> None:
        kept = FLOAT_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if position not in kept and self._types.get(name) == TensorProto.FLOAT:
                node.input[position] = self._as_half(name)
        self._half.update(
            name for name in node.output if self._types.get(name) == TensorProto.FLOAT
        )

    def _as_half(self, name: str, *, scale: bool = False) -> str:
        """The fp16 form of a tensor: itself, a converted weight, or what a cast gives."""
        if name in self._half:
            return name
        if name not in self._narrow:
            narrow = fresh_name(f"{name}_fp16", self._names)
            if name in self._weights:
                weight = half_weight(self._weights[name], positive=scale)
                weight.name = narrow
                self._weights[narrow] = weight
            else:
                self._nodes.append(cast_node(name, narrow, TensorProto.FLOAT16))
            self._narrow[name] = narrow
        return self._narrow[name]
