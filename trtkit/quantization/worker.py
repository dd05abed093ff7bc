"""NVIDIA ModelOpt in a process of its own.

It replaces parts of ONNX Runtime, prints, and imports torch, which must not happen in the process of a
build. The worker receives a request, sends `{"done": N}` after every photo, and then its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trtkit.cpu import own_process
from trtkit.errors import ImageError
from trtkit.graph.quantize import KERNELS, SAME_RANGE
from trtkit.photos.images import load_image, read_file
from trtkit.photos.prefetch import default_workers, ordered_map
from trtkit.preprocessing import Preprocessing
from trtkit.serialization import from_plain, to_plain
from trtkit.subprocesses import Parent
from trtkit.tensors import Array

if TYPE_CHECKING:
    import onnx

# Photos that are decoded ahead.
AHEAD = 8
# The operators whose inputs and outputs are measured: every value that some form of int8 passes on.
MEASURED = tuple(kind for kind in KERNELS if kind not in SAME_RANGE or kind == "MaxPool")


@dataclass(frozen=True)
class CalibrationRequest:
    """What to measure: the ONNX file `model`, whose input `image` takes the `photos`, one by one.

    `method`: `entropy` or `max`; `exclude`: names of nodes that stay float.
    """

    model: Path
    image: str
    photos: tuple[Path, ...]
    preprocessing: Preprocessing
    method: str
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class CalibrationAnswer:
    """The largest magnitude by tensor, and by node the positions of the inputs that NVIDIA quantizes."""

    tool: str
    ranges: dict[str, float]
    edges: dict[str, tuple[int, ...]]


class Photos:
    """A calibration data reader of ModelOpt: batches of one photo, None at the end.

    `report` is called with the number of photos so far.
    """

    def __init__(
        self, request: CalibrationRequest, count: int | None, report: Callable[[int], None]
    ) -> None:
        self._paths = request.photos[:count]
        self._preprocessing = request.preprocessing
        self._name = request.image
        self._report = report
        self.rewind()

    def rewind(self) -> None:
        """Begin again: some of ModelOpt's steps read a photo or two before the measuring begins."""
        self._images = self._read()
        self._count = 0

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._images, None)
        if image is None:
            return None
        self._count += 1
        self._report(self._count)
        return {self._name: image[None]}

    def get_first(self) -> dict[str, Array]:
        return {self._name: next(self._read())[None]}

    def _read(self) -> Iterator[Array]:
        def load(path: Path) -> Array | None:
            try:
                return load_image(read_file(path), self._preprocessing)
            except ImageError:
                # It was readable when it was chosen; the others are enough.
                return None

        images = ordered_map(load, self._paths, workers=default_workers(), ahead=AHEAD)
        return (image for image in images if image is not None)


def main() -> None:
    """Serve one request of the parent."""
    parent = Parent()
    own_process()
    request = parent.receive()
    if request is not None:
        answer = measure(
            from_plain(request, CalibrationRequest), lambda done: parent.send({"done": done})
        )
        parent.send(to_plain(answer))


def measure(request: CalibrationRequest, report: Callable[[int], None]) -> CalibrationAnswer:
    """The ranges, on all photos, and NVIDIA's choice of inputs, which needs only one."""
    import modelopt
    import onnx

    out = request.model.with_name("quantized.onnx")
    _quantize(request, out, Photos(request, None, report), request.method, list(MEASURED))
    ranges = _ranges(onnx.load(out))
    _quantize(request, out, Photos(request, 1, lambda done: None), "max", None)
    edges = _edges(onnx.load(out))
    return CalibrationAnswer(f"nvidia-modelopt {modelopt.__version__}", ranges, edges)


def _quantize(
    request: CalibrationRequest, out: Path, photos: Photos, method: str, kinds: list[str] | None
) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(request.model),
        quantize_mode="int8",
        calibration_data_reader=photos,
        calibration_method=method,
        calibration_eps=["cpu"],
        op_types_to_quantize=kinds,
        nodes_to_exclude=list(request.exclude),
        high_precision_dtype="fp32",
        output_path=str(out),
        log_level="ERROR",
        # Worth it on the processor, but not on a GPU for one photo at a time, so the placement leaves
        # it out.
        enable_gemv_detection_for_trt=kinds is None,
    )


def _ranges(model: onnx.ModelProto) -> dict[str, float]:
    """The largest magnitude that the scale of each quantized activation holds."""
    from onnx import numpy_helper

    weights = {weight.name: weight for weight in model.graph.initializer}
    return {
        node.input[0]: 127 * float(numpy_helper.to_array(weights[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in weights
    }


def _edges(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """By node, the positions of the inputs that are quantized activations."""
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
    edges = {
        node.name: tuple(position for position, name in enumerate(node.input) if name in pairs)
        for node in model.graph.node
    }
    return {name: positions for name, positions in edges.items() if positions}
