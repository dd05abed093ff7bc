"""Q/DQ pairs written into a graph: from the ranges of its values to int8 layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trtkit.graph.precision import HEAVY
from trtkit.graph.values import fresh_name, producers, set_nodes, set_weights
from trtkit.tensors import Array

# What only chooses or moves values: what it gives has the range of what it takes.
SAME_RANGE = ("MaxPool", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
# The positions of a node's inputs that are values and no weights or shapes.
DATA_INPUTS = {"Add": (0, 1)}
# What ONNX Runtime's CPU kernels compute in int8, or let int8 pass through.
KERNELS = (*HEAVY[:3], "Add", "AveragePool", "GlobalAveragePool", *SAME_RANGE)
# What never gives negative values.
NONNEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs", "Sqrt")
# Nonnegative if their input is; weights are not checked.
NONNEGATIVE_OF_INPUT = (
    "MaxPool", "AveragePool", "GlobalAveragePool", "Flatten", "Reshape", "Squeeze", "Unsqueeze",
    "Transpose", "Slice", "ReduceMean", "ReduceMax", "GlobalMaxPool", "Identity", "Dropout",
)  # fmt: skip
# Nonnegative if all inputs are.
NONNEGATIVE_OF_ALL = ("Add", "Mul", "Concat", "Max")

INT8_MAX = 127
UINT8_MAX = 255
INT32_MAX = 2**31 - 1

Edges = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """How a backend wants quantized graphs; all of them symmetric around 0.

    `unsigned`: activations are uint8, from 0 where they are never negative, else around 128; else
    int8. `own_placement`: which inputs are quantized is for the graph's operators to say (KERNELS),
    not for the quantizer. `stored`: weights are kept as int8, biases as int32; else as floats in front
    of a pair, as TensorRT before 10 needs it.
    """

    name: str
    unsigned: bool
    own_placement: bool
    stored: bool


# NVIDIA's: explicit quantization of TensorRT, all versions.
SYMMETRIC = Form("symmetric", unsigned=False, own_placement=False, stored=False)
# ONNX Runtime's CPU kernels: signed activations take several times as long (docs/results/int8.md).
UNSIGNED = Form("unsigned", unsigned=True, own_placement=True, stored=True)
FORMS = {form.name: form for form in (SYMMETRIC, UNSIGNED)}


def data_edges(graph: onnx.GraphProto, node: onnx.NodeProto) -> tuple[int, ...]:
    """The positions of a node's inputs that are computed values."""
    constants = {weight.name for weight in graph.initializer}
    return tuple(
        position
        for position in DATA_INPUTS.get(node.op_type, (0,))
        if position < len(node.input) and node.input[position] not in constants
    )


def kernel_edges(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """The inputs that ONNX Runtime's int8 kernels want quantized, from the first heavy layer on."""
    edges = {}
    after_heavy = False
    for node in graph.node:
        after_heavy = after_heavy or node.op_type in HEAVY
        if after_heavy and node.op_type in KERNELS and _has_weights(graph, node):
            edges[node.name] = data_edges(graph, node)
    return {name: positions for name, positions in edges.items() if positions}


def with_readers(graph: onnx.GraphProto, edges: Edges, boundaries: Collection[str] = ()) -> Edges:
    """`edges` without nodes that only move values to where nothing quantized reads them.

    `boundaries` are read quantized whatever reads them, so that a prefix does not depend on its tails.
    """
    read_quantized = set(boundaries)
    useful = {}
    for node in reversed(graph.node):
        own = edges.get(node.name)
        if own is None or (
            node.op_type in SAME_RANGE and not read_quantized.intersection(node.output)
        ):
            continue
        useful[node.name] = own
        read_quantized.update(node.input[position] for position in own)
    return useful


def layers_of(graph: onnx.GraphProto, edges: Edges) -> list[str]:
    """The nodes of `edges` that compute: those whose being int8 changes their results."""
    return [
        node.name for node in graph.node if node.name in edges and node.op_type not in SAME_RANGE
    ]


def range_sources(graph: onnx.GraphProto) -> dict[str, str]:
    """By computed tensor, the tensor whose range it has: its own, or the one whose values it carries."""
    made_by = producers(graph.node)
    sources = {}
    for name in made_by:
        source = name
        while source in made_by and made_by[source].op_type in SAME_RANGE:
            source = made_by[source].input[0]
        sources[name] = source
    return sources


def quantize_graph(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    edges: Edges,
    form: Form,
    boundaries: Collection[str] = (),
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of an fp32 graph with Q/DQ pairs at `edges`, and the quantized form of each tensor by name.

    `ranges`: the largest magnitude of tensors (those of `range_sources`); an edge whose tensor has
    none stays float, as does the heavy layer behind it. `boundaries`: tensors that all their readers take
    quantized, so that the graph can be cut there. Weights of heavy layers with a quantized input are
    quantized per output channel.
    """
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    edges = with_readers(quantized.graph, edges, boundaries)
    writer = _Writer(quantized, ranges, form)
    for node in quantized.graph.node:
        own = [
            position for position in edges.get(node.name, ()) if writer.knows(node.input[position])
        ]
        for position, name in enumerate(node.input):
            if position in own or (name in boundaries and writer.knows(name)):
                node.input[position] = writer.dequantized(name)
        if own and node.op_type in HEAVY:
            writer.weights(node)
    writer.finish()
    return quantized, writer.quantized


class _Writer:
    """The pairs of one graph that is being quantized."""

    def __init__(self, model: onnx.ModelProto, ranges: Mapping[str, float], form: Form) -> None:
        self._graph = model.graph
        self._form = form
        self._sources = range_sources(model.graph)
        self._ranges = ranges
        self._positive = nonnegative(model.graph)
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._names = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._behind: dict[str, list[onnx.NodeProto]] = {}
        self._first: list[onnx.NodeProto] = []
        self._scales: dict[str, float] = {}
        # What stands behind each pair, and for activations which tensor that is.
        self._dequantized: dict[str, str] = {}
        self._tensor_of: dict[str, str] = {}
        self._channels: dict[tuple[str, int], str] = {}
        self.quantized: dict[str, str] = {}

    def knows(self, tensor: str) -> bool:
        return self._range(tensor) is not None

    def dequantized(self, tensor: str) -> str:
        """The name of the tensor behind its pair, which is made at the first call."""
        wide = self._dequantized.get(tensor)
        if wide is None:
            scale, zero = self._scale_and_zero(tensor)
            self._scales[tensor] = float(scale)
            parameters = [
                self._constant(f"{tensor}_scale", np.array(scale, np.float32)),
                self._constant(f"{tensor}_zero", zero),
            ]
            narrow = fresh_name(f"{tensor}_quantized", self._names)
            wide = fresh_name(f"{tensor}_dequantized", self._names)
            self._behind[tensor] = [
                _node("QuantizeLinear", [tensor, *parameters], narrow),
                _node("DequantizeLinear", [narrow, *parameters], wide),
            ]
            self.quantized[tensor] = narrow
            self._dequantized[tensor] = wide
            self._tensor_of[wide] = tensor
        return wide

    def weights(self, node: onnx.NodeProto) -> None:
        """Quantize the weights of a heavy layer, whose data come out of a pair already."""
        weight = self._weights.get(node.input[1])
        if weight is None or weight.data_type != TensorProto.FLOAT:
            return
        axis = _channel_axis(node, len(weight.dims))
        values = numpy_helper.to_array(weight)
        scales = self._channel_scales(values, axis)
        node.input[1] = self._weight(weight.name, values, scales, axis)
        bias = self._weights.get(node.input[2]) if len(node.input) > 2 else None
        if self._form.stored and bias is not None and bias.data_type == TensorProto.FLOAT:
            scale = self._scales[self._tensor_of[node.input[0]]]
            node.input[2] = self._bias(node.name, bias, scale * scales) or node.input[2]

    def finish(self) -> None:
        """Put every pair behind the tensor that it takes."""
        nodes = list(self._first)
        for value in self._graph.input:
            nodes += self._behind.get(value.name, [])
        for node in self._graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self._behind.get(name, [])
        set_nodes(self._graph, nodes)
        set_weights(self._graph, self._weights.values())

    def _range(self, tensor: str) -> float | None:
        largest = self._ranges.get(self._sources.get(tensor, tensor))
        return largest if largest is not None and largest > 0 else None

    def _scale_and_zero(self, tensor: str) -> tuple[float, Array]:
        largest = self._range(tensor) or 0.0
        if not self._form.unsigned:
            return largest / INT8_MAX, np.array(0, np.int8)
        if tensor in self._positive:
            return largest / UINT8_MAX, np.array(0, np.uint8)
        return largest / INT8_MAX, np.array(INT8_MAX + 1, np.uint8)

    def _channel_scales(self, values: Array, axis: int) -> Array:
        others = tuple(place for place in range(values.ndim) if place != axis)
        largest = np.abs(values).max(axis=others, initial=0.0).astype(np.float32)
        # A dead channel is 0 at every scale.
        return np.where(largest > 0, largest / np.float32(INT8_MAX), np.float32(1.0))

    def _weight(self, name: str, values: Array, scales: Array, axis: int) -> str:
        if (name, axis) in self._channels:
            return self._channels[name, axis]
        parameters = [
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero", np.zeros(len(scales), np.int8)),
        ]
        source = f"{name}_quantized"
        if self._form.stored:
            shape = [1] * values.ndim
            shape[axis] = -1
            rounded = np.rint(values / scales.reshape(shape)).clip(-INT8_MAX, INT8_MAX)
            source = self._constant(source, rounded.astype(np.int8))
        else:
            source = fresh_name(source, self._names)
            self._first.append(_node("QuantizeLinear", [name, *parameters], source, axis=axis))
        wide = fresh_name(f"{name}_dequantized", self._names)
        self._first.append(_node("DequantizeLinear", [source, *parameters], wide, axis=axis))
        self._channels[name, axis] = wide
        return wide

    def _bias(self, layer: str, bias: onnx.TensorProto, scales: Array) -> str | None:
        """An int32 bias in the units of the layer's products; None where one is too large for that."""
        units = np.rint(numpy_helper.to_array(bias).astype(np.float64) / scales)
        if np.abs(units).max(initial=0.0) > INT32_MAX:
            return None
        parameters = [
            self._constant(f"{layer}_bias_scale", scales.astype(np.float32)),
            self._constant(f"{layer}_bias_zero", np.zeros(len(scales), np.int32)),
        ]
        source = self._constant(f"{layer}_bias_quantized", units.astype(np.int32))
        wide = fresh_name(f"{layer}_bias_dequantized", self._names)
        self._first.append(_node("DequantizeLinear", [source, *parameters], wide, axis=0))
        return wide

    def _constant(self, name: str, values: Array) -> str:
        name = fresh_name(name, self._names)
        self._weights[name] = numpy_helper.from_array(values, name)
        return name


def _has_weights(graph: onnx.GraphProto, node: onnx.NodeProto) -> bool:
    """Whether a heavy layer multiplies with constants, as int8 kernels do here."""
    if node.op_type not in HEAVY:
        return True
    return any(weight.name == node.input[1] for weight in graph.initializer)


def _channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a heavy layer's weights along which its output channels lie."""
    if node.op_type == "MatMul":
        return rank - 1
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _node(kind: str, inputs: list[str], output: str, axis: int | None = None) -> onnx.NodeProto:
    node = helper.make_node(kind, inputs, [output], name=f"{kind}_{output}")
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    return node


def nonnegative(graph: onnx.GraphProto) -> set[str]:
    """The names of the tensors that are 0 or more whatever the image is."""
    constants = {weight.name: weight for weight in graph.initializer}
    positive: set[str] = set()
    for node in graph.node:
        if _is_positive(node, positive, constants):
            positive.update(node.output[:1])
    return positive


def _is_positive(
    node: onnx.NodeProto, positive: set[str], constants: dict[str, onnx.TensorProto]
) -> bool:
    if node.op_type in NONNEGATIVE:
        return True
    if node.op_type == "Clip":
        low = constants.get(node.input[1]) if len(node.input) > 1 else None
        return node.input[0] in positive or (
            low is not None and bool((numpy_helper.to_array(low) >= 0).all())
        )
    if node.op_type in NONNEGATIVE_OF_INPUT:
        return node.input[0] in positive
    return node.op_type in NONNEGATIVE_OF_ALL and positive.issuperset(node.input)
