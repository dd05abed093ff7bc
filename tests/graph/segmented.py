"""Small networks of several blocks, and where they may be cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graph.onnx_graphs import make_model
from trtkit.graph.boundaries import CutPoint

WIDTH = 16


def points(tensors: Sequence[str]) -> list[CutPoint]:
    """Cuts 1, 2 and so on behind these tensors."""
    return [
        CutPoint(number, tensor, tensor, (1,), 4, 0.5)
        for number, tensor in enumerate(tensors, start=1)
    ]


def residual(blocks: int = 2, size: int = 8) -> tuple[onnx.ModelProto, list[str]]:
    """A stem, residual blocks and a head; the ends of the stem and of each block."""
    network = _Network()
    tensor = network.convolution("x", "stem", 3)
    ends = [tensor]
    for block in range(1, blocks + 1):
        inner = network.convolution(tensor, f"block{block}_a", WIDTH)
        outer = network.convolution(inner, f"block{block}_b", WIDTH, relu=False)
        added = network.add("Add", [outer, tensor], f"block{block}_add")
        tensor = network.add("Relu", [added], f"block{block}_relu")
        ends.append(tensor)
    return network.finish(tensor, size), ends


def vgg(size: int = 8) -> tuple[onnx.ModelProto, list[str]]:
    """Three blocks of a convolution and a ReLU, two of them with a pooling behind; their ends."""
    network = _Network()
    tensor, channels, ends = "x", 3, []
    for block in range(1, 4):
        tensor = network.convolution(tensor, f"block{block}", channels)
        channels = WIDTH
        if block > 1:
            shape = {"kernel_shape": [2, 2], "strides": [2, 2]}
            tensor = network.add("MaxPool", [tensor], f"block{block}_pool", **shape)
        ends.append(tensor)
    return network.finish(tensor, size), ends


def branches(read: str, condition: str) -> onnx.ModelProto:
    """A graph whose If has branches that read the outer tensor `read`."""

    def branch(name: str, factor: str) -> onnx.GraphProto:
        nodes = [helper.make_node("Mul", [read, factor], [f"{name}_out"], f"{name}_mul")]
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [output])

    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("ReduceMax", ["a"], ["top"], "top", keepdims=0),
        helper.make_node("Greater", ["top", "limit"], ["positive"], "greater"),
        helper.make_node("Cast", ["positive"], ["flag"], "cast", to=TensorProto.BOOL),
        helper.make_node(
            "If", [condition], ["b"], "choose",
            then_branch=branch("then", "two"), else_branch=branch("other", "half"),
        ),
        helper.make_node("Exp", ["b"], ["c"], "exp"),
    ]  # fmt: skip
    constants = {"limit": 0.5, "two": 2.0, "half": 0.5}
    weights = [
        numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()
    ]
    shape = ["N", 3, 8, 8]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "c")]
    graph = helper.make_graph(nodes, "branches", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class _Network:
    """Nodes and weights in the making; a tensor is called after its node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self._random = np.random.default_rng(0)

    def add(self, kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def weight(self, name: str, *shape: int) -> str:
        self.weights[name] = self._random.standard_normal(shape).astype(np.float32) * 0.1
        return name

    def convolution(self, source: str, name: str, channels: int, *, relu: bool = True) -> str:
        kernel = self.weight(f"{name}_w", WIDTH, channels, 3, 3)
        made = self.add("Conv", [source, kernel], f"{name}_conv", pads=[1, 1, 1, 1])
        return self.add("Relu", [made], f"{name}_relu") if relu else made

    def finish(self, tensor: str, size: int) -> onnx.ModelProto:
        pooled = self.add("GlobalAveragePool", [tensor], "head_pool")
        flat = self.add("Flatten", [pooled], "head_flat")
        logits = self.add("Gemm", [flat, self.weight("fc", WIDTH, 5)], "head_gemm")
        return make_model(self.nodes, ["N", 3, size, size], (logits, ["N", 5]), self.weights)
