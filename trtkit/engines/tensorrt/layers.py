"""Which precision the heavy layers really have: in the parsed network, and in the built engine."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trtkit.errors import TrtkitError, listed

UNKNOWN = "unknown"
WIDTH = {"int8": 1, "fp16": 2, "fp32": 4}
NETWORK_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "INT8": "int8"}
HEAVY_TYPES = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
HEAVY_ENGINE = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)
# Moving and casting data is no computation, whatever the layer is called after.
NOT_HEAVY = re.compile(r"reformat|noop|constant|shuffle|signal|wait|pooling", re.IGNORECASE)
# How the inspector words a type: long ("Channel major FP16 format where ..."), short ("Half") or in
# the name of the kernel. Collected from the inspector's output in NVIDIA/TensorRT issue 4020 and from
# the table of tools/experimental/trt-engine-explorer/trex/activations.py in the same repository.
WORDS = (
    ("int8", re.compile(r"\bint8\b|i8i8|\bimma|_imma_|igemm", re.IGNORECASE)),
    ("fp16", re.compile(r"\bfp16\b|\bhalf\b|f16f16|hmma|hgemm|h1688|h884|h16816", re.IGNORECASE)),
    ("fp32", re.compile(r"\bfp32\b|\bfloat\b|f32f32|sgemm|ffma", re.IGNORECASE)),
)


@dataclass(frozen=True)
class HeavyLayer:
    """A convolution or matrix product: its name and `fp32`, `fp16`, `int8` or `unknown`."""

    name: str
    precision: str


def network_layers(network: Any, trt: Any) -> list[tuple[int, HeavyLayer]]:
    """The heavy layers of a parsed network with their numbers.

    A layer is int8 when its input comes out of a dequantization, as TensorRT fuses the two.
    """
    heavy = {getattr(trt.LayerType, name, None) for name in HEAVY_TYPES} - {None}
    made_by: dict[str, Any] = {}
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            made_by[layer.get_output(output).name] = layer.type
        if layer.type not in heavy:
            continue
        value = layer.get_input(0)
        if made_by.get(value.name) == trt.LayerType.DEQUANTIZE:
            precision = "int8"
        else:
            precision = NETWORK_TYPES.get(value.dtype.name, "unknown")
        layers.append((index, HeavyLayer(layer.name, precision)))
    return layers


def engine_layers(information: str) -> list[HeavyLayer]:
    """The heavy layers in the inspector's JSON; `unknown` where it gives no precision."""
    layers = []
    for layer in json.loads(information).get("Layers", []):
        if not isinstance(layer, dict):
            continue
        kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
        if HEAVY_ENGINE.search(kind) and not NOT_HEAVY.search(str(layer.get("LayerType", ""))):
            layers.append(HeavyLayer(_source(layer), _precision(layer)))
    return layers


@dataclass(frozen=True)
class LayerSource:
    """A layer's type, as TensorRT names it, and its ONNX nodes."""

    kind: str
    nodes: tuple[str, ...]


def layer_sources(information: str) -> dict[str, LayerSource]:
    """Every layer in the inspector's JSON, by its name; the first one where names repeat."""
    sources: dict[str, LayerSource] = {}
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, dict):
            kind = str(layer.get("LayerType") or UNKNOWN)
            sources.setdefault(str(layer.get("Name", "")), LayerSource(kind, _nodes(layer)))
    return sources


def too_wide(
    layers: Iterable[HeavyLayer], precision: str, expected: Mapping[str, str]
) -> list[HeavyLayer]:
    """The layers that compute in more than they should.

    `expected`: the precision of each ONNX node. A fused layer may have the widest of its nodes' precisions;
    a layer without known nodes fp16 in an int8 engine, and `precision` in others.
    """
    default = "fp16" if precision == "int8" else precision
    wide = []
    for layer in layers:
        parts = {part.strip() for part in layer.name.split(" + ")}
        named = [expected[part] for part in parts & expected.keys()] or [default]
        if WIDTH.get(layer.precision, 0) > max(WIDTH[name] for name in named):
            wide.append(layer)
    return wide


def check_layers(
    layers: list[HeavyLayer], precision: str, expected: Mapping[str, str], where: str
) -> dict[str, int]:
    """How many heavy layers have each precision. Raises TrtkitError, listing them, when some are too wide.

    Where no layer is recognised, all expected ones count as `unknown`. `where`: the network or engine,
    for the message.
    """
    layers = layers or [HeavyLayer(name, "unknown") for name in expected]
    wide = too_wide(layers, precision, expected)
    counts = Counter(layer.precision for layer in layers)
    # A stage whose graph has no int8 layer needs none.
    wants = precision == "int8" and (not expected or "int8" in expected.values())
    if wants and not wide and layers and not counts["int8"] | counts["unknown"]:
        wide = layers
    if wide:
        names = listed(f"{layer.name} ({layer.precision})" for layer in wide)
        raise TrtkitError(
            f"{len(wide)} of {len(layers)} heavy layers of {where} are not {precision}: {names}; nothing "
            "was kept."
        )
    return {"heavy": len(layers), **{name: counts[name] for name in (*WIDTH, "unknown")}}


def _source(layer: dict[str, Any]) -> str:
    """The names of the ONNX nodes a layer was made from, joined by ` + `, else its own name."""
    return " + ".join(_nodes(layer)) or str(layer.get("Name", ""))


def _nodes(layer: dict[str, Any]) -> tuple[str, ...]:
    return tuple(re.findall(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]", str(layer.get("Metadata", ""))))


def _precision(layer: dict[str, Any]) -> str:
    """The most telling text first: weights, then the first input, then the kernel's name."""
    weights = layer.get("Weights")
    inputs = layer.get("Inputs") or [{}]
    texts = [weights.get("Type") if isinstance(weights, dict) else None]
    texts += [inputs[0].get(key) for key in ("Format/Datatype", "Datatype")]
    texts.append(layer.get("TacticName"))
    for text in texts:
        for precision, words in WORDS:
            if text and words.search(str(text)):
                return precision
    return "unknown"
