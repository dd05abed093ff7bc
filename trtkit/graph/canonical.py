"""What a graph computes, as one hash; and where two graphs begin to differ.

The hash does not depend on the names of nodes and tensors, on the order of the nodes in the file or
on notes of the exporter: two models exported apart whose prefixes compute the same have one prefix.
"""

from __future__ import annotations

import json

import onnx
from blake3 import blake3
from onnx import numpy_helper

from trtkit.graph.values import ancestors, shape_of


def graph_digest(model: onnx.ModelProto) -> str:
    """BLAKE3 (hex) of the graph: every value's hash covers its operator, attributes and inputs."""
    graph = model.graph
    hashes = {value.name: _tensor_digest(value) for value in graph.initializer}
    for index, value in enumerate(graph.input):
        hashes.setdefault(value.name, _input_digest(index, value))
    for node in ancestors(graph, [value.name for value in graph.output]):
        content = blake3(_operator(node))
        for name in node.input:
            content.update(hashes[name] if name else b"absent")
        for index, name in enumerate(node.output):
            hashes[name] = content.copy().update(index.to_bytes(4, "little")).digest()
    whole = blake3(json.dumps(sorted((o.domain, o.version) for o in model.opset_import)).encode())
    for value in graph.output:
        whole.update(hashes[value.name])
        whole.update(value.type.SerializeToString(deterministic=True))
    return whole.hexdigest()


def first_difference(a: onnx.ModelProto, b: onnx.ModelProto) -> str | None:
    """The name in `a` of the first weight, or else the first node, that differs in `b`.

    None when the two compute the same. Both are walked in the order of their structure.
    """
    if graph_digest(a) == graph_digest(b):
        return None
    weights_a = {value.name: value for value in a.graph.initializer}
    weights_b = {value.name: value for value in b.graph.initializer}
    nodes_a = ancestors(a.graph, [value.name for value in a.graph.output])
    nodes_b = ancestors(b.graph, [value.name for value in b.graph.output])
    for a_node, b_node in zip(nodes_a, nodes_b, strict=False):
        if _operator(a_node) != _operator(b_node) or len(a_node.input) != len(b_node.input):
            return f"node {a_node.name or a_node.op_type}"
        for a_name, b_name in zip(a_node.input, b_node.input, strict=True):
            a_weight, b_weight = weights_a.get(a_name), weights_b.get(b_name)
            if (a_weight is None) != (b_weight is None):
                return f"node {a_node.name or a_node.op_type}"
            if a_weight is None or b_weight is None:
                continue
            if _tensor_digest(a_weight) != _tensor_digest(b_weight):
                return str(a_name)
    return "the number of nodes"


def _operator(node: onnx.NodeProto) -> bytes:
    parts = [node.domain, node.op_type]
    for attribute in sorted(node.attribute, key=lambda item: item.name):
        parts.append(attribute.name)
        if attribute.type == onnx.AttributeProto.TENSOR:
            parts.append(_tensor_digest(attribute.t).hex())
        else:
            parts.append(attribute.SerializeToString(deterministic=True).hex())
    return json.dumps(parts).encode()


def _tensor_digest(tensor: onnx.TensorProto) -> bytes:
    values = numpy_helper.to_array(tensor)
    content = blake3(json.dumps(["tensor", tensor.data_type, list(tensor.dims)]).encode())
    return content.update(memoryview(values.tobytes())).digest()


def _input_digest(index: int, value: onnx.ValueInfoProto) -> bytes:
    content = ["input", index, value.type.tensor_type.elem_type, shape_of(value)]
    return blake3(json.dumps(content).encode()).digest()
