"""What the simulated engine inspector says, in the words of each version."""

from __future__ import annotations

import json
from typing import Any

from tests.engines.simulated.api import Closed, Library
from tests.engines.simulated.plan import FORMATS


class EngineInspector(Closed):
    _lib: Library

    def _open(self, engine: Any) -> None:
        self._engine = engine
        self._context: Any = None

    @property
    def execution_context(self) -> Any:
        return self._context

    @execution_context.setter
    def execution_context(self, context: Any) -> None:
        if context is not None:
            self._lib.check(context, "IExecutionContext")
        self._context = context

    def get_engine_information(self, format: Any) -> str:
        self._lib.check(format, "LayerInformationFormat")
        header = self._engine._header
        found = [_layer(self._lib, header, layer) for layer in header["layers"]]
        ends = [end["name"] for end in header["io"]]
        if header["verbosity"] in ("NONE",):
            found = []
        elif header["verbosity"] not in ("DETAILED", "VERBOSE"):
            found = [layer["Name"] for layer in found]
        if format.name == "ONELINE":
            return "\n".join(layer if isinstance(layer, str) else layer["Name"] for layer in found)
        newest = self._lib.rtx or self._lib.major >= 11
        return json.dumps(
            {"Layers": found, "I/O Tensors" if newest else "Bindings": ends}, indent=1
        )

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        self._lib.check(format, "LayerInformationFormat")
        header = self._engine._header
        return json.dumps(_layer(self._lib, header, header["layers"][layer_index]), indent=1)


def _layer(lib: Library, header: dict[str, Any], layer: dict[str, Any]) -> dict[str, Any]:
    old = lib.major == 8
    kind, parameter = layer["op"], layer["op"]
    if kind == "Conv":
        kind, parameter = "CaskConvolution", "Convolution"
    elif kind in ("Gemm", "MatMul"):
        kind, parameter = (
            ("CaskGemmConvolution", "Convolution") if old else ("gemm", "MatrixMultiply")
        )
    heavy = layer["op"] in ("Conv", "Gemm", "MatMul")

    def tensors(which: str) -> list[dict[str, Any]]:
        return [
            {
                "Name": name,
                "Location": "Device",
                "Dimensions": list(header["shapes"].get(name, ())),
                "Format/Datatype": FORMATS[dtype],
            }
            for name, dtype in layer[which]
        ]

    found = {
        "Name": lib.layer_name(layer["nodes"]),
        "LayerType": kind,
        "Inputs": tensors("inputs"),
        "Outputs": tensors("outputs"),
        "ParameterType": parameter,
        "TacticName": f"simulated_{layer['op'].lower()}" if heavy else "",
    }
    if lib.has("ILayer", "metadata"):
        found["Metadata"] = "\u001e".join(f"[ONNX Layer: {name}]" for name in layer["nodes"])
    return found
