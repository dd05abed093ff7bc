"""NVIDIA ModelOpt in a process of its own, started by `launch.py`.

It replaces parts of ONNX Runtime, prints, and imports torch: nothing of that is for the process of a
build. The request is a JSON file; what it measured is another; on the way it prints a line for every
photo. It ends when its stdin does, so also when its parent dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtkit.cpu import own_process
from trtkit.errors import ImageError
from trtkit.graph.quantize import KERNELS, SAME_RANGE
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

# Photos that are decoded ahead.
AHEAD = 8
# Whose inputs and outputs are measured: every value that some form of int8 hands on.
MEASURED = tuple(kind for kind in KERNELS if kind not in SAME_RANGE or kind == "MaxPool")


class Photos:
    """Photos as ModelOpt asks for them: one batch of one after the other, None at the end."""

    def __init__(
        self, paths: Sequence[Path], preprocessing: Preprocessing, name: str, *, tell: bool
    ) -> None:
        self._tell = tell
        self._paths = paths
        self._preprocessing = preprocessing
        self._name = name
        self.rewind()

    def rewind(self) -> None:
        """Begin again: some of ModelOpt's steps read a photo or two before the measuring begins."""
        self._images = self._read()
        self._given = 0

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._images, None)
        if image is None:
            return None
        self._given += 1
        if self._tell:
            sys.stdout.write(json.dumps({"done": self._given}) + "\n")
            sys.stdout.flush()
        return {self._name: image[None]}

    def get_first(self) -> dict[str, Array]:
        return {self._name: next(self._read())[None]}

    def _read(self) -> Iterator[Array]:
        def load(path: Path) -> Array | None:
            try:
                return load_image(read_file(path), self._preprocessing)
            except ImageError:
                # It could be read when the photos were chosen; one less is no harm.
                return None

        images = ordered_map(load, self._paths, workers=default_workers(), ahead=AHEAD)
        return (image for image in images if image is not None)


def main(request: str) -> None:
    """Measure what the JSON file `request` asks for; the answer goes beside it, into answer.json."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own_process()
    path = Path(request)
    answer = measure(json.loads(path.read_text()))
    path.with_name("answer.json").write_text(json.dumps(answer))


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """The largest magnitude of every measured tensor, and the inputs that NVIDIA wants quantized."""
    import modelopt
    import onnx

    graph = Path(request["model"])
    paths = [Path(path) for path in request["photos"]]
    preprocessing = Preprocessing.from_json(request["preprocessing"])
    photos = Photos(paths, preprocessing, request["image"], tell=True)
    out = graph.with_name("quantized.onnx")
    _quantize(graph, out, photos, request["method"], list(MEASURED), request["exclude"])
    ranges = _ranges(onnx.load(out))
    one = Photos(paths[:1], preprocessing, request["image"], tell=False)
    _quantize(graph, out, one, "max", None, request["exclude"])
    edges = _edges(onnx.load(out))
    return {"tool": f"nvidia-modelopt {modelopt.__version__}", "ranges": ranges, "edges": edges}


def _quantize(
    graph: Path,
    out: Path,
    photos: Photos,
    method: str,
    kinds: list[str] | None,
    exclude: Sequence[str],
) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(graph),
        quantize_mode="int8",
        calibration_data_reader=photos,
        calibration_method=method,
        calibration_eps=["cpu"],
        op_types_to_quantize=kinds,
        nodes_to_exclude=list(exclude),
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
        # For one photo at a time it is not worth it on a GPU, so the placement leaves it out; on the
        # processor it is.
        enable_gemv_detection_for_trt=kinds is None,
    )


def _ranges(model: onnx.ModelProto) -> dict[str, float]:
    """Of every activation with a pair the largest magnitude that its scale holds."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in model.graph.initializer}
    return {
        node.input[0]: 127 * float(numpy_helper.to_array(weights[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    }


def _edges(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Of every node the positions of the activations that come out of a pair."""
    weights = {weight.name for weight in model.graph.initializer}
    quantized = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    }
    pairs = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    }
    found = {
        node.name: [position for position, name in enumerate(node.input) if name in pairs]
        for node in model.graph.node
    }
    return {name: positions for name, positions in found.items() if positions}


def _end_with_parent() -> None:
    while os.read(0, 1 << 12):
        pass
    os._exit(1)
