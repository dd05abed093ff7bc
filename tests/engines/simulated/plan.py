"""What a built engine is: a header and the ONNX model, and how its layers look to the inspector."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

MAGIC = b"simTRT\x00\x01"
HEAVY = ("Conv", "Gemm", "MatMul")
DTYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT8E4M3FN: "FP8",
}
NUMPY = {
    "FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "UINT8": np.uint8,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Channel major FP16 format where channel % 8 == 0",
    "INT8": "Thirty-two wide channel vectorized row major Int8 format",
    "UINT8": "Row major linear UInt8 format",
    "INT32": "Row major linear Int32 format",
    "INT64": "Row major linear Int64 format",
    "BOOL": "Row major linear Bool format",
    "BF16": "Row major linear BFloat16 format",
    "FP8": "Row major linear FP8 format",
}


class PlanError(Exception):
    """Bytes that are no whole plan."""


def pack(header: dict[str, Any], model: bytes) -> bytes:
    """The plan. Its checksum covers everything behind it."""
    text = json.dumps(header).encode()
    body = struct.pack("<I", len(text)) + text + model
    return MAGIC + hashlib.sha256(body).digest() + body


def unpack(plan: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and model. Raises PlanError for anything altered or cut short."""
    body = plan[len(MAGIC) + 32 :]
    if plan[: len(MAGIC)] != MAGIC:
        raise PlanError("magicTag == kENGINE_MAGIC_TAG failed")
    if hashlib.sha256(body).digest() != plan[len(MAGIC) : len(MAGIC) + 32]:
        raise PlanError("the checksum does not match")
    (length,) = struct.unpack_from("<I", body)
    return json.loads(body[4 : 4 + length]), body[4 + length :]


_sessions: dict[str, Any] = {}


def session(model: bytes, digest: str) -> Any:
    """The ONNX Runtime session of a model; the last few are kept."""
    if digest not in _sessions:
        while len(_sessions) > 7:
            del _sessions[next(iter(_sessions))]
        _sessions[digest] = _open(model)
    return _sessions[digest]


def _open(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # The same int8 products on every processor.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except ort_errors.Fail:
        # The code under test has given the process one pool for all sessions.
        options.use_per_session_threads = False
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def layers(
    graph: onnx.GraphProto, types: dict[str, str], compute: dict[str, str]
) -> list[dict[str, Any]]:
    """The engine's layers: heavy ones fused with what follows or dequantises, the rest one by one.

    `types`: tensors' types by name; `compute`: in what type each heavy node, by name, computes.
    """
    weights = {weight.name for weight in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    ends = {value.name for value in graph.output}
    fused: set[str] = set()
    made: dict[str, dict[str, Any]] = {}
    for node in graph.node:
        if node.op_type not in HEAVY or node.output[0] in fused:
            continue
        chain = [node]
        while chain[-1].output[0] not in ends:
            following = consumers.get(chain[-1].output[0], [])
            if len(following) != 1 or following[0].op_type not in (
                "Relu",
                "Clip",
                "QuantizeLinear",
            ):
                break
            chain.append(following[0])
            if following[0].op_type == "QuantizeLinear":
                break
        inputs = []
        for name in node.input:
            source = producers.get(name)
            if source is not None and source.op_type == "DequantizeLinear":
                fused.add(source.output[0])
                name = source.input[0]
                before = producers.get(name)
                if before is not None and before.op_type == "QuantizeLinear":
                    if before.input[0] not in weights:
                        inputs.append(name)
                    else:
                        fused.add(name)
                    continue
            if name and name not in weights:
                inputs.append(name)
        fused.update(link.output[0] for link in chain)
        kind = compute[node.output[0]]
        last = chain[-1].output[0]
        made[node.output[0]] = {
            "nodes": [link.name or link.output[0] for link in chain],
            "op": node.op_type,
            "inputs": [(name, kind) for name in inputs],
            "outputs": [(last, types[last] if types[last] == "INT8" else _wide(kind, types[last]))],
        }
    result = []
    for node in graph.node:
        if node.output[0] in made:
            result.append(made[node.output[0]])
        elif node.output[0] not in fused and node.op_type != "Constant":
            names = [name for name in node.input if name and name not in weights]
            result.append(
                {
                    "nodes": [node.name or node.output[0]],
                    "op": node.op_type,
                    "inputs": [(name, types[name]) for name in names],
                    "outputs": [(name, types[name]) for name in node.output if name],
                }
            )
    return result


def _wide(kind: str, declared: str) -> str:
    """What an Int8 layer writes when nothing quantises its output."""
    return declared if kind == "INT8" else kind
