"""The simulated network definition and ONNX parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from tests.engines.simulated.api import Closed, Library
from tests.engines.simulated.plan import DTYPES

LAYER_TYPES = {
    "Conv": "CONVOLUTION", "Gemm": "MATRIX_MULTIPLY", "MatMul": "MATRIX_MULTIPLY",
    "Relu": "ACTIVATION", "Clip": "ACTIVATION", "Sigmoid": "ACTIVATION",
    "HardSigmoid": "ACTIVATION", "Add": "ELEMENTWISE", "Sub": "ELEMENTWISE", "Mul": "ELEMENTWISE",
    "Div": "ELEMENTWISE", "Pow": "ELEMENTWISE", "Sum": "ELEMENTWISE", "MaxPool": "POOLING",
    "AveragePool": "POOLING", "GlobalAveragePool": "REDUCE", "ReduceMean": "REDUCE",
    "Flatten": "SHUFFLE", "Reshape": "SHUFFLE", "Transpose": "SHUFFLE", "Squeeze": "SHUFFLE",
    "Unsqueeze": "SHUFFLE", "Cast": "CAST", "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE", "BatchNormalization": "SCALE", "Softmax": "SOFTMAX",
    "Constant": "CONSTANT", "Identity": "IDENTITY", "Dropout": "IDENTITY",
    "Concat": "CONCATENATION", "Shape": "SHAPE", "Gather": "GATHER", "Pad": "SLICE",
    "Exp": "UNARY", "Sqrt": "UNARY", "Slice": "SLICE", "Resize": "RESIZE", "LRN": "LRN",
}  # fmt: skip
# Where a version lacks the layer type.
FALLBACKS = {"CAST": "IDENTITY"}
NEWEST_OPSET_OF_8 = 17


class Dims:
    """A shape: like a tuple in most ways, but not hashable."""

    MAX_DIMS = 8

    def __init__(self, sizes: Any = ()) -> None:
        self._sizes = tuple(int(size) for size in sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: Any) -> Any:
        return self._sizes[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, (tuple, list)):
            raise TypeError("__eq__(): incompatible function arguments")
        return self._sizes == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._sizes)


class ITensor(Closed):
    _lib: Library

    def _open(self, name: str, dtype: str, shape: tuple[int, ...], end: str | None) -> None:
        self._name, self._dtype, self._shape, self._end = name, dtype, shape, end
        self._formats = 1

    name = property(lambda self: self._name)
    shape = property(lambda self: self._lib.module.Dims(self._shape))
    is_network_input = property(lambda self: self._end == "INPUT")
    is_network_output = property(lambda self: self._end == "OUTPUT")
    is_shape_tensor = property(lambda self: False)
    is_execution_tensor = property(lambda self: True)
    location = property(lambda self: self._lib.module.TensorLocation.DEVICE)

    @property
    def dtype(self) -> Any:
        return getattr(self._lib.module.DataType, self._dtype)

    @dtype.setter
    def dtype(self, value: Any) -> None:
        if self._end is None or not self._lib.weakly_typed:
            self._lib.error(f"ITensor::setType: type of {self._name} cannot be set")
            return
        self._dtype = value.name

    @property
    def allowed_formats(self) -> int:
        return self._formats

    @allowed_formats.setter
    def allowed_formats(self, value: int) -> None:
        self._formats = int(value)


class ILayer(Closed):
    _lib: Library

    def _open(self, node: onnx.NodeProto, kind: str, ins: list[Any], outs: list[Any]) -> None:
        self._node, self._kind, self._inputs, self._outputs = node, kind, ins, outs
        self._name = node.name or f"(Unnamed Layer* {id(node)}) [{kind.title()}]"
        self._metadata = f"[ONNX Layer: {node.name}]"
        self._precision: str | None = None
        self._types: dict[int, Any] = {}

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    precision_is_set = property(lambda self: self._precision is not None)

    @property
    def type(self) -> Any:
        return getattr(self._lib.module.LayerType, self._kind)

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    @property
    def metadata(self) -> str:
        return self._metadata

    @metadata.setter
    def metadata(self, value: str) -> None:
        self._metadata = value

    @property
    def precision(self) -> Any:
        return getattr(self._lib.module.DataType, self._precision or "FLOAT")

    @precision.setter
    def precision(self, value: Any) -> None:
        self._precision = value.name

    def reset_precision(self) -> None:
        self._precision = None

    def get_input(self, index: int) -> Any:
        return self._inputs[index] if 0 <= index < len(self._inputs) else None

    def get_output(self, index: int) -> Any:
        return self._outputs[index] if 0 <= index < len(self._outputs) else None

    def get_output_type(self, index: int) -> Any:
        return self._types.get(index, self._outputs[index].dtype)

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._types[index] = dtype

    def output_type_is_set(self, index: int) -> bool:
        return index in self._types

    def reset_output_type(self, index: int) -> None:
        self._types.pop(index, None)


class INetworkDefinition(Closed):
    _lib: Library

    def _open(self, flags: int) -> None:
        self._flags = flags
        self._name = "Unnamed Network 0"
        self._model: onnx.ModelProto | None = None
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._layers: list[Any] = []
        self._tensors: dict[str, Any] = {}

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))
    flags = property(lambda self: self._flags)
    has_implicit_batch_dimension = property(lambda self: not self._explicit_batch())

    @property
    def name(self) -> str:
        return self._name

    @name.setter
    def name(self, value: str) -> None:
        self._name = value

    def get_input(self, index: int) -> Any:
        return self._at(self._inputs, index)

    def get_output(self, index: int) -> Any:
        return self._at(self._outputs, index)

    def get_layer(self, index: int) -> Any:
        return self._at(self._layers, index)

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def _at(self, values: list[Any], index: int) -> Any:
        if 0 <= index < len(values):
            return values[index]
        self._lib.error(f"Parameter check failed, condition: (0) <= ({index}) < {len(values)}")
        return None

    def _has_flag(self, name: str) -> bool:
        kind = self._lib.module.NetworkDefinitionCreationFlag
        return hasattr(kind, name) and bool(self._flags >> int(getattr(kind, name)) & 1)

    def _explicit_batch(self) -> bool:
        return self._lib.major > 8 or self._lib.rtx or self._has_flag("EXPLICIT_BATCH")

    def _strongly_typed(self) -> bool:
        return not self._lib.weakly_typed or self._has_flag("STRONGLY_TYPED")


class ParserError(Closed):
    def _open(self, code: Any, index: int, node: onnx.NodeProto | None, text: str) -> None:
        self._code, self._index, self._node, self._text = code, index, node, text

    def code(self) -> Any:
        return self._code

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._node.name if self._node is not None else ""

    def node_operator(self) -> str:
        return self._node.op_type if self._node is not None else ""

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "parseNode"

    def line(self) -> int:
        return 489


class OnnxParser:
    _lib: Library

    def __init__(self, network: Any, logger: Any) -> None:
        self._lib.check(network, "INetworkDefinition")
        self._lib.use_logger(logger)
        self._network, self._errors, self._flags = network, [], 0

    num_errors = property(lambda self: len(self._errors))
    flags = property(lambda self: self._flags)

    def get_error(self, index: int) -> Any:
        return self._errors[index] if 0 <= index < len(self._errors) else None

    def clear_errors(self) -> None:
        self._errors = []

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    def supports_operator(self, op_name: str) -> bool:
        return op_name in LAYER_TYPES

    def parse_from_file(self, model: str) -> bool:
        path = Path(model)
        if not path.is_file():
            return self._fail("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}")
        return self.parse(path.read_bytes())

    def parse(self, model: Any, path: str | None = None) -> bool:
        try:
            proto = onnx.load_from_string(bytes(model))
        except DecodeError:
            proto = onnx.ModelProto()
        if not proto.graph.node:
            return self._fail("MODEL_DESERIALIZE_FAILED", "Failed to parse ONNX model from memory")
        opset = max(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
        if self._lib.major == 8 and opset > NEWEST_OPSET_OF_8:
            text = f"ONNX opset {opset} is not supported; the newest is {NEWEST_OPSET_OF_8}"
            return self._fail("UNSUPPORTED_GRAPH", text)
        if not self._network._explicit_batch():
            text = "This version of the ONNX parser only supports TensorRT networks with an explicit batch"
            return self._fail("INVALID_GRAPH", text)
        weights = {weight.name for weight in proto.graph.initializer}
        bytes_in = {
            value.name
            for value in proto.graph.input
            if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
            and value.name not in weights
        }
        for index, node in enumerate(proto.graph.node):
            if node.op_type not in LAYER_TYPES or node.domain not in ("", "ai.onnx"):
                text = f"No importer registered for op: {node.op_type} ({node.name})"
                return self._fail("UNSUPPORTED_NODE", text, index, node)
            if node.op_type != "Cast" and bytes_in & set(node.input):
                text = (
                    f"Invalid Node - {node.name}\nITensor::getDimensions: Error Code 4: API Usage Error "
                    f"({node.name}: first input has type UInt8 but must have type Float, Half, Int8, "
                    "Int32, or Bool.)"
                )
                return self._fail("INVALID_NODE", text, index, node)
        self._import(onnx.shape_inference.infer_shapes(proto, data_prop=True), weights)
        return True

    def _fail(self, code: str, text: str, index: int = -1, node: Any = None) -> bool:
        code = getattr(self._lib.module.ErrorCode, code)
        self._errors.append(self._lib.make("ParserError", code, index, node, text))
        self._lib.error(text)
        return False

    def _import(self, proto: onnx.ModelProto, weights: set[str]) -> None:
        lib, network, graph = self._lib, self._network, proto.graph
        ends = {value.name: "INPUT" for value in graph.input}
        ends |= {value.name: "OUTPUT" for value in graph.output}
        constants = {w.name: (w.data_type, tuple(w.dims)) for w in graph.initializer}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            sizes = (d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            constants.setdefault(value.name, (kind.elem_type, tuple(sizes)))
        for node in graph.node:
            for name in node.output:
                constants.setdefault(name, (onnx.TensorProto.FLOAT, ()))
        for name, (kind, shape) in constants.items():
            dtype = DTYPES.get(kind, "FLOAT")
            if dtype == "INT64" and not lib.has("DataType", "INT64"):
                dtype = "INT32"
            network._tensors[name] = lib.make("ITensor", name, dtype, shape, ends.get(name))
        network._model, network._name = proto, graph.name
        network._inputs = [network._tensors[v.name] for v in graph.input if v.name not in weights]
        network._outputs = [network._tensors[v.name] for v in graph.output]
        for node in graph.node:
            kind = LAYER_TYPES[node.op_type]
            if lib.has("LayerType", node.op_type.upper()):
                kind = node.op_type.upper()
            if not lib.has("LayerType", kind):
                kind = FALLBACKS[kind]
            names = [name for name in node.input if name and name not in weights]
            ins = [network._tensors.get(name) for name in names]
            outs = [network._tensors.get(name) for name in node.output if name]
            network._layers.append(lib.make("ILayer", node, kind, ins, outs))
