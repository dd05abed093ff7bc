"""Small hand-made ONNX graphs, and running a graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def run(model: onnx.ModelProto, value: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # What the graph says: int8 kernels round in other places.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    output: tuple[str, Sequence[int | str]],
    weights: dict[str, np.ndarray] | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
) -> onnx.ModelProto:
    """A checked model with the input `x` of `shape` and one float output."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", dtype, list(shape))],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, list(output[1]))],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def classifier(
    batch: int | str = "N",
    size: int | str = 8,
    classes: int = 5,
    *,
    softmax: bool = False,
    constant_nodes: bool = False,
    reshape: Sequence[int] | None = None,
    input_name: str = "x",
    seed: int = 0,
    ending: Sequence[str] = (),
) -> onnx.ModelProto:
    """A float NCHW classifier as others export it: two convolutions with a skip, pool, Gemm.

    `ending`: operators that follow, each of the one before.
    """
    random = np.random.default_rng(seed)
    weights = {
        "w1": random.standard_normal((4, 3, 3, 3)).astype(np.float32) * 0.3,
        "w2": random.standard_normal((4, 4, 3, 3)).astype(np.float32) * 0.3,
        "fc": random.standard_normal((classes, 4)).astype(np.float32),
        "shape": np.array(reshape or [0, -1], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Conv", [input_name, "w1"], ["a"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "b"], ["d"], "add"),
        helper.make_node("GlobalAveragePool", ["d"], ["e"], "pool"),
        helper.make_node("Reshape", ["e", "shape"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc"], ["g"], "gemm", transB=1),
    ]
    last = "g"
    if softmax:
        nodes.append(helper.make_node("Softmax", ["g"], ["p"], "softmax", axis=1))
        last = "p"
    for place, operator in enumerate(ending):
        nodes.append(_behind(operator, last, f"ending_{place}", weights))
        last = f"ending_{place}"
    if constant_nodes:
        constants = [
            helper.make_node("Constant", [], [name], f"const_{name}",
                             value=numpy_helper.from_array(value))
            for name, value in weights.items()
        ]  # fmt: skip
        nodes, weights = [*constants, *nodes], {}
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _behind(
    operator: str, source: str, name: str, weights: dict[str, np.ndarray]
) -> onnx.NodeProto:
    """A node that reads `source` and keeps the shape N x classes, its constants added to `weights`."""
    inputs, attributes = [source], {}
    if operator in ("Softmax", "LogSoftmax"):
        attributes = {"axis": -1}
    elif operator == "Cast":
        attributes = {"to": TensorProto.FLOAT}
    elif operator == "Reshape":
        weights[f"{name}_shape"] = np.array([0, -1], dtype=np.int64)
        inputs.append(f"{name}_shape")
    elif operator in ("Unsqueeze", "Squeeze"):
        weights[f"{name}_axes"] = np.array([2], dtype=np.int64)
        inputs.append(f"{name}_axes")
    return helper.make_node(operator, inputs, [name], name, **attributes)
