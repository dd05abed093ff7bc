"""fp16 arithmetic in a stage's graph, for backends that compute in the types of the graph."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from trtkit.errors import TrtkitError, first_line
from trtkit.graph.precision import HEAVY, cast_node, half_weight
from trtkit.graph.values import reads, rename_tensors, set_nodes, set_weights, tensor_infos

# Inputs that ONNX wants in fp32 whatever the type of the data: Resize's region and scales.
FLOAT_INPUTS = {"Resize": (1, 2)}


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
        inner = self._fresh(f"{name}_{'fp32' if feature else 'fp16'}")
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

    def _fresh(self, name: str) -> str:
        """`name`, or one like it that is not in the graph."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def _as_half(self, name: str, *, scale: bool = False) -> str:
        """The fp16 form of a tensor: itself, a converted weight, or what a cast gives."""
        if name in self._half:
            return name
        if name not in self._narrow:
            narrow = self._fresh(f"{name}_fp16")
            if name in self._weights:
                weight = half_weight(self._weights[name], positive=scale)
                weight.name = narrow
                self._weights[narrow] = weight
            else:
                self._nodes.append(cast_node(name, narrow, TensorProto.FLOAT16))
            self._narrow[name] = narrow
        return self._narrow[name]
